"""The paper's claims, on tables made by hand so that each holds, or just does not."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ebe_utils.claims import check_claims, draw_accuracies, judge_claims, paired
from ebe_utils.sweep import KS

NETWORK = 0.7


def table(changes=(), ks=KS, layers=range(21)):
    """A sweep with accuracy 0.8 everywhere, the network's 0.7; changes: {(layer, k): accuracy}, None for every k."""
    changes = dict(changes)
    rows = [{"layer": layer, "k": k, "network_accuracy": NETWORK,
             "accuracy": changes.get((layer, k), changes.get((layer, None), 0.8 if layer else 0.99))}
            for layer, k in itertools.product(layers, ks)]
    return pd.DataFrame(rows)


def every_layer(k, accuracy, but=()):
    return {(layer, k): accuracy for layer in range(1, 21)} | dict(but)


BEST = {(9, 1): 0.88, (9, 3): 0.89, (9, 5): 0.895, (9, 10): 0.9, (9, 20): 0.903, (9, 50): 0.9}

HOLDS = [
    ("1", "mnist", {}), ("1", "mnist", {(1, None): 0.1}),
    ("2a", "fashion_mnist", {}), ("2a", "fashion_mnist", {(8, None): 0.1}),
    ("2b", "fashion_mnist", {}), ("2b", "fashion_mnist", {(10, None): 0.1}),
    ("3", "mnist", {(6, None): 0.9}), ("3", "fashion_mnist", {(15, None): 0.9}),
    ("3", "mnist", {(20, 50): 0.99, (9, None): 0.85}),
    ("4", "cifar10", every_layer(1, 0.71, {(1, None): 0.6, (1, 1): 0.51})),
    ("5", "cifar10", {(16, 10): 0.695, (19, 10): 0.695}), ("5", "cifar10", {(16, 1): 0.1, (19, 50): 0.1}),
    ("6", "cifar10", {(15, 10): 0.785}),
    ("7", "cifar10", BEST),
    ("8", "digits", {}), ("8", "folder:x", every_layer(1, 0.6) | every_layer(3, 0.6)),
    ("8", "cifar10", {(layer, None): 0.6 for layer in range(1, 21)} | {(4, 10): 0.7})]

DOES_NOT_HOLD = [
    ("1", "mnist", {(2, 50): 0.7}), ("1", "mnist", {(20, 1): 0.6}),
    ("2a", "fashion_mnist", {(9, 1): 0.7}), ("2a", "fashion_mnist", {(20, 50): 0.6}),
    ("2b", "fashion_mnist", {(9, 1): 0.7}), ("2b", "fashion_mnist", {(1, 50): 0.6}),
    ("3", "mnist", {(5, None): 0.9}), ("3", "fashion_mnist", {(16, None): 0.9}), ("3", "mnist", {(1, None): 0.9}),
    ("4", "cifar10", every_layer(1, 0.69, {(1, None): 0.6, (1, 1): 0.49})), ("4", "mnist", every_layer(50, 0.2)),
    ("5", "cifar10", {(16, 10): 0.685}), ("5", "cifar10", {(19, 10): 0.685}),
    ("6", "cifar10", {}), ("6", "cifar10", {(15, 10): 0.795}), ("6", "cifar10", {(15, 1): 0.1}),
    ("6", "cifar10", {(15, 10): 0.785, (14, 10): 0.79}), ("6", "cifar10", {(15, 10): 0.785, (16, 10): 0.79}),
    ("7", "cifar10", BEST | {(9, 1): 0.897}), ("7", "cifar10", BEST | {(9, 20): 0.906}),
    ("8", "mnist", {(layer, None): 0.6 for layer in range(1, 21)}),
    ("8", "mnist", {(layer, k): 0.6 for layer in range(1, 21) for k in KS if k <= 10})]


@pytest.mark.parametrize("claim, dataset, changes, verdict", [(*case, "holds") for case in HOLDS]
                         + [(*case, "does not hold") for case in DOES_NOT_HOLD])
def test_verdicts(claim, dataset, changes, verdict):
    found = check_claims(table(changes), dataset).set_index("claim")
    assert found.loc[claim, "verdict"] == verdict, found.loc[claim, "measured"]


@pytest.mark.parametrize("dataset, about", [
    ("mnist", {"1", "3", "4", "8"}), ("fashion_mnist", {"2a", "2b", "3", "4", "8"}),
    ("cifar10", {"4", "5", "6", "7", "8"}), ("digits", {"8"}), ("folder:pictures", {"8"})])
def test_claims_about_other_data_sets_do_not_apply(dataset, about):
    found = check_claims(table(), dataset)
    assert list(found["claim"]) == ["1", "2a", "2b", "3", "4", "5", "6", "7", "8"]
    assert set(found.loc[found["verdict"] != "does not apply", "claim"]) == about
    assert (found["measured"] != "").all() and (found["text"] != "").all()


def test_what_is_measured():
    changes = {(2, 50): 0.65, (12, None): 0.9, (15, 10): 0.75}
    found = check_claims(table(changes), "cifar10").set_index("claim")["measured"]
    assert found["1"] == "113 of 114 (layer, k) above the network's 0.7000; smallest difference -0.0500"
    assert found["3"] == "best layer 12 (0.9000, mean over k); best of 16 to 20 0.8000"
    assert found["5"] == "layer 16 +0.1000, layer 19 +0.1000, k = 10"
    assert found["6"] == "layers 14, 15, 16: 0.8000, 0.7500, 0.8000, k = 10"
    assert found["7"] == "layer 12: k = 1 0.9000, k = 10 0.9000, best larger k 0.9000"
    assert found["8"].endswith("at some layer: 1")
    never = check_claims(table({(layer, None): 0.6 for layer in range(1, 21)}), "mnist").set_index("claim")["measured"]
    assert never["8"].endswith("at some layer: none")


