"""The whole sequence, run by papermill on the default parameters; nbval then compares over the same run folder.

The sequence is started by conftest.py, as `python -m ebe_utils run --only all`, when the tests start.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from ebe_utils import embed
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.paths import runs_root
from ebe_utils.study.cli import main
from ebe_utils.study.domains import DOMAINS
from ebe_utils.study.notebooks import EXPERIMENT, notebook_paths, run_notebooks, summary
from ebe_utils.study.parameters import Parameters
from ebe_utils.study.run import Run
from ebe_utils.study.step import RunError, changed_output, read_manifest
from ebe_utils.upkeep.publishing import CHECKOUT, clean

STEPS = ("train", "embeddings", "attribution", "sweep", "figures", "taps", "claims", "faithfulness",
         "choosing", "choosing-gains", "methods", "similarity", "stability", "retraining")


@pytest.fixture(scope="module")
def run(sequence):
    return Run.open()


def test_the_command_line_names_every_notebook_and_sums_up(run, sequence):
    assert re.findall(r"^(\w+) +\d+ s$", sequence, re.MULTILINE) == [path.stem for path in notebook_paths()]
    assert sequence.endswith(f"\n{summary(run)}\n")


def test_every_notebook_leaves_an_executed_copy_and_html(run):
    for path in notebook_paths():
        executed = json.loads((run.path / "notebooks" / path.name).read_text(encoding="utf-8"))
        code = [c for c in executed["cells"] if c["cell_type"] == "code"]
        assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
        html = (run.path / "notebooks" / path.with_suffix(".html").name).read_text(encoding="utf-8")
        assert "<h1" in html
        assert ("data:image/png" in html) == any("image/png" in o.get("data", {}) for c in code for o in c["outputs"])


def test_every_step_leaves_a_manifest(run):
    for step in STEPS:
        manifest = run.manifest(step)
        assert manifest["step"] == step
        assert {"settings", "inputs", "outputs", "seconds", "peak_memory_MiB", "device", "processor",
                "versions"} <= set(manifest)
        assert manifest["outputs"]
    assert not list(run.path.rglob("*.part*"))


def test_no_step_has_read_what_was_made_anew_after_it(run):
    """Otherwise the next time that the notebooks are run does it again."""
    stale, read = [], 0
    for file in run.path.glob("*/manifest.json"):
        inputs = json.loads(file.read_text(encoding="utf-8"))["inputs"]
        if "test" not in inputs:  # else "train" and "test" are data sets
            now = {other: run.digest(other) for other in inputs}
            stale += [(file.parent.name, other) for other in inputs if now[other] not in (None, inputs[other])]
            read += sum(digest is not None for digest in now.values())
    assert not stale
    assert read > 20


@pytest.mark.parametrize(("word", "dataset"), DOMAINS.items())
def test_notebooks_with_data_of_their_own_leave_a_run_of_their_own(word, dataset, sequence):
    folder = runs_root() / f"{word}-{dataset}-seed0"
    for step in (f"{word}-train", word):
        manifest = read_manifest(folder / step / "manifest.json")
        assert manifest["outputs"]
        assert changed_output(folder / step, manifest) is None
        assert set(manifest["data"]) == {"train", "test"}


def test_figures_are_saved_with_their_numbers(run):
    names = {"figure1_structure", "figure2_neighbors", "figure3_layers", "figure4to6_accuracy", "agreement"}
    for name in names:
        for suffix in (".png", ".svg", ".csv"):
            assert (run.path / "figures" / f"{name}{suffix}").stat().st_size > 0
    assert len(pd.read_csv(run.path / "figures" / "claims.csv")) == 10


def test_summary_gives_network_layer_14_and_best_layer(run):
    text = summary(run)
    sweep = pd.read_csv(run.path / "sweep" / "sweep.csv")
    at = sweep[(sweep["k"] == 10) & (sweep["layer"] > 0)].set_index("layer")["accuracy"]
    for value in (sweep["network_accuracy"][0], at[14], at.max()):
        assert f"{value:.4f}" in text
    assert f"best layer ({at.idxmax()})" in text
    assert str(run.path / "notebooks") in text
    assert str(run.path / "figures") in text


def test_neighbors_equal_scikit_learns_at_every_layer(run):
    train_set, test_set = run.load_data()
    model = run.load_model(train_set)
    found = LayerNeighbors.load(run.file("sweep", "neighbors.safetensors"))
    train, test = embed(model, train_set.images), embed(model, test_set.images)
    for layer in range(1, 21):
        knn = NearestNeighbors(n_neighbors=50, metric="cosine", algorithm="brute").fit(train[layer].astype(float))
        distances, indices = knn.kneighbors(test[layer].astype(float))
        unit_train, unit_test = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
                                 for x in (train[layer], test[layer]))
        for query, place in np.argwhere(indices != found.indices[layer]):
            # Only distances that are equal within rounding may change places.
            ours = 1 - unit_test[query] @ unit_train[found.indices[layer][query, place]]
            assert ours == pytest.approx(distances[query, place], rel=1e-5, abs=1e-7)
        assert (indices == found.indices[layer]).mean() > 0.995
        np.testing.assert_allclose(found.distances[layer], distances, rtol=1e-3, atol=1e-6)


def test_layer_14_of_the_sweep_is_the_attribution_of_notebook_3(run):
    kept = pd.read_csv(run.file("attribution", "predictions.csv"))
    found = LayerNeighbors.load(run.file("sweep", "neighbors.safetensors"))
    assert (found.votes(14)[:, 9] == kept["ebe"]).mean() > 0.995
    assert (found.network == kept["network"]).all()


def test_a_matching_step_is_skipped_and_a_damaged_one_done_again(run, capsys):
    manifest = run.manifest("embeddings")
    assert not run.step("embeddings", needs=["train"], settings=manifest["settings"]).todo
    assert run.step("embeddings", needs=["train"], settings={"layer": 15, "pooling": "none"}).todo
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[embeddings] skipped: its manifest matches"
    assert "parameters or inputs have changed" in lines[1]


def test_a_notebook_before_its_predecessor_names_the_command():
    with pytest.raises(RunError, match="no run digits-quick-seed99 yet") as error:
        run_notebooks_only_02()
    assert "01_train" in str(error.value)
    assert "-m ebe_utils run --seed 99" in str(error.value)


def run_notebooks_only_02():
    return Run.open(seed=99)


def test_a_failing_notebook_stops_the_sequence_and_is_kept(monkeypatch, tmp_path):
    with pytest.raises(RunError, match=r"02_embeddings.ipynb, cell \d+: RunError: step 'train'.*has not run yet"):
        run_notebooks(Parameters(run="no-training"), only=["02"])
    kept = Run(Parameters(run="no-training")).path / "notebooks" / "02_embeddings.ipynb"
    assert any(o["output_type"] == "error" for c in json.loads(kept.read_text())["cells"] for o in c.get("outputs", []))


def test_papermill_runs_a_notebook_from_any_folder(run, tmp_path):
    out = tmp_path / "out.ipynb"
    subprocess.run([sys.executable, "-m", "papermill", str(CHECKOUT / "notebooks/03_attribution.ipynb"),
                    str(out), "-p", "k",
                    "5", "-k", "python3", "--no-progress-bar"], cwd=tmp_path, check=True, capture_output=True)
    assert "PASS" in out.read_text(encoding="utf-8")


def test_nbval_fails_on_a_changed_output(run, tmp_path):
    """The comparison is not empty: one digit of one output, and nbval fails at that cell and no other."""
    text = ((CHECKOUT / "notebooks") / "02_embeddings.ipynb").read_text(encoding="utf-8")
    assert "43,008 dimensions" in text
    (tmp_path / "02_changed.ipynb").write_text(text.replace("43,008 dimensions", "43,009 dimensions"), encoding="utf-8")
    config = (CHECKOUT / "notebooks").parent / "tests" / "nbval_sanitize.cfg"
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "-q",
                           f"--nbval-sanitize-with={config}", str(tmp_path)], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout.splitlines()[-1]
    assert "43,009" in done.stdout


@pytest.mark.parametrize(("words", "message"), [
    (["--datset", "mnist"], "Did you mean '--dataset'?"),
    (["DATSET=mnist"], "Did you mean '--dataset'?"),
    (["DATASET=mnits"], "Did you mean 'mnist'?"),
    (["--seed", "1e-3"], "seed='1e-3' is a str; pass an integer"),
    (["--augment", "maybe"], "pass True or False"),
    (["--k", "0"], "k=0 is out of range"),
    (["--k", "1438"], "there are 1437 training images"),
    (["--layer", "21"], "layer=21 is out of range; pass an integer from 1 to 20"),
    (["--layer", "layer3.1.conv9"], "Did you mean 'layer3.1.conv"),
    (["--n-train", "5000"], "there are 1437 images"),
    (["--metric", "cosin"], "Did you mean 'cosine'?"),
    (["--only", "77"], "no notebook begins with 77"),
    (["ONLY=77 78"], "no notebook begins with 77, 78; there are all, 00_start_here"),
])
def test_the_command_line_refuses_bad_parameters_and_writes_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    assert main(["run", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("words", "only", "summed_up"), [
    ([], EXPERIMENT, True), (["ONLY=all"], ("all",), True), (["ONLY=06 07"], ("06", "07"), False),
    (["--only", "04", "05"], ("04", "05"), False)])
def test_the_command_line_chooses_notebooks(words, only, summed_up, monkeypatch, capsys):
    monkeypatch.setattr("ebe_utils.study.cli.run_notebooks", lambda parameters, only: only)
    monkeypatch.setattr("ebe_utils.study.cli.summary", lambda run: f"ran {run}")
    assert main(["run", *words]) == 0
    assert capsys.readouterr().out == (f"\nran {[*only]}\n" if summed_up else "")


def test_clean_keeps_outputs_and_drops_what_papermill_adds():
    raw = {"cells": [
        {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"], "papermill": {"duration": 1}},
         "source": "k = 1", "execution_count": 1, "outputs": []},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["injected-parameters"]}, "source": "k = 2",
         "execution_count": 2, "outputs": []},
        {"cell_type": "code", "id": "c", "source": "k", "execution_count": 3,
         "metadata": {"alt": "A curve.", "mystnb": {"image": {"alt": "A curve."}}, "collapsed": True}, "outputs": [
            {"output_type": "display_data", "metadata": {}, "data": {"application/vnd.jupyter.widget-view+json": {}}},
            {"output_type": "execute_result", "metadata": {}, "execution_count": 3, "data": {"text/plain": "1"}}]}],
        "metadata": {"papermill": {"parameters": {}}, "widgets": {}}, "nbformat": 4, "nbformat_minor": 5}
    cleaned = json.loads(clean(raw))
    assert [c["source"] for c in cleaned["cells"]] == ["k = 1", "k"]
    assert [c["metadata"] for c in cleaned["cells"]] == [
        {"tags": ["parameters"]}, {"alt": "A curve.", "mystnb": {"image": {"alt": "A curve."}}}]
    assert [o["data"] for o in cleaned["cells"][1]["outputs"]] == [{"text/plain": "1"}]
    assert set(cleaned["metadata"]) == {"kernelspec", "language_info"}
