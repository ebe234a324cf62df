"""Every self-check of the notebooks, both ways: the solution passes, a typical wrong answer fails with its hint.

The notebooks' own code is carried out in this process, over the run that the sequence has left.
"""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml

from ebe_utils.study.notebooks import notebook_paths
from ebe_utils.upkeep.course import exercises

WRONG = yaml.safe_load((Path(__file__).parent / "wrong_answers.yaml").read_text(encoding="utf-8"))
PATHS = {path.stem: path for path in notebook_paths()}


def both_ways(path, wrong):
    """Carry out a notebook; at each self-check, also with the wrong answers. Returns how many of them failed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    last = {one.checks[-1]: one for one in exercises({"cells": cells}) if one.checks}
    names, failed = {"__name__": path.stem}, 0
    for at, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), f"{path.stem}, cell {at}", "exec"), names)  # the solution passes
        plt.close("all")
        if at in last:
            asked = "\n".join("".join(cells[position]["source"]) for position in last[at].checks)
            for one in wrong[last[at].number]:
                trial = dict(names)
                exec(one["answer"], trial)
                with pytest.raises(AssertionError, match="FAIL exercise") as error:
                    exec(asked, trial)
                hint = str(error.value).split("\nHint: ", 1)[1]
                assert re.search(re.escape(one["hint"]), hint), (last[at].number, hint)
                failed += 1
    return failed


@pytest.mark.parametrize("name", WRONG)
def test_the_solution_passes_and_a_wrong_answer_fails_with_its_hint(name, sequence, monkeypatch, one_thread, capsys):
    monkeypatch.chdir(PATHS[name].parent)
    assert both_ways(PATHS[name], WRONG[name]) == sum(map(len, WRONG[name].values()))
