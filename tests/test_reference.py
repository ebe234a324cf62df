"""Results that are committed: what is kept of a run, how it is opened again, and that pages and figures show it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold, StratifiedShuffleSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.study.claims import judge_claims
from ebe_utils.study.figures import accuracy_figure
from ebe_utils.study.parameters import Parameters
from ebe_utils.study.results import (
    AROUND_15,
    SCORED,
    agreement_table,
    choices_table,
    evaluation_table,
    faithfulness,
    faithfulness_table,
    groups,
    kept_frontiers,
    kept_tables,
    reliance_table,
    results_table,
    scorecards,
    seeds_table,
    taps_table,
    verdicts_table,
)
from ebe_utils.study.run import Run
from ebe_utils.study.step import RunError
from ebe_utils.tables import save_tables
from ebe_utils.upkeep.__main__ import main
from ebe_utils.upkeep.benchmark_tables import benchmark_table
from ebe_utils.upkeep.candidates import candidates_table
from ebe_utils.upkeep.committed import keep_results, markdown, update_results
from ebe_utils.upkeep.domain_tables import domains_table
from ebe_utils.upkeep.publishing import CHECKOUT, REFERENCE

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


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory):
    """A folder with the runs of two seeds, kept, the higher seed first."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBE_RUNS_DIR", str(folder / "runs"))
        for run in reversed([finished(seed) for seed in SEEDS]):
            assert keep_results(run, folder / "reference", folder / "figures") == folder / "reference" / run.name
    return folder


