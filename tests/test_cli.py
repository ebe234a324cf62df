"""The command line: what make passes on, what it says without the extra, which notebooks it chooses."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest

from ebe_utils.study.cli import EXTRA, from_make, main, parser, words
from ebe_utils.study.notebooks import chosen_notebooks, run_notebooks
from ebe_utils.study.parameters import Parameters
from ebe_utils.upkeep.publishing import CHECKOUT

NASTY = ["x;id", "a&b", "a b", "a  b", "it's", '"', "$(id)", "`id`", "$HOME", "a\\b", "a\\ b", "|", ">x", "*", "~",
         "#x", "$$", "!!", "a=b", "(x)", "{a,b}", "", "'$(touch hit)'"]


@pytest.fixture
def checkout(tmp_path):
    """The Makefile with a virtual environment that is up to date and whose Python writes down its words."""
    (tmp_path / "Makefile").write_text((CHECKOUT / "Makefile").read_text())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('words.json', 'w'))\n")
    python.chmod(0o755)
    return tmp_path


def make(checkout, *words):
    import json

    before = {*os.listdir(checkout), "words.json"}
    subprocess.run(["make", *words], cwd=checkout, check=True, capture_output=True, text=True)
    assert {*os.listdir(checkout)} == before, "a value was carried out as a command"
    return json.loads((checkout / "words.json").read_text())


@pytest.mark.parametrize("value", NASTY)
def test_values_given_to_make_arrive_as_they_are(value, checkout):
    found = make(checkout, "run", f"DATASET={value}", "PYTHON=python3.12", "SEED=1")
    assert found[:3] == ["-m", "ebe_utils", "run"]
    options = vars(parser().parse_args(words(found[2:])))
    assert (options["dataset"], options["seed"]) == (value, 1)
    found = make(checkout, "bench", f"DATASET={value}")
    assert found[:2] == ["-m", "ebe_utils.upkeep.benchmark"] and words(found[2:]) == [f"--dataset={value}"]


@pytest.mark.parametrize("value", [value for value in NASTY if "$" not in value and value != ""])
def test_names_of_runs_given_to_make_arrive_as_they_are(value, checkout):
    assert make(checkout, "reference", f"RUNS={value}") == ["-m", "ebe_utils.upkeep", "reference", value]


def test_make_without_values(checkout):
    assert words(make(checkout, "run")[2:]) == ["run"]
    assert make(checkout, "reference") == ["-m", "ebe_utils.upkeep", "reference"]


def test_what_make_hands_over_by_hand():
    assert from_make(r"ONLY=06\ 07 RUN=x\\y PYTHON=p K=1$$") == ["ONLY=06 07", r"RUN=x\y", "K=1$"]
    assert words(["run", "--make", r"A_B=1 ONLY=06\ 07", "--seed", "2"]) == ["run", "--a-b=1", "--only=06 07", "--seed",
                                                                            "2"]


def test_every_parameter_has_a_help_text_that_the_command_shows(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields(Parameters):
        assert field.metadata["help"]
        text = f"{field.metadata['help']} (default: {field.default!r})"
        assert f"--{field.name.replace('_', '-')} {field.name.upper()} {text}" in shown


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "papermill" else find(name))
    assert main(["run"]) == 1
    assert capsys.readouterr().err == ("error: notebooks cannot be run without papermill; install them with\n"
                                       "  pip install 'ebe-utils[notebooks]'\n")
    assert {"papermill", "nbconvert"} <= {*EXTRA}


@pytest.mark.parametrize("only, stems", [
    ("06", ["06_scaling"]), (["06"], ["06_scaling"]), ("06 07", ["06_scaling", "07_claims"]),
    (("07", "06_sc"), ["06_scaling", "07_claims"]), (["04_layer_sweep"], ["04_layer_sweep"])])
def test_notebooks_are_chosen_by_a_text_or_a_list(only, stems):
    assert [path.stem for path in chosen_notebooks(only)] == stems
    assert chosen_notebooks("all") == chosen_notebooks(["06", "all"]) and len(chosen_notebooks("all")) > 11


@pytest.mark.parametrize("only, named", [("0", "0"), ("6", "6"), (["06", "77"], "77"), ("", "nothing"), ([], "nothing"),
                                         (["77", "x"], "77, x")])
def test_notebooks_that_are_not_there_are_refused(only, named, tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    with pytest.raises(ValueError, match=f"no notebook begins with {named}; there are all, 00_start_here"):
        run_notebooks(Parameters(), only)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given, message", [(["--k", "51"], "k_max=50"), (["--device", "gpu"], "device='gpu'"),
                                            (["--seed", str(2**32)], "seed=4294967296 is out of range")])
def test_what_cannot_work_is_refused_before_any_work(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    assert main(["run", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
