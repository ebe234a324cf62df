"""Results that are committed: what is kept of a run, how it is opened again, and that README and figures show it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.study.claims import judge_claims
from ebe_utils.study.figures import accuracy_figure
from ebe_utils.study.results import choices_table, evaluation_table, groups, results_table, seeds_table, verdicts_table
from ebe_utils.study.run import Run
from ebe_utils.study.step import RunError
from ebe_utils.tables import save_tables
from ebe_utils.upkeep.__main__ import main
from ebe_utils.upkeep.committed import keep_results, markdown, update_readme
from ebe_utils.upkeep.publishing import CHECKOUT

SEEDS = (3, 4)
KEPT = {"train": {"history.csv"}, "sweep": {"sweep.csv", "together.csv", "votes.csv"}, "taps": {"taps.csv"},
        "figures": {"examples.csv", "figure2_neighbors.csv", "figure4to6_accuracy.csv", "agreement.csv"}}
ALSO = {"choices.csv", "optimism.csv", "ways.csv"}


def finished(seed):
    """A finished run, its neighbours drawn at random: 50 of 60 training images for 40 test images of ten classes."""
    rng = np.random.default_rng(seed)
    layers = {layer: f"layer{layer}" for layer in range(21)}
    found = LayerNeighbors(
        layers, {layer: np.stack([rng.permutation(60)[:50] for _ in range(40)]).astype(np.int32) for layer in layers},
        {layer: np.sort(rng.random((40, 50), np.float32), axis=1) for layer in layers}, np.arange(60) % 10,
        np.arange(40) % 10, rng.integers(0, 10, 40), dict.fromkeys(layers, 9), "cosine")
    run = Run.start(seed=seed)
    with run.step("train") as step:
        step.path("history.csv").write_text("epoch,seconds\n1,30\n2,9999\n3,31\n")
        step.path("model.safetensors").write_bytes(bytes(1000))
    with run.step("sweep", ["train"]) as step:
        save_tables(found, step.folder)
        found.save(step.path("neighbors.safetensors"))
    with run.step("figures", ["sweep"]) as step:
        for name in KEPT["figures"] - {"examples.csv"}:
            step.path(name).write_text(f"of seed {seed}\n")
            step.path(name.replace("csv", "png")).write_bytes(b"")
        found.examples([0, 1], 10).to_csv(step.path("examples.csv"), index=False)
    with run.step("taps", ["train"]) as step:
        step.path("taps.csv").write_text("layer\n1\n")
    if seed == SEEDS[0]:  # the other one has not been through notebook 09
        with run.step("choosing", ["sweep"]) as step:
            for name in (*ALSO, "estimates.csv"):
                step.path(name).write_text("rule\n")
    return run


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Runs of two seeds, kept, the higher seed first."""
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr("ebe_utils.study.run.reference_root", lambda: tmp_path / "reference")
    found = [finished(seed) for seed in SEEDS]
    for run in reversed(found):
        assert keep_results(run, tmp_path / "reference", tmp_path / "figures") == tmp_path / "reference" / run.name
    return found


def test_the_tables_are_kept_without_the_weights(kept, tmp_path):
    for run in kept:
        steps = KEPT | ({"choosing": ALSO} if run is kept[0] else {})
        expected = {"parameters.json", *(f"{step}/{name}" for step, names in steps.items()
                                         for name in {*names, "manifest.json"})}
        folder = tmp_path / "reference" / run.name
        found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert found == expected
        for step, names in steps.items():
            manifest, before = json.loads((folder / step / "manifest.json").read_text()), run.manifest(step)
            assert manifest["outputs"] | manifest["not_kept"] == before["outputs"]
            assert set(manifest["outputs"]) == names
            assert manifest["versions"] == before["versions"]
    assert not list(tmp_path.rglob("*.part"))


def test_they_are_opened_where_there_is_no_run(kept, tmp_path, capsys):
    run, folder = kept[0], tmp_path / "reference" / kept[0].name
    assert not Run.open(seed=3).committed
    shutil.rmtree(run.path)
    again = Run.open(seed=3)
    assert again.committed and again.path == folder and replace(again.parameters, run="") == run.parameters
    assert again.file("train", "history.csv").read_text().startswith("epoch,seconds\n1,30\n")
    assert not again.step("figures", ["sweep"], {"k": 7}).todo
    assert "not done: these are committed results" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"(?s)'figures' of run .* is a committed result.*-m ebe_utils run"), again.step(
            "figures", ["sweep"], {"k": 7}):
        pass
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match="only what is kept of it"):
        keep_results(again, tmp_path / "reference", tmp_path / "figures")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (folder / "taps" / "taps.csv").write_text("other\n")
    with pytest.raises(RunError, match="taps.csv is damaged or was changed"):
        again.file("taps", "taps.csv")


