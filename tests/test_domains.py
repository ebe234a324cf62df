"""Runs of notebooks with data of their own, and what they take of the sequence's parameters."""

import pytest

from ebe_utils.study.domains import DomainRun, own_parameters
from ebe_utils.study.step import RunError

DATA = {"train": "a" * 64, "test": "b" * 64}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def done(run, **settings):
    """Whether the step "text" is skipped; it is done if not."""
    step = run.step("text", settings=settings)
    if step.todo:
        with step:
            step.path("table.csv").write_text("k\n1\n")
    return not step.todo


def test_a_step_is_skipped_for_the_same_data_and_settings_only(folder, capsys):
    run = DomainRun("text", "trec", 2, DATA, "cpu")
    assert run.path == folder / "text-trec-seed2"
    assert [done(run, k=1), done(run, k=1), done(run, k=2)] == [False, True, False]
    assert done(DomainRun("text", "trec", 2, DATA, "cpu"), k=2)
    assert not done(DomainRun("text", "trec", 2, DATA | {"test": "c" * 64}, "cpu"), k=2)
    assert "the data set has changed" in capsys.readouterr().out.splitlines()[-1]
    assert not done(DomainRun("text", "trec", 3, DATA, "cpu"), k=2)


def test_a_missing_step_names_notebook_and_command():
    run = DomainRun("text", "docstrings", 0, DATA)
    with pytest.raises(RunError, match="run notebooks/12_text.ipynb first") as error:
        run.file("text-train", "model.safetensors")
    assert str(error.value).endswith("python -m ebe_utils run --only 12")


def test_a_folder_that_cannot_be_written_is_refused(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file in its place")
    with pytest.raises(RunError, match="cannot be written"):
        DomainRun("text", "docstrings", 0, DATA)


def test_a_notebook_takes_what_it_has_with_the_same_default():
    known = {"dataset": {"default": "'docstrings'"}, "seed": {"default": "0"}, "k": {"default": "10"},
             "pooling": {"default": "'none'"}, "epochs": {"default": "6"}}
    given = {"dataset": "mnist", "seed": 4, "k": 10, "pooling": "avg", "epochs": 2, "stem": "cifar"}
    assert own_parameters(known, given) == {"seed": 4, "k": 10, "pooling": "avg"}
