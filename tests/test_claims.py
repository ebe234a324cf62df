"""The paper's claims, on accuracies made by hand so that each holds, or just does not."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multinomial, norm

from ebe_utils.statistics import draw_accuracies, paired_difference, proportion_error
from ebe_utils.study.claims import judge_claims, judge_other_claims
from ebe_utils.tables import KS

N = 10_000
IMAGES = np.arange(N)


def together(changes=(), network=0.7, seed=None, ks=KS, layers=range(21)):
    """`joint_correctness` for accuracy 0.8 everywhere; changes: {(layer, k): accuracy}, with None for every k.

    Predictors get the first images right, or, with a seed, images at random. Of the first images, two predictors of the
    same accuracy get the same ones right, so that differences have the smallest intervals.
    """
    changes, rng = dict(changes), np.random.default_rng(seed)

    def right(accuracy):
        return (IMAGES if seed is None else rng.permutation(N)) < round(accuracy * N)

    found = {"all": right(1), "network": right(network)}
    for layer, k in itertools.product(layers, ks):
        found[f"{layer}/{k}"] = right(changes.get((layer, k), changes.get((layer, None), 0.8 if layer else 0.99)))
    rows = np.stack([*found.values()]).astype(int)
    return pd.DataFrame(rows @ rows.T, index=[*found], columns=[*found])


def every_layer(k, accuracy, but=()):
    return {(layer, k): accuracy for layer in range(1, 21)} | dict(but)


BEST = {(9, 1): 0.88, (9, 3): 0.89, (9, 5): 0.895, (9, 10): 0.9, (9, 20): 0.903, (9, 50): 0.9}

HOLDS = [
    ("1a", "mnist", {}), ("1a", "mnist", {(1, None): 0.1}),
    ("1b", "mnist", {}), ("1b", "mnist", {(20, None): 0.1}),
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
    ("1a", "mnist", {(2, 50): 0.7}), ("1a", "mnist", {(20, 1): 0.6}),
    ("1b", "mnist", {(19, 50): 0.7}), ("1b", "mnist", {(1, 1): 0.6}),
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


def counts(n, only_a, only_b, both=0):
    """`joint_correctness` of two predictors, of n images."""
    a, b = only_a + both, only_b + both
    return pd.DataFrame([[n, a, b], [a, a, both], [b, both, b]], index=["all", "a", "b"], columns=["all", "a", "b"])


class TestPairedDifference:
    def test_published_example(self):
        """Cavo et al. (2012): 59, 6, 16, 80 pairs; the interval is that of the R package contingencytables 3.1."""
        found = paired_difference(counts(161, 6, 16, 59), "a", "b")
        assert {name: round(value, 4) for name, value in found.items() if name != "p"} == {
            "difference": -0.0621, "low": -0.1195, "high": -0.0032}

    def test_by_hand(self):
        found = paired_difference(counts(100, 10, 2, 50), "a", "b")
        half = 1.959964 * np.sqrt((14 / 102 - (8 / 102) ** 2) / 102)
        z = 8 / np.sqrt(14 - 64 / 102)  # McNemar's (b - c) / √(b + c), with one image more on either side
        assert found == pytest.approx({"difference": 0.08, "low": 8 / 102 - half, "high": 8 / 102 + half,
                                       "p": 2 * norm.sf(z)})
        back = paired_difference(counts(100, 10, 2, 50), "b", "a")
        assert (back["low"], back["high"], back["p"]) == pytest.approx((-found["high"], -found["low"], found["p"]))

    def test_a_predictor_does_not_differ_from_itself(self):
        assert paired_difference(counts(100, 10, 2, 50), "a", "a") == {"difference": 0, "low": 0, "high": 0, "p": 1}

    @pytest.mark.parametrize("alpha", [0.05, 0.05 / 114])
    def test_interval_and_p_say_the_same(self, alpha):
        for n, only_a, only_b in itertools.product((20, 100), range(13), range(7)):
            found = paired_difference(counts(n, only_a, only_b), "a", "b", alpha)
            assert (found["low"] > 0 or found["high"] < 0) == (found["p"] < alpha), (n, only_a, only_b)

    def test_where_both_are_always_right_the_interval_has_a_width(self):
        found = paired_difference(counts(20, 0, 0, 20), "a", "b")
        assert found["low"] == -found["high"] == pytest.approx(-1.959964 * np.sqrt(2) / 22)
        assert found["p"] == 1

    def test_ends_are_differences_of_accuracies(self):
        assert paired_difference(counts(2, 2, 0), "a", "b", 1e-9)["high"] == 1

    @pytest.mark.parametrize("n, discordant", [(20, 0.01), (20, 0.05), (20, 0.1), (100, 0.01), (100, 0.1),
                                               (1000, 0.005), (1000, 0.02)])
    @pytest.mark.parametrize("share", [0.5, 0.7, 1])
    def test_covers_the_true_difference(self, n, discordant, share):
        """Summed over all outcomes of a trinomial: how often the 95 % interval holds the true difference."""
        p = discordant * share, discordant * (1 - share)
        grid = np.stack(np.meshgrid(np.arange(n + 1), np.arange(n + 1)), -1).reshape(-1, 2)
        grid = grid[grid.sum(1) <= n]
        chance = multinomial.pmf(np.column_stack([grid, n - grid.sum(1)]), n, [*p, 1 - sum(p)])
        likely = chance > 1e-7
        ends = [paired_difference(counts(n, b, c), "a", "b") for b, c in grid[likely].tolist()]
        holds = [end["low"] <= p[0] - p[1] <= end["high"] for end in ends]
        assert chance[likely].sum() > 0.999
        assert chance[likely][holds].sum() >= 0.93


def test_nothing_is_settled_by_few_images_that_everyone_gets_right():
    names = ["all", "network", *(f"{layer}/{k}" for layer in range(21) for k in KS)]
    found = judge_claims(pd.DataFrame(20, names, names), "cifar10").set_index("claim")
    assert (found["low"] < 0).all() and (found["high"] > found["low"]).all()
    assert not (found["verdict"] == "holds").any()


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
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(again), atol=3e-5)
    np.testing.assert_allclose(drawn.std(), proportion_error(again.mean(1), 500), rtol=0.02)


@pytest.mark.parametrize("claim, dataset, changes, holds", [(*case, True) for case in HOLDS]
                         + [(*case, False) for case in DOES_NOT_HOLD])
def test_margins_and_verdicts(claim, dataset, changes, holds):
    row = judge_claims(together(changes), dataset).set_index("claim").loc[claim]
    assert (round(row["measured"], 9) > 0) == holds, row
    assert row["low"] - 1e-9 <= row["measured"] <= row["high"] + 1e-9
    expected = "holds" if holds else "does not hold"
    assert row["verdict"] == expected or (row["verdict"] == "undecided" and abs(row["measured"]) < 0.01), row


@pytest.mark.parametrize("dataset, about", [
    ("mnist", {"1a", "1b", "3", "4", "8"}), ("fashion_mnist", {"2a", "2b", "3", "4", "8"}),
    ("cifar10", {"4", "5", "6", "7", "8"}), ("digits", {"8"}), ("folder:pictures", {"8"})])
def test_claims_about_other_data_sets_do_not_apply(dataset, about):
    found = judge_claims(together(), dataset)
    assert list(found["claim"]) == ["1a", "1b", "2a", "2b", "3", "4", "5", "6", "7", "8"]
    assert set(found.loc[found["verdict"] != "does not apply", "claim"]) == about
    assert found["measured"].notna().all() and (found["text"] != "").all()


def test_margins_by_hand():
    changes = {(2, 50): 0.65, (12, None): 0.9, (12, 1): 0.89, (12, 50): 0.902, (15, 10): 0.75, (17, None): 0.83}
    found = judge_claims(together(changes), "cifar10").set_index("claim")
    assert "(layer 12)" in found.loc["7", "text"]
    by_layer = (0.09 + 4 * 0.1 + 0.252) / 6  # of k = 1, 3 to 20 (at 10 the lowest is 0.75), 50
    by_layer += 0.05 / 6
    by_k = (0.15 + 0.012 + 0.05) / 20
    assert found["measured"].to_dict() == pytest.approx({
        "1a": -0.05, "1b": -0.05, "2a": 0.05, "2b": -0.05, "3": (0.89 + 4 * 0.9 + 0.902) / 6 - 0.83,
        "4": by_layer - 2 * by_k, "5": 0.1 + 0.01, "6": 0.05 - 0.01, "7": min(0.01 - 0.005, 0.005 - 0.002),
        "8": 0.2 + 0.002})


@pytest.mark.parametrize("k, used", [(3, 3), (4, 3), (50, 50), (99, 50)])
def test_another_k(k, used):
    found = judge_claims(together({(15, used): 0.5, (16, used): 0.6}), "cifar10", k=k).set_index("claim")["measured"]
    assert found["5"] == pytest.approx(0.6 + 0.01 - 0.7)
    assert found["6"] == pytest.approx(0.1 - 0.01)


def test_tables_of_fewer_ks():
    text, margin = judge_claims(together({(9, None): 0.9, (9, 1): 0.88}, ks=[1, 3, 5]), "cifar10").set_index(
        "claim").loc["7", ["text", "measured"]]
    assert "k = 5 gains half a point over k = 1" in text
    assert margin == pytest.approx(0.005)  # no larger k can be better


@pytest.mark.parametrize("found", [together(layers=range(20)), together(layers=[0, 14]), together(ks=[1])])
def test_tables_that_cannot_answer(found):
    with pytest.raises(ValueError, match="layers 1 to 20 and at least two of k = .* larger k_max"):
        judge_claims(found, "mnist")


def test_unknown_predictors():
    with pytest.raises(ValueError, match="predictor='14/7' is unknown; choose one of all, network, 0/1, 0/3"):
        paired_difference(together(), "14/7", "network")


@pytest.mark.parametrize("claim, dataset, changes", [
    ("1a", "mnist", {(2, 50): 0.702}), ("1b", "mnist", {(2, 50): 0.702}),
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


class TestOtherNetworks:
    """`judge_other_claims`: on 20 layers the general claims are the paper's; a layer that drops, found by hand."""

    def test_on_twenty_layers_it_is_the_papers_judgement(self):
        table = together({(9, 10): 0.87, (15, 10): 0.6, (16, None): 0.75}, seed=1)
        ours = judge_other_claims(table, range(1, 21))
        theirs = judge_claims(table, "cifar10")
        same = ["1a", "1b", "2a", "2b", "3", "4", "5", "7", "8"]
        for column in ("claim", "measured", "low", "high"):
            assert (ours.set_index("claim", drop=False)[column][same]
                    == theirs.set_index("claim", drop=False)[column][same]).all()
        assert "does not apply" not in set(ours["verdict"])

    @pytest.mark.parametrize(("dropped", "verdict"), [(3, "holds"), (1, "does not hold"), (6, "does not hold"),
                                                      (None, "does not hold")])
    def test_a_layer_that_drops_below_both_neighbours(self, dropped, verdict):
        table = together({(dropped, 10): 0.76}, layers=range(1, 7))
        claim = judge_other_claims(table, range(1, 7)).set_index("claim").loc["6"]
        assert claim["verdict"] == verdict
        assert claim["measured"] == pytest.approx(0.03 if dropped == 3 else -0.01 if dropped is None else -0.01)

    def test_layers_may_have_names(self):
        table = together({("c", None): 0.9}, layers="abcdefg")
        found = judge_other_claims(table, "abcdefg").set_index("claim")
        assert found["verdict"]["3"] == "holds"
        assert "(f, g)" in found["text"]["5"]

    def test_too_few_layers_are_refused(self):
        with pytest.raises(ValueError, match="there are 2; pass at least three"):
            judge_other_claims(together(layers="ab"), "ab")
        with pytest.raises(ValueError, match="the claims need every layer and at least two of k"):
            judge_other_claims(together(layers="abc"), "abcd")