@pytest.fixture
def kept(kept_once, tmp_path, monkeypatch):
    """The runs of `kept_once`, in folders of this test's own."""
    shutil.copytree(kept_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr("ebe_utils.study.run.reference_root", lambda: tmp_path / "reference")
    return [Run.start(seed=seed) for seed in SEEDS]


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
    for name in ("keep_results", "update_results"):
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


def test_agreement_by_hand(kept):
    """Counted again from the neighbours themselves, not from the tables that `agreement_table` reads."""
    row = agreement_table(kept, layers=(0, 14)).iloc[0]
    shares = {layer: [] for layer in (0, 14)}
    for run in kept:
        found = LayerNeighbors.load(run.file("sweep", "neighbors.safetensors"))
        wrong = found.network != found.test_labels
        for layer, seen in shares.items():
            counts = np.stack([np.bincount(found.train_labels[i[:10]], minlength=10) for i in found.indices[layer]])
            vote = counts.argmax(1)
            seen.append([(vote == found.test_labels).mean(), (vote == found.network).mean(),
                         (vote == found.network)[wrong].mean()])
    for layer, name in ((0, "raw pixels"), (14, "layer 14")):
        assert row[name] == " / ".join(f"{100 * value:.1f}" for value in np.mean(shares[layer], axis=0))


def test_faithfulness_of_one_run_by_hand(kept):
    run = kept[0]
    found = LayerNeighbors.load(run.file("sweep", "neighbors.safetensors"))
    wrong = found.network != found.test_labels
    votes = {layer: np.array([np.bincount(found.train_labels[i[:5]], minlength=10).argmax()
                              for i in found.indices[layer]]) for layer in (0, 9)}
    table = faithfulness_table(run, [0, 9], k=5)
    assert table["examples by"].tolist() == ["raw pixels", "layer 9"]
    expected = [[100 * (vote == found.test_labels).mean(), 100 * (vote == found.network).mean(),
                 100 * (vote == found.network)[wrong].mean()] for vote in votes.values()]
    np.testing.assert_allclose(table[["accuracy", "agreement", "on mistakes"]], expected)
    assert faithfulness(run, 9, 5)["mistakes"] == wrong.sum()


def test_reliance_on_whole_data_sets_is_that_of_the_committed_tables():
    table = reliance_table().set_index(["run", "examples"])
    for file in (CHECKOUT / "data" / "reference" / "frontier").glob("*.csv"):
        rows = pd.read_csv(file).set_index("choice")
        for name in ("layer 14, nearest (the paper)", "influence, of 50", "random"):
            found = table.loc[(file.stem, name)]
            assert found["near"] == f"{rows.loc[name, 'near']:.2f}"
            for column in ("accuracy", "agreement", "on mistakes", "reliance"):
                assert found[column] == rows.loc[name, column]


def test_kept_tables_are_those_of_all_runs_below_each_other(tmp_path):
    for run, value in (("text-a-seed1", 2.0), ("text-a-seed0", 1.0)):
        (tmp_path / "text" / run / "text").mkdir(parents=True)
        pd.DataFrame({"share": [value]}).to_csv(tmp_path / "text" / run / "text" / "subclass.csv", index=False)
    expected = pd.DataFrame({"share": [1.0, 2.0], "run": ["text-a-seed0", "text-a-seed1"]})
    pd.testing.assert_frame_equal(kept_tables("text", "subclass", tmp_path), expected)
    assert kept_tables("series", "subclass", tmp_path).empty
    assert kept_tables("transfer", "summary")["run"].nunique() == 3


def test_agreement_on_mistakes_of_a_network_without_any(kept, tmp_path):
    file = kept[0].file("sweep", "together.csv")
    together = pd.read_csv(file, index_col=0)
    together.loc["network"], together["network"] = together.loc["all"], together["all"]
    sweep = pd.read_csv(kept[0].file("sweep", "sweep.csv"))
    sweep["agreement"] = sweep["accuracy"]  # what agreement is where the network is always right

    class Perfect:
        parameters = kept[0].parameters

        def file(self, step, name):
            table = together if name == "together.csv" else sweep.set_index("layer")
            table.to_csv(tmp_path / name)
            return tmp_path / name

    assert agreement_table([Perfect()], layers=(14,)).iloc[0]["layer 14"].endswith(" / –")


def test_the_results_page_is_updated_between_its_comments(kept, tmp_path, monkeypatch):
    page, root, names = tmp_path / "results.md", tmp_path / "reference", ("results", "agreement", "verdicts")
    shutil.rmtree(root / kept[0].name / "choosing")  # made up for the test, and no table of choices
    shutil.copytree(CHECKOUT / "data" / "reference" / "benchmark" / "mnist", root / "benchmark" / "mnist")
    monkeypatch.setattr("ebe_utils.upkeep.committed.results.taps_table", lambda runs: pd.DataFrame({"taken at": []}))
    places = {name: f"<!-- {name} -->\nold\n<!-- end of {name} -->\n"
              for name in (*names, "taps", "evaluation", "choices", "stages mnist", "explanations mnist",
                           "benchmark mnist")}
    page.write_text("before\n" + "between\n".join(places.values()) + "after\n")
    update_results(page, root)
    text = page.read_text()
    assert "old" not in text
    assert re.match(r"before\n<!-- results -->\n(\|.*\|\n){3}<!-- end of results -->\nbetween\n<!-- agreement -->\n"
                    r"(\|.*\|\n){3}<!-- end of agreement -->\nbetween\n<!-- verdicts -->\n"
                    r"(\|.*\|\n){5,}<!-- end of verdicts -->\nbetween\n", text)
    assert text.endswith("<!-- end of benchmark mnist -->\nafter\n")
    update_results(page, root)
    assert page.read_text() == text
    page.write_text(text.replace("<!-- agreement -->", ""))
    with pytest.raises(ValueError, match="0 places for the table 'agreement'.*<!-- agreement -->"):
        update_results(page, root)


def test_the_results_command_writes_the_page(monkeypatch):
    called = []
    monkeypatch.setattr("ebe_utils.upkeep.__main__.update_results", lambda: called.append(True))
    assert main(["results"]) == 0
    assert called == [True]


def test_taps_by_hand(tmp_path):
    class Tapped:
        def __init__(self, seed):
            self.parameters, self.folder = replace(Run.start(seed=seed).parameters), tmp_path / str(seed)

        def file(self, step, name):
            self.folder.mkdir(exist_ok=True)
            rows = [(layer, tap, pooling, cosine, place / 100 + self.parameters.seed / 10 + (pooling == "averaged"))
                    for place, (layer, tap, cosine) in enumerate(AROUND_15.values())
                    for pooling in ("averaged", "flattened")]
            pd.DataFrame(rows, columns=["layer", "tap", "pooling", "cosine", "accuracy"]).to_csv(self.folder / name)
            return self.folder / name

    found = taps_table([Tapped(0), Tapped(1)])
    assert found["taken at"].tolist() == [*AROUND_15]
    assert found["digits-quick"].tolist() == [f"{place + 5:.2f} ± 7.07" for place in range(len(AROUND_15))]
    assert taps_table([Tapped(0)])["digits-quick"].tolist()[3] == "3.00"


def test_benchmark_by_hand():
    table = pd.DataFrame({"way": ["the bare forward pass", "ours, engine shortlist", "ours, engine faiss"],
                          "seconds": [39.4, 1234.5, 80], "x forward": [1, 31.3, 2.04],
                          "peak GiB": [1.04, np.nan, 2], "queries": [10000, 500, 16],
                          "other votes": [np.nan, "0 of 9", "1 of 9"]})
    assert benchmark_table(table).to_numpy().tolist() == [
        ["the bare forward pass", "39", "1", "1.0", "10,000", ""],
        ["**this package**", "1,234", "31", "", "500", "0 of 9"],
        ["this package, engine faiss", "80", "2.0", "2.0", "16", "1 of 9"]]


def test_evaluations_side_by_side_by_hand():
    def summary(*rows):
        return pd.DataFrame(rows, columns=["metric", "value", "raw pixels", "low", "high"])

    found = evaluation_table({"a": summary(("purity", 0.9, 0.5, 0.85, 0.95), ("only here", 1, 0, 1, 1)).assign(
                                  **{"examples from": ["layer 14", "layers 4, 8"]}),
                              "b": summary(("purity", 0.1234, 0.2, 0.1, 0.15), ("only there", 0, 0, 0, 0))})
    assert found.to_dict("list") == {
        "metric": ["purity", "only here", "only there"], "examples from": ["layer 14", "layers 4, 8", "–"],
        "a": ["0.900 (0.850 to 0.950) / 0.500", "1.000 (1.000 to 1.000) / 0.000", "–"],
        "b": ["0.123 (0.100 to 0.150) / 0.200", "–", "0.000 (0.000 to 0.000) / 0.000"]}


def test_a_scorecard_in_parts_is_read_as_one_in_a_piece(tmp_path):
    rows = pd.DataFrame({"metric": ["agreement", "shift", "removal"], "value": [0.1, 0.2, 0.3]})
    whole, parts, none = (Run(Parameters(run=name)) for name in ("whole", "parts", "none"))
    for run in (whole, parts, none):
        run.path = tmp_path / run.name
        for at, step in enumerate(SCORED if run is parts else ["evaluation"] * (run is whole)):
            (run.path / step).mkdir(parents=True)
            table = rows[at:at + 1] if run is parts else rows.rename(columns={"value": "layer 14"})
            table.to_csv(run.path / step / "summary.csv", index=False)
        run.file = lambda step, name, path=run.path: path / step / name
    found = scorecards([whole, parts, none])
    assert list(found) == ["whole", "parts"]
    for table in found.values():
        pd.testing.assert_frame_equal(table, rows)


def test_choices_by_hand():
    rules = {"held out, unseen": 0.01, "layer 14": 0.02, "layer 14, NNK votes": 0.015, "last convolution": 0.03,
             "pooled, before the classifier": 0, "the network itself": 0.005}
    choices = pd.DataFrame({"rule": list(rules), "layer": 3, "k": 5, "metric": "cosine", "weights": "uniform",
                            "regret": list(rules.values()), "regret_low": -0.004, "regret_high": 0.024,
                            "split_half": 0.003})
    optimism = pd.DataFrame({"how": ["held out, seen in training"] * 4 + ["held out, unseen"],
                             "layer": ["15", "16", "20", "avgpool", "20"], "optimism": [9, 1, 2, 9, 9]})
    assert choices_table({"one": choices}, {"one": optimism}).to_dict("records") == [{
        "run": "one", "chosen": "layer 3, k = 5, cosine, uniform", "misses the best by": "1.00 (-0.40 to 2.40)",
        "without selection bias": "0.30", "layer 14": "2.00", "layer 14, NNK": "1.50", "layer 20": "3.00",
        "pooled": "0.00", "network": "0.50", "optimism": "+1.50"}]


def test_markdown_by_hand():
    assert markdown(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"
    assert markdown(pd.DataFrame({"a": ["1 ± 2 / 3"]})).endswith("| 1\xa0±\xa02\xa0/\xa03 |\n")


# --- what is committed ---------------------------------------------------------------------------------------------

COMMITTED = groups(Run.kept().values())


def test_the_results_page_shows_the_committed_results(tmp_path):
    shutil.copyfile(CHECKOUT / "docs" / "results.md", tmp_path / "results.md")
    update_results(tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (CHECKOUT / "docs" / "results.md").read_text()
    assert COMMITTED


def test_the_readme_shows_every_domain():
    shown = markdown(domains_table().drop(columns=["domain", "seeds"]))
    assert shown.count("\n") > 8
    assert f"<!-- domains -->\n{shown}<!-- end of domains -->" in (CHECKOUT / "README.md").read_text()


def _measured():
    """(page, words that it must contain) for the numbers on which its sentences rest, from the committed tables."""
    readme, findings, results = "README.md", "docs/findings.md", "docs/results.md"

    def over(group, column, layer=14):
        same = [pd.read_csv(run.file("sweep", "sweep.csv")).set_index(["layer", "k"]) for run in COMMITTED[group]]
        return 100 * np.mean([sweep.loc[(layer, 10), column] for sweep in same])

    def mistakes(group, layer):
        row = agreement_table(COMMITTED[group], layers=(layer,)).iloc[0]
        return float(row[f"layer {layer}"].split(" / ")[2])

    vote, network, agreement = ({group: over(group, column) for group in COMMITTED}
                                for column in ("accuracy", "network_accuracy", "agreement"))
    m, f, c = "mnist-paper", "fashion_mnist-paper", "cifar10-paper"
    yield readme, f"agree with the network on {agreement[c]:.0f} % of the test images"
    yield readme, f"and repeat {mistakes(c, 14):.0f} % of its mistakes"
    on_par = (f"MNIST {vote[m]:.1f} % against {network[m]:.1f} (agreement {agreement[m]:.1f} %), Fashion-MNIST "
              f"{vote[f]:.1f} against {network[f]:.1f} ({agreement[f]:.1f} %), CIFAR-10 {vote[c]:.1f} against "
              f"{network[c]:.1f} ({agreement[c]:.1f} %)")
    yield readme, on_par
    repeats = (f"{mistakes(m, 14):.0f} % of {{}} on MNIST, {mistakes(f, 14):.0f} % on Fashion-MNIST and "
               f"{mistakes(c, 14):.0f} % on CIFAR-10")
    yield readme, repeats.format("them")
    yield findings, repeats.format("the network's mistakes")
    deep = " ".join(f"{mistakes(group, 19):.0f}{end}" for group, end in ((m, ","), (f, " and"), (c, " %")))
    yield readme, f"Layer 19 repeats more: {deep}"
    yield findings, f"layer 19 repeats {deep}"

    jaccard = {group: scorecards(COMMITTED[group][:1])[COMMITTED[group][0].name].set_index("metric")
               for group in (m, f, c)}
    moved = {group: table.loc["stability, one pixel: Jaccard", "value"] for group, table in jaccard.items()}
    yield readme, f"index {moved[m]:.2f} on MNIST, {moved[f]:.2f} on Fashion-MNIST, {moved[c]:.2f} on CIFAR-10"
    shows = jaccard[c].loc["small network: examples that show the shortcut"]
    for page in (readme, findings):
        yield page, f"{100 * shows['value']:.0f} % of them"

    run = next(run for run in COMMITTED[c] if (run.path / "choosing").exists())
    choices = pd.read_csv(run.file("choosing", "choices.csv")).set_index("rule")
    best, own = choices.loc["held out, unseen", "accuracy"], choices.loc["the network itself", "accuracy"]
    for page in (readme, findings):
        yield page, (f"selects layer {choices.loc['held out, unseen', 'layer']} with NNK voting: {100 * best:.1f} %, "
                     f"{100 * (best - own):.1f} points above the network")
    chosen = agreement_table([run], layers=(9,)).iloc[0]["layer 9"].split(" / ")
    for page in (readme, findings):
        yield page, f"agrees with the network on {float(chosen[1]):.0f} % of the images"
        yield page, f"repeats {float(chosen[2]):.0f} % of its mistakes"

    def tap(group, layer, tap, column="accuracy"):
        tables = [pd.read_csv(run.file("taps", "taps.csv")).query(
            f"layer == {layer} and tap == '{tap}' and pooling == 'flattened' and cosine == 'raw'")[column].item()
            for run in COMMITTED[group]]
        return np.mean(tables)

    yield results, (f"at the ReLU after layer 14: on CIFAR-10 from {100 * tap(c, 14, 'convolution'):.0f} to "
                    f"{100 * tap(c, 14, 'ReLU'):.0f} %")
    judged = candidates_table().set_index(["run", "chosen"]).loc["cifar10-fast-seed0"]
    accurate, faithful = judged.loc["by accuracy"], judged.loc["by agreement"]
    yield findings, f"({accurate['setting']}, {accurate['accuracy']} %) repeats {float(accurate['on mistakes']):.0f} %"
    yield readme, f"pooled features repeat {float(faithful['on mistakes']):.0f} %"
    yield findings, f"as accurate as the network, they repeat {float(faithful['on mistakes']):.0f} %"
    assert faithful["setting"].startswith("avgpool")

    found = pd.read_csv(REFERENCE / "audits" / "cifar10-0.1-seed0.csv").set_index(["layer", "by"])
    middle, pooled = found.loc[("14", "neighbors")], found.loc[("avgpool", "neighbors")]
    loss = found.loc[("14", "network")]
    yield results, f"the network has learnt {100 * loss['memorised']:.0f} % of the wrong labels by heart"
    yield results, f"finds few of them (area {loss['area']:.2f})"
    yield results, f"The neighbours at layer 14 find most ({middle['area']:.2f})"
    yield results, f"{100 * middle['first']:.0f} % have one, and {100 * loss['first']:.0f} % by the loss"
    yield results, f"the neighbours have the wrong labels, too ({pooled['area']:.2f})"
    assert found.loc[("14", "cleanlab, network"), "named"] == 1
    other = pd.read_csv(REFERENCE / "audits" / "fashion_mnist-0.1-seed0.csv").set_index(["layer", "by"])["area"]
    yield results, (f"{other['14', 'neighbors']:.2f} at layer 14, {other['avgpool', 'neighbors']:.2f} in the pooled "
                    f"features, {other['14', 'network']:.2f} by the loss")
    other = pd.read_csv(REFERENCE / "audits" / "mnist-0.1-seed0.csv").set_index(["layer", "by"])
    area = other["area"]
    yield results, (f"learnt {100 * other['memorised'].iloc[0]:.0f} %: {area['14', 'neighbors']:.2f}, "
                    f"{area['avgpool', 'neighbors']:.2f} and {area['14', 'network']:.2f}")
    five = [pd.read_csv(file, dtype={"layer": str}).set_index(["layer", "by"])
            for file in sorted((REFERENCE / "audits").glob("*-0.05-seed0.csv"))]  # CIFAR-10, Fashion-MNIST, MNIST
    near, loss = ([one.loc[("14", by), "area"] for one in five] for by in ("neighbors", "network"))
    assert len(five) == 3 and all(a > b for a, b in zip(near, loss, strict=True))
    yield results, (f"({near[0]:.2f} on CIFAR-10, {near[1]:.2f} on Fashion-MNIST, {near[2]:.2f} on MNIST), and better "
                    f"than the loss ({', '.join(f'{one:.2f}' for one in loss)})")
    ten = [pd.read_csv(file, dtype={"layer": str}).set_index(["layer", "by"])
           for file in sorted((REFERENCE / "audits").glob("*-0.1-seed0.csv"))]
    first = [[f"{100 * one.loc[('14', 'neighbors'), 'first']:.0f}" for one in tables] for tables in (five, ten)]
    said = ["{}, {} and {}".format(*values) for values in first]
    yield results, f"Of the first images {said[0]} % are then wrong ({said[1]} with a tenth)"
    yield results, f"now worse than the loss ({five[0].loc[('avgpool', 'neighbors'), 'area']:.2f})"
    assert five[0].loc[("avgpool", "neighbors"), "area"] < loss[0]

    own = kept_frontiers(folder="frontier_fast").set_index(["run", "choice"]).loc["mnist-fast-seed0"]
    ours, most = own.loc["influence, of 600"], own.loc["most relied on, of 600 (bound)"]
    nearest = own.loc["layer 14, nearest (the paper)"]
    yield results, f"repeat {nearest['on mistakes']:.0f} % of the mistakes"
    assert nearest["refit low"] < 0 < nearest["refit high"] and ours["on mistakes"] == 100
    yield results, (f"within the nearest {ours['near']:.1f} %. They are relied on by {ours['reliance']:.0f} %, of the "
                    f"{most['reliance']:.0f} % that any choice")
    yield results, f"and by {ours['refit']:.0f} % in the refits"
    assert round(own["near"]["representer points"] / ours["near"]) == 16
    other = kept_frontiers(folder="frontier_fast").set_index(["run", "choice"]).loc["cifar10-fast-seed0"]
    ours, most, far = (other.loc[name] for name in ("influence, of 500", "most relied on, of 500 (bound)",
                                                    "representer points"))
    assert round(far["near"] / ours["near"], -1) == 30 and most["near"] < 1
    yield results, f"repeat {ours['on mistakes']:.0f} % of the mistakes, within the nearest {ours['near']:.1f} %"
    yield results, f"by {ours['reliance']:.0f} %, of the {most['reliance']:.0f} % that any choice among the 500"
    refits = f"{ours['refit']:.0f} % in the refits ({ours['refit low']:.0f} to {ours['refit high']:.0f})"
    yield results, f"{refits}; representer points by {far['reliance']:.0f} and {far['refit']:.0f} %"
    yield findings, f"has {ours['reliance']:.0f} % there ({refits.replace('in the refits (', 'by refits, ')}"
    yield findings, f"have more than {most['reliance']:.0f} %"

    def drop(dataset, seed):
        """Points by which layer 15 is below layer 14: after 12 epochs at the constant rate, and of the profile fast."""
        table = pd.read_csv(REFERENCE / "snapshots" / f"{dataset}-paper-seed{seed}" / "layers.csv")
        constant = table[(table["snapshot"] == "12") & (table["k"] == 10)].set_index("layer")["accuracy"]
        table = pd.read_csv(REFERENCE / "candidates" / f"{dataset}-fast-seed0.csv", dtype={"layer": str})
        fast = table.query("k == 10 and metric == 'cosine' and weights == 'uniform'").set_index("layer")["accuracy"]
        return 100 * (constant[14] - constant[15]), 100 * (fast["14"] - fast["15"])

    (there, here), (mild, milder) = drop("cifar10", 2), drop("fashion_mnist", 1)
    yield results, (f"ten votes at layer 15 are {there:.1f} points less accurate than at layer 14 on CIFAR-10, and "
                    f"{mild:.1f} on Fashion-MNIST")
    yield results, f"(profile `fast`, another seed) it is {here:.1f} and {milder:.1f} points"
    yield results, f"the mean cosine at layer 16 of MNIST is {tap(m, 16, 'convolution', 'mean cosine'):.2f}"


@pytest.mark.parametrize(("page", "words"), [*_measured()])
def test_sentences_state_what_the_tables_hold(page, words):
    assert words in " ".join((CHECKOUT / page).read_text().split())


def test_the_digits_are_easier_where_writers_repeat():
    """docs/results.md: nearest neighbour in pixels, split at random and with blocks of consecutive images held out."""
    images, labels = load_digits(return_X_y=True)
    nearest = KNeighborsClassifier(1, metric="cosine")
    random = cross_val_score(nearest, images, labels, cv=StratifiedShuffleSplit(5, test_size=360, random_state=0))
    blocks = cross_val_score(nearest, images, labels, cv=KFold(5))
    page = " ".join((CHECKOUT / "docs" / "results.md").read_text().split())
    assert (f"for {100 * random.mean():.1f} % of them with random splits, and for {100 * blocks.mean():.1f} % when "
            "blocks of consecutive images are held out") in page


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
