"""Choices of examples on one network, by four measures: each against what another part of the package or NumPy says."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_distances

from ebe_utils import EBEClassifier, embed
from ebe_utils.frontier import Frontier
from ebe_utils.network_examples import total_variation
from ebe_utils.study.results import kept_frontiers
from ebe_utils.upkeep.frontiers import FOLDER, frontier_figure, write_frontier
from ebe_utils.upkeep.publishing import CHECKOUT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def frontier(trained, small):
    return Frontier(trained, *small, k=5, candidates=(30, 10))


@pytest.fixture(scope="module")
def table(frontier):
    return frontier.table(frontier.judge((10, 100)), refits=6).set_index("choice")


def test_our_choices_are_the_classifiers(frontier, trained, small):
    choices = frontier.choices()
    for name, settings in {"layer 14, nearest (the paper)": {},
                           "answers, of 10": {"target": "network", "candidates": 10, "choice": "answers"},
                           "influence, of 30": {"target": "network", "candidates": 30},
                           "shares, of 30": {"target": "network", "candidates": 30, "choice": "shares"}}.items():
        theirs = EBEClassifier(trained, 14, 5, **settings).fit(small[0]).explain_batch(small[1].images)
        at, weights = choices[name]
        weights = np.full(at.shape, 0.2) if weights is None else weights
        for i in range(len(at)):
            kept = weights[i] > 0
            assert set(at[i][kept]) == set(theirs.indices[i][theirs.weights[i] > 0]), name


def test_the_measures_are_those_of_the_classifier(table, frontier, trained, small):
    for name, settings in {"layer 14, nearest (the paper)": {},
                           "influence, of 30": {"target": "network", "candidates": 30}}.items():
        found = EBEClassifier(trained, 14, 5, **settings).fit(small[0]).explain_batch(small[1].images)
        row = table.loc[name]
        assert row["agreement"] == pytest.approx(100 * found.agreement.mean())
        assert row["accuracy"] == pytest.approx(100 * (found.prediction == small[1].labels).mean())
        assert row["TV"] == pytest.approx(total_variation(found.proba, found.network_proba).mean(), abs=1e-6)


def test_nearness_is_the_rank_by_scikit_learn(frontier, trained, small):
    train, test = (embed(trained, part.images, 14) for part in small)
    ranks = cosine_distances(test.astype(float), train.astype(float)).argsort(1).argsort(1)
    some = np.random.default_rng(0).integers(0, len(train), (len(test), 4))
    np.testing.assert_allclose(frontier._nearer([some])[0], np.take_along_axis(ranks, some, 1) / len(train),
                               atol=2 / len(train))


def test_what_must_come_out(table):
    assert (table.loc[["nearest of the answer's class", "representer points", "random of the answer's class"],
                      "agreement"] == 100).all()
    assert table.loc["layer 14, nearest (the paper)", "near"] == table["near"].min()
    assert table.loc["influence, of 30", "agreement"] >= table.loc["layer 14, nearest (the paper)", "agreement"]
    assert table.loc["shares, of 30", "TV"] < table.loc["influence, of 30", "TV"]
    assert table.loc["random", "near"] == pytest.approx(50, abs=10)


def test_reliance_of_the_most_influential_is_whole(frontier):
    judge = frontier.judge((10,))
    if not len(frontier.wrong):
        pytest.skip("this network makes no mistake")
    effects = np.concatenate(list(judge.effects(frontier.features, frontier.answers)))
    best = (-effects).argsort(1)[:, :5]
    row = frontier.table(judge, {"best": (best, None), "worst": (effects.argsort(1)[:, :5], None)}, 4)
    assert row["reliance"][0] == pytest.approx(100) and row["refit"][0] == pytest.approx(100)
    assert row["reliance"][1] < 0 and row["refit"][1] < 0


def test_no_choice_of_the_candidates_exceeds_the_bound(frontier):
    """Against every set of five of the nearest ten, by brute force, and against what the methods choose."""
    judge, wrong = frontier.judge((10,)), frontier.wrong
    bound = frontier.bounds(judge, 2).set_index("choice")
    rows = frontier.table(judge, refits=2).set_index("choice")
    effects = np.concatenate(list(judge.effects(frontier.features[wrong], frontier.answers[wrong])))
    most = np.sort(effects, 1)[:, -5:].sum(1)
    near = np.take_along_axis(effects, frontier.near[wrong, :10], 1)
    best = np.max([near[:, list(five)].sum(1) for five in itertools.combinations(range(10), 5)], axis=0)
    assert bound.loc["most relied on, of 10 (bound)", "reliance"] == pytest.approx(100 * np.mean(best / most))
    for c in (10, 30):
        limit = bound.loc[f"most relied on, of {c} (bound)"]
        assert limit["reliance"] >= rows.loc[f"influence, of {c}", "reliance"] - 1e-9
        assert np.isnan(limit["agreement"]) and 0 <= limit["near"] <= 100 * c / frontier.n


def test_examples_without_weight_stay(frontier):
    """Five copies of one example, all the weight on one: the refit is that without this one."""
    judge, at = frontier.judge((10,)), frontier.near[:3, :5]
    weights = np.zeros((3, 5))
    weights[:, 2] = 1
    found = frontier._without(judge, np.arange(3), at, weights)
    for i in range(3):
        alone = judge.refitted(frontier.features[[i]], frontier.answers[[i]], at[i, [2]])
        np.testing.assert_allclose(found[i], alone, rtol=0.02, atol=1e-5)


def test_bad_settings(trained, small):
    with pytest.raises(ValueError, match="candidates=3"):
        Frontier(trained, *small, k=5, candidates=[3])


def test_a_kept_table_says_how_it_was_made(table, tmp_path):
    path = write_frontier(table.reset_index(), "digits-quick-seed0", 100.0, 6, tmp_path)
    again = pd.read_csv(path)
    assert path.name == "digits-quick-seed0.csv" and set(again["run"]) == {"digits-quick-seed0"}
    assert (again["ridge"] == 100).all() and (again["refits"] == 6).all()
    np.testing.assert_allclose(again["agreement"], table["agreement"], rtol=1e-3)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_committed_tables_are_possible(path):
    """What follows from how the choices are made, whatever the network."""
    table = pd.read_csv(path).set_index("choice")
    certain = ["nearest of the answer's class", "representer points", "random of the answer's class"]
    assert (table.loc[certain, ["agreement", "on mistakes"]] == 100).all(axis=None)
    assert table["near"].idxmin().startswith("layer 14, nearest")
    for name in table.index[table.index.str.startswith(("influence, of", "answers, of"))]:
        assert table.loc[name, "near"] <= table.loc[f"influence, of {max(candidates_of(table))}", "near"] * 1.5
    assert table.loc["random", "near"] == pytest.approx(50, abs=2)
    assert abs(table.loc["random", "reliance"]) < 5
    refitted = table["refit"].notna()
    assert (table.loc[refitted, "refit low"] <= table.loc[refitted, "refit"]).all()


def test_the_committed_figure_shows_the_committed_tables():
    tables = kept_frontiers().set_index(["run", "choice"])
    shown = pd.read_csv(CHECKOUT / "figures" / "frontier" / "frontier.csv").set_index(["run", "choice"])
    np.testing.assert_allclose(shown, tables.loc[shown.index, shown.columns], rtol=1e-3)
    assert {run for run, _ in shown.index} == {run for run, _ in tables.index}
    figure = frontier_figure(tables.reset_index())
    for axis, run in zip(figure.axes, dict.fromkeys(run for run, _ in tables.index), strict=True):
        points = np.concatenate([line.get_xydata() for line in axis.lines if len(line.get_xdata()) and
                                 line.get_marker() in ("o", "s")])
        expected = shown.loc[run, ["near", "reliance"]].to_numpy()
        np.testing.assert_allclose(points[np.lexsort(points.T)], expected[np.lexsort(expected.T)], rtol=1e-3)
    plt.close(figure)


def candidates_of(table):
    """The numbers of candidates in a table."""
    return [int(name.split()[-1]) for name in table.index if name.startswith("influence, of")]
