"""All settings that could be chosen, judged by accuracy and by agreement: against counts and against the classifier."""

import shutil

import numpy as np
import pandas as pd
import pytest

from ebe_utils import EBEClassifier, load_dataset, resnet18_for, train
from ebe_utils.forward import predict_logits
from ebe_utils.study.run import Run
from ebe_utils.upkeep.candidates import (
    candidates_table,
    chosen_candidates,
    judge_candidates,
    keep_candidates,
    profiles_table,
)
from ebe_utils.upkeep.publishing import REFERENCE
from ebe_utils.votes import WEIGHTS

KS = (1, 5, 10, 50)
MEASURES = ["accuracy", "agreement", "on mistakes"]


@pytest.fixture(scope="module")
def judged(one_thread):
    train_set, test_set = load_dataset("digits", n_train=200, n_test=120)
    model = train(resnet18_for(train_set), train_set, epochs=1, progress=False, device="cpu")
    return model, train_set, test_set, judge_candidates(model, train_set, test_set, KS)


def test_every_candidate_is_there_once(judged):
    table = judged[3]
    settings = table[["layer", "k", "metric", "weights"]]
    assert not settings.duplicated().any()
    assert len(table) == 21 * (len(KS) * 2 * (len(WEIGHTS) - 1) + 1)  # NNK: one for each layer


@pytest.mark.parametrize("setting", [
    {"layer": 14, "k": 5, "metric": "cosine", "weights": "uniform"},
    {"layer": 3, "k": 1, "metric": "euclidean", "weights": "uniform"},
    {"layer": "avgpool", "k": 5, "metric": "euclidean", "weights": "distance"},
    {"layer": 20, "k": 50, "metric": "cosine", "weights": "nnk"}])
def test_shares_are_those_of_the_classifier(setting, judged):
    model, train_set, test_set, table = judged
    row = table[(table[[*setting]] == pd.Series(setting)).all(axis=1)].iloc[0]
    said = EBEClassifier(model, device="cpu", **setting).fit(train_set).predict(test_set.images)
    network = predict_logits(model, test_set.images, device="cpu").argmax(1)
    wrong = network != test_set.labels
    assert row["accuracy"] == pytest.approx((said == test_set.labels).mean())
    assert row["agreement"] == pytest.approx((said == network).mean())
    assert row["on mistakes"] == pytest.approx((said == network)[wrong].mean())
    assert (row["network"], row["mistakes"]) == (pytest.approx(1 - wrong.mean()), wrong.sum())


def test_the_halves_make_the_whole(judged):
    table = judged[3]
    for what in ("accuracy", "agreement"):
        halves = table[[f"{what}, first half", f"{what}, second half"]].mean(axis=1)
        np.testing.assert_allclose(halves, table[what])


def candidate(k, weights, whole, first, second, layer=14):
    """A row of the table; each of the three: accuracy, agreement, on mistakes."""
    parts = {"": whole, ", first half": first, ", second half": second}
    shares = {f"{name}{half}": value for half, values in parts.items()
              for name, value in zip(MEASURES, values, strict=True)}
    return {"layer": layer, "k": k, "metric": "cosine", "weights": weights, **shares}


def test_what_is_chosen_is_measured_on_the_other_half():
    rows = [candidate(10, "uniform", (0.7, 0.7, 0.7), (0.9, 0.5, 0.6), (0.8, 0.4, 0.2)),
            candidate(50, "nnk", (0.8, 0.6, 0.5), (0.6, 0.9, 0.3), (0.2, 0.1, 0.7)),
            candidate(10, "uniform", (0.1, 0, 0), (0, 0, 0), (0, 0, 0), "avgpool")]
    found = chosen_candidates(pd.DataFrame(rows)).set_index("chosen")
    # The first half takes k = 10 by accuracy (0.9), which the second measures as 0.8, 0.4, 0.2; the second takes k = 10
    # too (0.8 against 0.2), which the first measures as 0.9, 0.5, 0.6.
    assert found.loc["by accuracy", MEASURES].tolist() == pytest.approx([85, 45, 40])
    # By agreement the first takes NNK (0.9): 0.2, 0.1, 0.7 on the second; the second k = 10 (0.4): 0.9, 0.5, 0.6.
    assert found.loc["by agreement", MEASURES].tolist() == pytest.approx([55, 30, 65])
    assert found.loc["by accuracy", "setting"] == "layer 14, NNK votes"  # on all images
    assert found.loc["the paper", MEASURES].tolist() == pytest.approx([70, 70, 70])


def test_of_equals_the_one_with_fewer_examples():
    half = (0.5, 0.5, 0.5)
    table = pd.DataFrame([candidate(20, "uniform", half, half, half), candidate(10, "uniform", half, half, half),
                          candidate(10, "uniform", half, half, half, "avgpool"),
                          candidate(50, "nnk", half, half, half)])
    assert chosen_candidates(table)["setting"][0] == "layer 14, k = 10, cosine, uniform"


def test_the_table_of_a_run_is_kept(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    model, train_set, test_set, table = judged
    monkeypatch.setattr(Run, "open", lambda name: Run.start(run=name))
    monkeypatch.setattr(Run, "load_model", lambda run, data: model)
    monkeypatch.setattr(Run, "load_data", lambda run: (train_set, test_set))
    monkeypatch.setattr("ebe_utils.upkeep.candidates.judge_candidates", lambda *given: table)
    path = keep_candidates("whole", tmp_path / "kept")
    kept = pd.read_csv(path, dtype={"layer": str})
    assert path.name == "whole.csv" and set(kept["run"]) == {"whole"}
    pd.testing.assert_frame_equal(chosen_candidates(kept), chosen_candidates(table), rtol=1e-4)


def test_the_page_shows_what_is_kept(judged, tmp_path):
    assert candidates_table(tmp_path).empty
    judged[3].assign(run="a").to_csv(tmp_path / "a.csv", index=False)
    shown = candidates_table(tmp_path)
    paper = shown[shown["chosen"] == "the paper"].iloc[0]
    row = judged[3].query("layer == 14 and k == 10 and metric == 'cosine' and weights == 'uniform'").iloc[0]
    assert paper["run"] == "a" and paper["agreement"] == f"{100 * row['agreement']:.1f}"
    assert paper["network"] == f"{100 * row['network']:.1f}"


def test_the_fast_profile_beside_the_papers(tmp_path):
    shutil.copytree(REFERENCE / "mnist-paper-seed1", tmp_path / "mnist-paper-seed1")
    (tmp_path / "candidates").mkdir()
    assert profiles_table(tmp_path).empty
    pd.DataFrame({"network": [0.99, 0.99]}).to_csv(tmp_path / "candidates" / "mnist-fast-seed0.csv")
    pd.DataFrame({"network": [0.99]}).to_csv(tmp_path / "candidates" / "digits-fast-seed0.csv")  # without a paper's
    paper = pd.read_csv(REFERENCE / "mnist-paper-seed1" / "train" / "history.csv")["test_accuracy"].iloc[-1]
    table = profiles_table(tmp_path)
    assert table.to_numpy().tolist() == [
        ["mnist", "99.00", f"{100 * paper:.2f}", 1, f"{99 - 100 * paper:+.2f}"]]
