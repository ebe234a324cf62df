"""What the committed notebooks promise: executed in order, compared by nbval, parameters with the right defaults."""

import ast
import json
import re

import pytest

from ebe_utils.study.notebooks import EXPERIMENT, notebook_paths
from ebe_utils.study.parameters import Parameters

PATHS = notebook_paths()
COMPARED = {"00_start_here": 6, "01_train": 5, "02_embeddings": 6, "03_attribution": 6, "04_layer_sweep": 5,
            "05_figures": 7, "06_scaling": 6, "07_claims": 7, "08_evaluation": 7, "09_choosing": 6,
            "10_methods_compared": 12, "11_why_similar": 7}  # at least so many cells whose output nbval compares


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_the_sequence_is_there():
    assert [p.stem for p in PATHS] == list(COMPARED)
    assert [p.stem[:2] for p in PATHS if p.stem <= "05_figures"] == list(EXPERIMENT)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
class TestNotebook:
    def test_was_executed_in_order_without_error(self, path):
        cells = code_cells(path)
        assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
        assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
        assert "stderr" not in {o.get("name") for c in cells for o in c["outputs"]}

    def test_enough_is_compared(self, path):
        cells = code_cells(path)
        compared = [c for c in cells if c["outputs"] and "nbval-ignore-output" not in tags(c)]
        assert len(compared) >= COMPARED[path.stem]
        assert sum("nbval-ignore-output" in tags(c) for c in cells) <= 1
        assert any("PASS" in json.dumps(c["outputs"]) for c in compared)

    def test_parameters_are_commented_literals_with_the_defaults_of_a_run(self, path):
        cell, = [c for c in code_cells(path) if "parameters" in tags(c)]
        lines = "".join(cell["source"]).splitlines()
        for line in lines:
            name, literal = re.fullmatch(r"(\w+) = (.+?)  # \S.*", line).groups()
            value = ast.literal_eval(literal)
            assert isinstance(value, int | float | str | bool)
            if name != "start_epochs":
                assert value == getattr(Parameters, name), name

    def test_reads_like_a_chapter(self, path):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        heads = [line for text in prose for line in text.splitlines() if line.startswith("# ")]
        assert len(heads) == 1
        assert heads[0].endswith("?")
        for part in ("**You will learn**", "**Input:**", "**Output:**", "**Time:**"):
            assert part in prose[0]
        for part in ("## Recap", "## Exercises"):
            assert part in prose[-1]
        assert max(len("".join(c["source"]).splitlines()) for c in code_cells(path)) <= 18

    def test_carries_nothing_of_the_machine(self, path):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"papermill"\s*:|object at 0x|/(tmp|home|root|Users)/', text)


def test_every_run_parameter_is_asked_for_by_a_notebook():
    asked = {re.match(r"\w+", line)[0] for path in PATHS for c in code_cells(path) if "parameters" in tags(c)
             for line in "".join(c["source"]).splitlines()}
    assert set(vars(Parameters())) <= asked
