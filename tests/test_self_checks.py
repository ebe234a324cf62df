"""Every self-check of the notebooks, both ways: the solution passes, a typical wrong answer fails with its hint.

The notebooks' own code is carried out in this process, over the run that the sequence has left.
"""

import dis
import inspect
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


def names_in(code):
    """(names that a cell binds, names of other cells that it reads); what it changes in place is read."""
    bound, read, inside = set(), set(), []
    for one in dis.get_instructions(compile(code, "cell", "exec")):
        if one.opname == "STORE_NAME":
            bound.add(one.argval)
        elif one.opname == "LOAD_NAME" and one.argval not in bound:
            read.add(one.argval)
        inside += [one.argval] if inspect.iscode(one.argval) else []
    while inside:  # functions, comprehensions, and those in them
        function = inside.pop()
        read |= {one.argval for one in dis.get_instructions(function) if one.opname == "LOAD_GLOBAL"} - bound
        inside += [constant for constant in function.co_consts if inspect.iscode(constant)]
    return bound, read


def needed(cells, roots, wanted):
    """Positions of the code cells that bind what those at `roots` read, and so on, and the names `wanted`.

    The others only take time. One that is left out wrongly is noticed: a name is missing then, and a solution fails.
    """
    kept, wanted = set(), {*wanted}
    for at in reversed(range(len(cells))):
        if cells[at]["cell_type"] == "code":
            bound, read = names_in("".join(cells[at]["source"]))
            if at in roots or bound & wanted or "parameters" in cells[at]["metadata"].get("tags", ()):
                kept.add(at)
                wanted = wanted - bound | read
    return kept


def both_ways(path, wrong):
    """Carry out a notebook; at each self-check, also with the wrong answers. Returns how many of them failed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    asked = [one for one in exercises({"cells": cells}) if one.checks]
    last = {one.checks[-1]: one for one in asked}
    read = set().union(*(names_in(one["answer"])[1] for answers in wrong.values() for one in answers))
    kept = needed(cells, {at for one in asked for at in (*one.solutions, *one.checks)}, read)
    names, failed = {"__name__": path.stem}, 0
    for at, cell in enumerate(cells):
        if at not in kept:
            continue
        exec(compile("".join(cell["source"]), f"{path.stem}, cell {at}", "exec"), names)  # the solution passes
        plt.close("all")
        if at in last:
            checks = "\n".join("".join(cells[position]["source"]) for position in last[at].checks)
            for one in wrong[last[at].number]:
                trial = dict(names)
                exec(one["answer"], trial)
                with pytest.raises(AssertionError, match="FAIL exercise") as error:
                    exec(checks, trial)
                hint = str(error.value).split("\nHint: ", 1)[1]
                assert re.search(re.escape(one["hint"]), hint), (last[at].number, hint)
                failed += 1
    return failed


@pytest.mark.parametrize("name", WRONG)
def test_the_solution_passes_and_a_wrong_answer_fails_with_its_hint(name, notebook_done, monkeypatch, one_thread,
                                                                    capsys):
    notebook_done(name)
    monkeypatch.chdir(PATHS[name].parent)
    assert both_ways(PATHS[name], WRONG[name]) == sum(map(len, WRONG[name].values()))
