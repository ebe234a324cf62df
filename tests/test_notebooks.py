"""What the committed notebooks promise: executed in order, compared by nbval, parameters with the right defaults."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import papermill
import pytest
from nbval.plugin import get_sanitize_patterns

from ebe_utils import EBEClassifier
from ebe_utils.study.domains import DOMAINS, own_parameters
from ebe_utils.study.notebooks import EXPERIMENT, notebook_paths
from ebe_utils.study.parameters import Parameters
from ebe_utils.study.step import NOTEBOOK_OF

PATHS = notebook_paths()
COMPARED = {"00_start_here": 10, "01_train": 4, "02_embeddings": 4, "03_attribution": 10, "04_layer_sweep": 11,
            "05_figures": 5, "06_scaling": 6, "07_claims": 11, "08_faithfulness": 9, "09_choosing": 7,
            "10_methods_compared": 21, "11_why_similar": 10,
            "12_text": 11, "13_time_series": 9, "14_transfer": 14,
            "15_conditions": 5, "16_the_networks_reason": 6, "17_stability_and_outsiders": 7,
            "18_retraining": 6}  # at least so many cells whose output nbval compares


def has_data_of_its_own(path):
    return any(NOTEBOOK_OF[word].endswith(path.name) for word in DOMAINS)


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def tags(cell):
    return cell["metadata"].get("tags", [])


def says_something(output):
    """Whether nbval has something to compare: not an image, of which only the size is."""
    if output["output_type"] == "stream":
        return True
    data = {kind: "".join(text) for kind, text in output["data"].items() if kind != "image/png"}
    return not data.pop("text/plain", "<Figure").startswith("<Figure") or bool(data)


def is_import(statement):
    return isinstance(statement, ast.Import | ast.ImportFrom)


def reading_lines(cell):
    """Lines of a cell but for its imports."""
    source = "".join(cell["source"])
    imports = sum(s.end_lineno - s.lineno + 1 for s in ast.parse(source).body if is_import(s))
    return len(source.splitlines()) - imports


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
        compared = [c for c in cells if any(map(says_something, c["outputs"])) and "nbval-ignore-output" not in tags(c)]
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
            if not has_data_of_its_own(path) or name in ("seed", "k", "k_max", "device"):
                own = name in ("start_epochs", "few", "candidates", "refits", "stop")
                assert own or value == getattr(Parameters, name), name
            else:  # of a notebook with data of its own: see `own_parameters`
                assert value != getattr(Parameters, name, None), name

    def test_reads_like_a_chapter(self, path):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        heads = [line for text in prose for line in text.splitlines() if line.startswith("# ")]
        assert len(heads) == 1
        assert heads[0].endswith("?")
        for part in ("**You will learn**", "**Input:**", "**Output:**", "**Time:**"):
            assert part in prose[0]
        parts = re.findall(r"^## (.+)$", "\n".join(prose), re.MULTILINE)
        assert [part for part in parts if part != "References"][-2:] == ["Recap", "Exercises"]
        assert max(reading_lines(c) for c in code_cells(path)) <= 18

    def test_imports_are_in_the_first_cell_in_order(self, path):
        first, *others = ["".join(c["source"]) for c in code_cells(path)]
        assert not [s for source in others for s in ast.parse(source).body if is_import(s)]
        groups = []  # modules: standard library, third party, ebe_utils
        for block in first.split("\n\n"):
            imports = [s for s in ast.parse(block).body if is_import(s)]
            groups.append([(isinstance(s, ast.ImportFrom), s.module if isinstance(s, ast.ImportFrom)
                            else s.names[0].name) for s in imports])
        groups = [group for group in groups if group]
        assert groups == [sorted(set(group)) for group in groups]
        assert [module.startswith("ebe_utils") for group in groups for _, module in group] == [
            group is groups[-1] for group in groups for _ in group]

    def test_no_variable_hides_an_import(self, path):
        trees = [ast.parse("".join(c["source"])) for c in code_cells(path)]
        nodes = [node for tree in trees for node in ast.walk(tree)]
        imported = Counter((name.asname or name.name).split(".")[0] for node in nodes if is_import(node)
                           for name in node.names)
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        assert max(imported.values()) == 1
        assert not bound & set(imported)

    def test_carries_nothing_of_the_machine(self, path):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"papermill"\s*:|object at 0x|/(tmp|home|root|Users)/', text)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_notebook_takes_only_what_is_meant_for_it(path):
    """Of a run of other images, every notebook takes seed and k, and one with data of its own no data set."""
    given = {"dataset": "mnist", "profile": "paper", "seed": 3, "k": 5, "stem": "cifar"}
    known = papermill.inspect_notebook(path)
    taken = own_parameters(known, given)
    assert taken.items() <= given.items()
    if has_data_of_its_own(path):
        assert taken == {"seed": 3, "k": 5}
        assert set(DOMAINS.values()) & {ast.literal_eval(known["dataset"]["default"])}
    else:
        assert taken == {name: value for name, value in given.items() if name in known}


def test_every_run_parameter_is_asked_for_by_a_notebook():
    asked = {re.match(r"\w+", line)[0] for path in PATHS for c in code_cells(path) if "parameters" in tags(c)
             for line in "".join(c["source"]).splitlines()}
    assert set(vars(Parameters())) <= asked


# --- what the comparison leaves out --------------------------------------------------------------------------------

HTML = (
    '<iframe title="Which training examples vote?" style="width:100%" srcdoc="&lt;html&gt;U1BS"></iframe>'
    '<p class="ebe-summary">Layer 14 (layer3.1.conv1). EBE predicts 1 (60% of the weight), the network 1: the same.</p>'
    '<p>The image explained: <img class="ebe-image" width="56" alt="test image" src="data:image/png;base64,QUJD"></p>'
    '<table class="ebe-explanation"><thead><tr><th>rank</th><th>example</th><th>cosine distance</th></tr></thead>'
    '<tbody><tr><td>1</td><td><img class="ebe-image" src="data:image/png;base64,REVG"></td><td>0.0360</td></tr></tbody>'
    '</table><p>All examples are training images.</p><table><thead><tr><th>layer</th><th>dimension</th></tr></thead>'
    '<tbody><tr><td>14</td><td><span class="measured">43,008</span></td></tr></tbody></table>')


@pytest.fixture(scope="module")
def sanitize():
    patterns = get_sanitize_patterns((Path(__file__).parent / "nbval_sanitize.cfg").read_text(encoding="utf-8"))

    def sanitized(text):
        for regex, replace in patterns:
            text = re.sub(regex, replace, text)
        return text

    return sanitized


@pytest.mark.parametrize(("now", "then"), [
    ("EBE predicts 1 (60% of the weight)", "EBE predicts 7 (70% of the weight)"), ("the same", "another class"),
    ("QUJD", "QUJE"), ("REVG", "REVH"), ("U1BS", "U1BT"), ("0.0360", "0.0361"), ("43,008", "43,009")])
def test_a_measured_value_is_not_compared(now, then, sanitize):
    assert now in HTML
    assert sanitize(HTML) == sanitize(HTML.replace(now, then))


@pytest.mark.parametrize(("now", "then"), [
    ("Which training examples", "Which test examples"), ("<iframe", "<embed"),
    ("Layer 14", "Layer 15"), ("layer3.1.conv1", "layer3.1.conv2"), ("cosine distance", "euclidean distance"),
    ("<th>example</th>", ""), ("image explained", "image"), ("All examples", "No examples"),
    ("<td>14</td>", "<td>15</td>"), ("<th>dimension</th>", "<th>size</th>"),
    ("PASS W sums to 1.0000 ≥ 1", "PASS W sums to 1.0000 ≥ 0"),
    ("[train] running", "[sweep] running")])
def test_what_is_measured_is_compared(now, then, sanitize):
    whole = HTML + "\n[train] running\nPASS W sums to 1.0000 ≥ 1\n"
    assert now in whole
    assert sanitize(whole) != sanitize(whole.replace(now, then))


def test_two_explanations_are_compared_by_layer_and_metric(trained, small, sanitize):
    def shown(position, layer=14, metric="cosine", k=3):
        explanation = EBEClassifier(trained, layer, k, metric).fit(small[0]).explain(small[1].images[position])
        return explanation._repr_html_(), sanitize(explanation._repr_html_() + repr(explanation))

    (raw, one), (other_raw, other) = shown(0), shown(1)
    assert raw != other_raw
    assert one == other
    for changed in ({"layer": 15}, {"metric": "euclidean"}, {"k": 4}):
        assert shown(0, **changed)[1] != one


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_code_cells_can_be_read_at_a_glance(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [len("".join(cell["source"]).splitlines()) for cell in cells if cell["cell_type"] == "code"]
    assert max(lines) <= 25
