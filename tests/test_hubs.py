"""Mutual proximity against cosine distance on a network: the measures against the classifier's and by counting."""

import pandas as pd
import pytest

from ebe_utils import EBEClassifier, embed
from ebe_utils.hubness import MutualProximity
from ebe_utils.metrics import k_occurrence
from ebe_utils.study.run import Run
from ebe_utils.upkeep import hubs


@pytest.fixture(scope="module")
def judged(small, trained):
    return hubs.judge_hubness(trained, *small, layers=(14, "avgpool"), k=5)


@pytest.mark.parametrize("layer", [14, "avgpool"])
@pytest.mark.parametrize("distance", ["cosine", "mutual proximity"])
def test_measures_are_those_of_the_classifier(layer, distance, judged, small, trained):
    train_set, test_set = small
    row = judged[(judged["layer"] == layer) & (judged["distance"] == distance)].iloc[0]
    # All 200 training images say what is usual, as the sample is larger than the training set.
    metric = "cosine" if distance == "cosine" else MutualProximity(embed(trained, train_set.images, layer))
    ebe = EBEClassifier(trained, layer=layer, k=5, metric=metric, device="cpu").fit(train_set)
    found = ebe.explain_batch(test_set.images)
    counts = k_occurrence(found.indices, len(train_set))
    wrong = found.network_prediction != test_set.labels
    assert row["accuracy"] == pytest.approx((found.prediction == test_set.labels).mean())
    assert row["agreement"] == pytest.approx(found.agreement.mean())
    assert row["on mistakes"] == pytest.approx(found.agreement[wrong].mean())
    assert (row["most"], row["orphans"]) == (counts.max(), pytest.approx((counts == 0).mean()))
    assert row["hubness"] == pytest.approx(pd.Series(counts).skew(), rel=0.02)  # pandas corrects for the sample


def test_the_table_of_a_run_is_kept(small, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(Run, "open", lambda name: Run.start(run=name))
    monkeypatch.setattr(Run, "load_model", lambda run, data: trained)
    monkeypatch.setattr(Run, "load_data", lambda run: small)
    monkeypatch.setattr(hubs, "N_TEST", 20)
    kept = pd.read_csv(hubs.keep_hubness("whole", tmp_path / "kept"))
    assert set(kept["run"]) == {"whole"} and set(kept["queries"]) == {20} and len(kept) == 10


def test_the_page_shows_what_is_kept(judged, tmp_path):
    assert hubs.hubness_table(tmp_path).empty
    judged.assign(run="a").to_csv(tmp_path / "a.csv", index=False)
    shown = hubs.hubness_table(tmp_path)
    assert len(shown) == len(judged) and list(shown["most"]) == list(judged["most"])
    assert shown["agreement"][0] == f"{100 * judged['agreement'][0]:.1f}"