def test_runs_that_are_done_again_go_through_all_notebooks_that_are_kept(kept, tmp_path, monkeypatch):
    again = {}
    monkeypatch.setattr("ebe_utils.upkeep.__main__.REFERENCE", tmp_path / "reference")
    monkeypatch.setattr("ebe_utils.upkeep.__main__.run_notebooks", lambda p, only: again.update({p.seed: only}))
    for name in ("keep_results", "update_readme"):
        monkeypatch.setattr(f"ebe_utils.upkeep.__main__.{name}", lambda *given: None)
    assert main(["reference"]) == 0
    usual = ["01_train", "04_layer_sweep", "05_figures", "07_claims"]
    assert again == {SEEDS[0]: [*usual, "09_choosing"], SEEDS[1]: usual}


def test_all_kept_runs_are_listed(kept, tmp_path):
    found = Run.kept(tmp_path / "reference")
    assert list(found) == [run.name for run in kept]
    assert [run.parameters.seed for run in found.values()] == [*SEEDS]
    assert all(run.committed for run in found.values())
    assert {group: [run.name for run in same] for group, same in groups(reversed(found.values())).items()} == {
        "digits-quick": [*found]}


def test_results_by_hand(kept):
    found = results_table(kept, k=5).iloc[0]
    sweeps = [pd.read_csv(run.file("sweep", "sweep.csv")) for run in kept]
    network = [s["network_accuracy"].iloc[0] for s in sweeps]
    assert found["network"] == f"{100 * np.mean(network):.2f} ± {100 * np.std(network, ddof=1):.2f}"
    at = {layer: [s.loc[(s["k"] == 5) & (s["layer"] == layer), "accuracy"].item() for s in sweeps]
          for layer in range(21)}
    best = max(range(1, 21), key=lambda layer: sum(at[layer]))
    assert found["best layer"] == f"{100 * np.mean(at[best]):.2f} ± {100 * np.std(at[best], ddof=1):.2f} ({best})"
    assert found["raw pixels"].startswith(f"{100 * np.mean(at[0]):.2f} ")
    assert found["layer 14"].startswith(f"{100 * np.mean(at[14]):.2f} ")
    assert found["seeds"] == 2
    assert found["minutes"] == "2"  # three epochs of 30 seconds, and a moment
    assert results_table(kept[:1], k=5).iloc[0]["network"] == f"{100 * network[0]:.2f}"


def test_verdicts_are_counted_over_the_seeds(kept, monkeypatch):
    verdicts = iter(["holds", "undecided", "holds", "holds", "does not apply"])

    def judge(together, dataset, k):
        return pd.DataFrame({"claim": ["1"], "text": ["A claim (layer 7)"], "verdict": [next(verdicts)]})

    monkeypatch.setattr("ebe_utils.study.results.judge_claims", judge)
    for same, expected in ((kept, "holds (1 of 2), undecided (1 of 2)"), (kept, "holds (2 of 2)"), (kept[:1], "–")):
        assert verdicts_table(same).to_dict("records") == [{"claim": "1: A claim", "digits-quick": expected}]