def test_another_k():
    found = check_claims(table({(15, 3): 0.5, (16, 3): 0.5}), "cifar10", k=3).set_index("claim")
    assert found.loc["5", "verdict"] == found.loc["6", "verdict"] == "does not hold"
    assert found.loc["5", "measured"].endswith("k = 3")
    assert "k = 5 0.8000" in check_claims(table(ks=[5, 10, 20]), "cifar10").set_index("claim").loc["7", "measured"]


@pytest.mark.parametrize("sweep, k, words", [
    (table(layers=range(20)), 10, "layers 1 to 20"), (table(layers=[0, 14]), 10, "layers='all'"),
    (table(ks=[10]), 10, "at least two of"), (table(), 7, "it needs 7"), (table(ks=[2, 4, 10]), 10, "at least two of")])
def test_sweeps_that_cannot_answer(sweep, k, words):
    with pytest.raises(ValueError, match=words):
        check_claims(sweep, "mnist", k)


# --- with intervals ------------------------------------------------------------------------------------------------

N = 10_000
IMAGES = np.arange(N)


def together(changes=(), network=0.7, seed=None):
    """`right_together` of predictors that get the first images right, as many as in `table`; seed: others at random.

    Two predictors of the same accuracy get the same images right, so that differences have the smallest intervals.
    """
    changes, rng = dict(changes), np.random.default_rng(seed)

    def right(accuracy):
        return (IMAGES if seed is None else rng.permutation(N)) < round(accuracy * N)

    found = {"all": right(1), "network": right(network)}
    for layer, k in itertools.product(range(21), KS):
        found[f"{layer}/{k}"] = right(changes.get((layer, k), changes.get((layer, None), 0.8 if layer else 0.99)))
    rows = np.stack([*found.values()]).astype(int)
    return pd.DataFrame(rows @ rows.T, index=[*found], columns=[*found])


def test_paired_by_hand():
    found = pd.DataFrame([[100, 60, 52], [60, 60, 50], [52, 50, 52]], index=["all", "a", "b"],
                         columns=["all", "a", "b"])
    measured = paired(found, "a", "b")  # 10 images only a gets right, 2 only b
    half = 1.959964 * np.sqrt(12 - 64 / 100) / 100
    assert measured == pytest.approx({"difference": 0.08, "low": 0.08 - half, "high": 0.08 + half,
                                      "p": 2 * (1 + 12 + 66) / 2**12})
    back = paired(found, "b", "a")
    assert (back["low"], back["high"], back["p"]) == pytest.approx((-measured["high"], -measured["low"], measured["p"]))
    assert paired(found, "a", "a") == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_drawn_accuracies_are_as_a_bootstrap_draws_them():
    rng = np.random.default_rng(0)
    right = {"all": np.ones(500, int), "network": (rng.random(500) < 0.7).astype(int)}
    right["1/1"] = np.where(rng.random(500) < 0.8, right["network"], 1 - right["network"])
    right["1/3"] = (rng.random(500) < 0.4).astype(int)
    rows = np.stack([*right.values()])
    drawn = draw_accuracies(pd.DataFrame(rows @ rows.T, index=[*right], columns=[*right]), 20_000)
    again = rows[1:, rng.integers(0, 500, (20_000, 500))].mean(2)
    assert list(drawn) == ["network", "1/1", "1/3"]
    np.testing.assert_allclose(drawn.mean(), again.mean(1), atol=1e-3)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(again), atol=2e-5)


@pytest.mark.parametrize("claim, dataset, changes, verdict", [(*case, "holds") for case in HOLDS if case[0] != "7"]
                         + [(*case, "does not hold") for case in DOES_NOT_HOLD if case[0] not in "357"])
def test_judged_verdicts_agree_where_differences_are_large(claim, dataset, changes, verdict):
    found = judge_claims(together(changes), dataset).set_index("claim")
    row = found.loc[claim]
    assert row["low"] <= row["measured"] <= row["high"]
    assert row["verdict"] in (verdict, "undecided")
    assert row["verdict"] == verdict or abs(row["measured"]) < 0.01


@pytest.mark.parametrize("claim, dataset, changes", [
    ("1", "mnist", {(2, 50): 0.702}),
    ("2a", "fashion_mnist", {(9, 1): 0.701}), ("2b", "fashion_mnist", {(9, 1): 0.699}),
    ("3", "mnist", {(9, None): 0.8005}), ("4", "cifar10", every_layer(1, 0.71, {(1, None): 0.62, (1, 1): 0.53})),
    ("5", "cifar10", {(16, 10): 0.69}), ("6", "cifar10", {(15, 10): 0.79}),
    ("8", "mnist", {(layer, None): 0.698 for layer in range(1, 21)})])
def test_small_differences_are_undecided(claim, dataset, changes):
    found = judge_claims(together(changes, seed=1), dataset).set_index("claim")
    assert found.loc[claim, "verdict"] == "undecided", found.loc[claim]


def test_more_images_narrow_the_interval():
    counts = together({(9, None): 0.85}, seed=1)
    few, many = (judge_claims(counts * times, "mnist").set_index("claim") for times in (1, 4))
    width = (few["high"] - few["low"]) / (many["high"] - many["low"])
    np.testing.assert_allclose(width, 2, rtol=0.05)


def test_judged_claims_about_other_data_sets_do_not_apply():
    found = judge_claims(together(), "digits").set_index("claim")
    assert list(found.index) == ["1", "2a", "2b", "3", "4", "5", "6", "7", "8"]
    assert set(found.index[found["verdict"] != "does not apply"]) == {"8"}
