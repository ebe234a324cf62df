"""The audit against planted errors: the measures by hand and by scikit-learn, and resuming."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ebe_utils import EBEClassifier, load_dataset, resnet18_for, train
from ebe_utils.audit import audit
from ebe_utils.label_errors import flip_labels
from ebe_utils.study.parameters import PROFILES
from ebe_utils.upkeep import audits
from ebe_utils.upkeep.audits import judge_audit, keep_audit


@pytest.fixture(scope="module")
def planted(one_thread):
    train_set, test_set = load_dataset("digits", n_train=300, n_test=60)
    labels, flipped = flip_labels(train_set.labels, 0.1, 10)
    wrong = replace(train_set, labels=labels)
    model = train(resnet18_for(wrong), wrong, epochs=2, progress=False, device="cpu")
    return model, wrong, test_set, flipped, judge_audit(model, wrong, test_set, flipped)


@pytest.mark.parametrize("layer", [14, "avgpool"])
@pytest.mark.parametrize("by", ["neighbors", "network", "influence"])
def test_measures_are_those_of_the_audit(by, layer, planted):
    model, wrong, test_set, flipped, table = planted
    row = table[(table["layer"] == layer) & (table["by"] == by)].iloc[0]
    found = audit(EBEClassifier(model, layer=layer, k=10, device="cpu").fit(wrong), test_set)
    order = found.label_errors(by)
    scores = order.set_index("index")["suspicion"].sort_index().to_numpy()
    assert row["area"] == pytest.approx(roc_auc_score(flipped, scores))
    assert row["first"] == pytest.approx(flipped[order["index"][:30]].mean())
    assert (row["planted"], row["hubness"]) == (30, pytest.approx(found.hubness))


def test_what_confident_learning_names(planted):
    model, wrong, test_set, flipped, table = planted
    row = table[(table["layer"] == 14) & (table["by"] == "confident learning, neighbors")].iloc[0]
    likely = audit(EBEClassifier(model, layer=14, k=10, device="cpu").fit(wrong)).to_frame()["likely"].to_numpy()
    assert row["named"] == likely.sum()
    assert row["precision"] == pytest.approx((likely & flipped).sum() / likely.sum())
    assert row["recall"] == pytest.approx((likely & flipped).sum() / 30)


def test_a_network_that_knows_nothing_finds_nothing_by_its_loss(planted):
    """The measures can fail: the loss of an untrained network does not find the errors."""
    _, wrong, test_set, flipped, trained = planted
    table = judge_audit(resnet18_for(wrong, seed=5).eval(), wrong, test_set, flipped)
    loss = table[table["by"] == "network"]["area"]
    assert (abs(loss - 0.5) < 0.15).all()
    assert table["accuracy"][0] < trained["accuracy"][0]


def test_a_trained_network_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    trainings = []

    def counted(model, *given, **options):
        trainings.append(options)
        return train(model, *given, **options | {"epochs": 1})

    monkeypatch.setattr(audits, "train", counted)
    monkeypatch.setitem(PROFILES, "quick", (150, 40, 1, "linear"))
    tables = [pd.read_csv(keep_audit("digits", 0.1, profile="quick", folder=tmp_path / "kept")) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
    assert len(trainings) == 1 and (tmp_path / "kept" / "digits-0.1-seed0.csv").is_file()
    assert (tables[0]["planted"] == 15).all() and set(tables[0]["profile"]) == {"quick"}
    assert np.isfinite(tables[0].loc[tables[0]["by"] == "neighbors", "area"]).all()


def test_the_page_shows_what_is_kept(planted, tmp_path):
    assert audits.audits_table(tmp_path).empty
    about = {"dataset": "digits", "share": 0.1, "seed": 0, "profile": "fast"}
    planted[4].assign(**about).to_csv(tmp_path / "digits-0.1-seed0.csv", index=False)
    shown = audits.audits_table(tmp_path)
    rows = shown.set_index(["layer", "suspected by"])
    assert not rows.index.duplicated().any() and ("–", "network") in rows.index
    first = planted[4].query("layer == 14 and by == 'neighbors'").iloc[0]
    assert rows.loc[("14", "neighbors"), "area"] == f"{first['area']:.3f}"
    assert rows.loc[("14", "neighbors"), "first"] == f"{100 * first['first']:.1f}"
    assert rows.loc[("14", "neighbors"), "precision"] == ""
    assert set(shown["wrong labels (%)"]) == {"10"}