def test_figures_are_drawn_over_the_seeds(kept, tmp_path):
    folder = tmp_path / "figures" / "digits-quick"
    assert (folder / "figure2_neighbors.csv").read_text() == "of seed 3\n"
    sweeps = [pd.read_csv(run.file("sweep", "sweep.csv")) for run in kept]
    for name, column in (("figure4to6_accuracy", "accuracy"), ("agreement", "agreement")):
        drawn = pd.read_csv(folder / f"{name}.csv").set_index(["layer", "k"])
        values = np.stack([s.set_index(["layer", "k"])[column][drawn.index] for s in sweeps])
        np.testing.assert_allclose(drawn[column], values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(drawn["sd"], abs(values[0] - values[1]) / np.sqrt(2), rtol=1e-4, atol=1e-9)
        assert (folder / f"{name}.png").stat().st_size > 0
    assert not (folder / "examples.csv").exists()


def test_the_readme_is_updated_between_its_comments(kept, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nbetween\n"
                      "<!-- verdicts -->\n<!-- end of verdicts -->\nafter\n")
    shutil.rmtree(tmp_path / "reference" / kept[0].name / "choosing")  # made up for the test, and no table of choices
    update_readme(readme, tmp_path / "reference")
    text = readme.read_text()
    assert "old" not in text
    assert re.fullmatch(r"before\n<!-- results -->\n(\|.*\|\n){3}<!-- end of results -->\nbetween\n<!-- verdicts -->\n"
                        r"(\|.*\|\n){11}<!-- end of verdicts -->\nafter\n", text)
    update_readme(readme, tmp_path / "reference")
    assert readme.read_text() == text


def test_evaluations_side_by_side_by_hand():
    def summary(*rows):
        return pd.DataFrame(rows, columns=["metric", "layer 14", "raw pixels", "low", "high"])

    found = evaluation_table({"a": summary(("purity", 0.9, 0.5, 0.85, 0.95), ("only here", 1, 0, 1, 1)),
                              "b": summary(("purity", 0.1234, 0.2, 0.1, 0.15), ("only there", 0, 0, 0, 0))})
    assert found.to_dict("list") == {
        "metric": ["purity", "only here", "only there"],
        "a": ["0.900 (0.850 to 0.950) / 0.500", "1.000 (1.000 to 1.000) / 0.000", "–"],
        "b": ["0.123 (0.100 to 0.150) / 0.200", "–", "0.000 (0.000 to 0.000) / 0.000"]}


def test_choices_by_hand():
    rules = {"held out, unseen": 0.01, "layer 14": 0.02, "layer 14, NNK votes": 0.015, "last convolution": 0.03,
             "pooled, before the classifier": 0, "the network itself": 0.005}
    choices = pd.DataFrame({"rule": list(rules), "layer": 3, "k": 5, "metric": "cosine", "weights": "uniform",
                            "regret": list(rules.values()), "regret_low": -0.004, "regret_high": 0.024,
                            "without_luck": 0.003})
    optimism = pd.DataFrame({"how": ["held out, seen in training"] * 4 + ["held out, unseen"],
                             "layer": ["15", "16", "20", "avgpool", "20"], "optimism": [9, 1, 2, 9, 9]})
    assert choices_table({"one": choices}, {"one": optimism}).to_dict("records") == [{
        "run": "one", "chosen": "layer 3, k = 5, cosine, uniform", "misses the best by": "1.00 (-0.40 to 2.40)",
        "without luck": "0.30", "layer 14": "2.00", "layer 14, NNK": "1.50", "layer 20": "3.00",
        "pooled": "0.00", "network": "0.50", "optimism": "+1.50"}]


def test_markdown_by_hand():
    assert markdown(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"


# --- what is committed ---------------------------------------------------------------------------------------------

COMMITTED = groups(Run.kept().values())


def test_the_readme_shows_the_committed_results(tmp_path):
    shutil.copyfile(CHECKOUT / "README.md", tmp_path / "README.md")
    update_readme(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == (CHECKOUT / "README.md").read_text()
    assert COMMITTED


@pytest.mark.parametrize("group", COMMITTED)
def test_committed_figures_show_the_committed_results(group):
    same, folder = COMMITTED[group], CHECKOUT / "figures" / group
    for name, column in ((next(folder.glob("figure*_accuracy.csv")).stem, "accuracy"), ("agreement", "agreement")):
        expected = accuracy_figure(seeds_table(same), column=column)[1].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{name}.csv"), expected, rtol=1e-5, check_dtype=False)
    examples = pd.read_csv(same[0].file("figures", "examples.csv"))
    for name in ("figure2_neighbors", "figure3_layers"):
        shown = pd.read_csv(folder / f"{name}.csv")
        both = shown.merge(examples, on=["position", "layer", "rank", "index"])
        assert len(both) == len(shown) > 0
        np.testing.assert_allclose(both["distance_x"], both["distance_y"], rtol=1e-5)


@pytest.mark.parametrize("run", [run for same in COMMITTED.values() for run in same], ids=lambda run: run.name)
def test_committed_claims_follow_from_the_committed_counts(run):
    counts = pd.read_csv(run.file(run.parameters.sweep_step, "together.csv"), index_col=0)
    expected = judge_claims(counts, run.parameters.dataset, run.parameters.k)
    found = pd.read_csv(run.file("figures", "claims.csv"))
    assert found["text"].tolist() == expected["text"].tolist()
    np.testing.assert_allclose(found["measured"], expected["measured"], atol=1e-9)
    np.testing.assert_allclose(found[["low", "high"]], expected[["low", "high"]], atol=1e-3)  # drawn at random
