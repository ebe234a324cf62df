"""The short form of the trial (docs/trial.md), and that it notices what is wrong."""

from dataclasses import replace

import pytest

from ebe_utils import EBEClassifier
from ebe_utils.search import Index
from ebe_utils.upkeep import trial, trial_flips
from ebe_utils.upkeep.trial_disk import full, read_only
from ebe_utils.upkeep.trial_flips import CAUGHT, HARMLESS, REFUSED, flipped
from ebe_utils.upkeep.trial_inputs import INPUTS, refused
from ebe_utils.upkeep.trial_kills import killed, together
from ebe_utils.upkeep.trial_search import searched

SIZES = trial.SHORT


def test_a_killed_run_resumes_with_the_same_bits(tmp_path):
    found = killed(SIZES.kills, SIZES.seed, tmp_path)
    assert [wrong for _, wrong in found] == [""] * SIZES.kills


def test_two_processes_leave_something_whole(tmp_path):
    assert together(1, tmp_path) == ["", ""]


def test_a_turned_bit_is_noticed_or_harmless(tmp_path):
    found = flipped(SIZES.flips, SIZES.seed, tmp_path)
    assert not [(file, wrong) for file, _, wrong in found if wrong]
    assert {outcome for _, outcome, _ in found} <= {CAUGHT, REFUSED, HARMLESS}
    files = {file.rsplit("/", 1)[1] for file, _, _ in found}
    assert {".state.safetensors", "model.safetensors", "neighbors.safetensors", "sweep.csv", "manifest.json",
            "parameters.json", "classifier.json", "arrays.safetensors", "embeddings.safetensors"} <= files


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path):
    found = full(SIZES.disks, tmp_path)
    assert [wrong for _, wrong in found] == [""] * (SIZES.disks + 1)
    assert sum(outcome.startswith("refused") for outcome, _ in found) >= 3


def test_a_full_disk_where_none_may_be_mounted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = full(3, tmp_path)
    assert [outcome for outcome, _ in found] == ["refused (writes that fail)"] * 4 and not any(w for _, w in found)


def test_what_is_read_only_is_read(tmp_path):
    assert not any(read_only(tmp_path)[1])


def test_searches_of_the_worst_rows():
    found = searched(SIZES.searches, 1)
    assert len(found) == SIZES.searches and not [wrong for _, wrong in found if wrong]


def test_there_are_bad_inputs_enough():
    """Each is tried in test_bad_input.py."""
    assert len({call for call, _, _ in INPUTS}) == len(INPUTS) >= 150


# --- that the trial can fail ---


def test_a_damage_that_nobody_checks_is_found(tmp_path, monkeypatch):
    """Without checksums, some bits of a classifier's embeddings change its answers in silence."""
    load = EBEClassifier.load
    monkeypatch.setattr(trial_flips.EBEClassifier, "load", lambda *given, verify: load(*given))
    found = [(file, wrong) for file, _, wrong in flipped(60, 0, tmp_path) if wrong]
    assert found and {file for file, _ in found} <= {"saved/embeddings.safetensors", "saved/examples.safetensors"}


def test_a_search_that_is_wrong_is_found(monkeypatch):
    right = Index.kneighbors
    monkeypatch.setattr(Index, "kneighbors", lambda self, *given: tuple(part[:, ::-1] for part in right(self, *given)))
    assert any(wrong for _, wrong in searched(10, 0))


@pytest.mark.parametrize("row, words", [
    (("load_dataset('digits', n_train=20)", ValueError, "."), "nothing was refused"),
    (("load_dataset('digits', seed=-1)", TypeError, "."), "ValueError in place of TypeError"),
    (("load_dataset('digits', seed=-1)", ValueError, "colour"), "seed=-1")])
def test_an_error_that_is_another_one_is_found(row, words):
    assert words in refused(row)


def test_the_page_gets_both_tables_and_the_wrong_cases_are_counted(tmp_path, monkeypatch, capsys):
    parts = [trial.Part("kills", 3, {"in the training": 3}, ["other results"]), trial.Part("flips", 2, {"harmless": 2})]
    monkeypatch.setattr(trial, "trial", lambda sizes, say: parts)
    page = tmp_path / "trial.md"
    page.write_text(trial.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert trial.report(replace(SIZES, kills=3), page) == 1
    assert "kills: other results\n1 of 5 cases went wrong" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "| kills | 3 | 2 | 3 in the training |" in text
    assert all(f"`{call}`".replace("|", "\\|") in text for call, _, _ in INPUTS)


def test_the_committed_page_shows_what_is_tried():
    text = trial.PAGE.read_text(encoding="utf-8")
    assert sum(text.count(f"| {error} |") for error in ("ValueError", "TypeError", "FileNotFoundError")) == len(INPUTS)
    rows = [line.split(" | ") for line in text.split("<!-- trial -->")[1].splitlines()[3:10]]
    assert len(rows) == 7 and all(row[1] == row[2] for row in rows), "cases and right ones"


def test_the_same_seed_draws_the_same_cases():
    assert searched(5, 3) == searched(5, 3)
