"""The audit of a training set: Shapley values against their definition, graphs against scikit-learn, planted errors."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, skew
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, kneighbors_graph

from ebe_utils import EBEClassifier
from ebe_utils.audit import audit
from ebe_utils.hubness import MutualProximity, hubness, mutual_proximity
from ebe_utils.label_errors import confident_errors, flip_labels, suspicion
from ebe_utils.search import kneighbors
from ebe_utils.shapley import knn_shapley, mean_shapley

pytestmark = pytest.mark.usefixtures("one_thread")


# --- influence -----------------------------------------------------------------------------------------------------


def by_definition(right, k):
    """Shapley values of players 0, 1, ... (nearest first), from the worth of every coalition."""
    n = len(right)

    def worth(members):
        return sum(right[i] for i in sorted(members)[:k]) / k

    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for r in range(n):
            share = math.factorial(r) * math.factorial(n - r - 1) / math.factorial(n)
            values[i] += share * sum(worth({*s, i}) - worth(s) for s in itertools.combinations(others, r))
    return values


@pytest.mark.parametrize("seed", range(25))
def test_shapley_values_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    n, k, m = int(rng.integers(1, 8)), int(rng.integers(1, 10)), 3
    labels, truth = rng.integers(0, 3, n), rng.integers(0, 3, m)
    order = np.stack([rng.permutation(n) for _ in range(m)])
    found = knn_shapley(order, labels, truth, k)
    for row, at, right in zip(found, order, truth, strict=True):
        np.testing.assert_allclose(row[at], by_definition(labels[at] == right, k), atol=1e-12)


def test_shapley_values_add_up_to_the_performance():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
    queries, truth = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    distances = pairwise_distances(queries, rows)
    found = mean_shapley([distances[:20], distances[20:]], labels, truth, 7)
    proba = KNeighborsClassifier(7).fit(rows, labels).predict_proba(queries)
    assert found.sum() == pytest.approx(proba[np.arange(50), truth].mean())
    np.testing.assert_allclose(found, knn_shapley(distances.argsort(1), labels, truth, 7).mean(0))
    with pytest.raises(ValueError, match="distances of 20 test examples and 50 labels"):
        mean_shapley([distances[:20]], labels, truth, 7)
    with pytest.raises(ValueError, match="pass all 300 training examples"):
        knn_shapley(distances.argsort(1)[:, :10], labels, truth, 7)


# --- wrong labels --------------------------------------------------------------------------------------------------


def test_suspicion_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    indices = np.array([[1, 2], [0, 3], [3, 4], [4, 2], [0, 1]])
    distances = np.array([[1, 2], [1, 3], [1, 2], [2, 2], [0, 0.0]])
    expected = [(0 + 1 / 3) / 3, (1 + 1 / 4) / 3, (2 + 2 / 3) / 3, (1 + 1 / 2) / 3, (2 + 1 / 2) / 3]
    np.testing.assert_allclose(suspicion(indices, distances, labels), expected)


def test_confident_errors_by_hand():
    shares = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.85, 0.15, 0], [0.5, 0.5, 0]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # On average the label has 0.6 in class 0 and 0.4167 in class 1; class 2 has no image.
    assert confident_errors(shares, labels).tolist() == [False, False, True, False, True, False]


@pytest.fixture(scope="module")
def planted():
    """(rows, true labels, given labels, flipped): four classes of 150, of which 10 per cent have a wrong label."""
    rng = np.random.default_rng(3)
    truth = np.arange(600) % 4
    rows = (rng.normal(size=(600, 8)) + 3 * np.eye(8)[truth]).astype(np.float32)
    given, flipped = flip_labels(truth, 0.1, 4, seed=0)
    return rows, truth, given, flipped


def test_planted_errors_are_found(planted):
    rows, truth, given, flipped = planted
    rng = np.random.default_rng(9)
    new_truth = rng.integers(0, 4, 200)
    new = (rng.normal(size=(200, 8)) + 3 * np.eye(8)[new_truth]).astype(np.float32)
    found = audit(EBEClassifier.from_embeddings(rows, given, k=10), new, new_truth)
    assert roc_auc_score(flipped, found.suspicion) > 0.93
    assert roc_auc_score(flipped, -found.influence) > 0.85
    assert np.abs(found.suspicion - (1 - found.shares[np.arange(600), given])).max() <= 1 / 11 + 1e-9
    table = found.label_errors()
    assert (np.diff(table["suspicion"]) <= 0).all() and sorted(table["index"]) == list(range(600))
    top = table.head(40)
    assert flipped[top["index"]].mean() > 0.8
    assert (top["suggested"].astype(int) == truth[top["index"]])[flipped[top["index"]]].mean() > 0.9
    assert flipped[table["index"][table["likely"]]].mean() > 0.6
    assert found.label_errors("influence")["index"][0] == found.influence.argmin()
    with pytest.raises(ValueError, match="needs a network"):
        found.label_errors("network")
    with pytest.raises(ValueError, match="needs a test set"):
        audit(EBEClassifier.from_embeddings(rows, given)).label_errors("influence")
    with pytest.raises(ValueError, match="Did you mean 'neighbors'"):
        found.label_errors("neighbours")


def test_no_neighbour_of_an_example_is_itself(planted):
    rows, _, given, _ = planted
    found = audit(EBEClassifier.from_embeddings(rows, given, k=10, metric="euclidean"))
    graph = kneighbors_graph(rows.astype(float), 10, mode="distance", include_self=False)
    mine = found.knn_graph
    assert mine.shape == (600, 600) and mine.format == "csr" and (np.diff(mine.indptr) == 10).all()
    assert abs(graph - mine).max() < 1e-4 and (mine.diagonal() == 0).all() and mine.dtype == np.float64
    assert (np.diff(mine.data.reshape(600, 10), axis=1) >= 0).all()
    knn = KNeighborsClassifier(10, metric="precomputed").fit(mine, given)  # scikit-learn takes it as neighbours
    np.testing.assert_allclose(knn.predict_proba(mine), found.shares, atol=1e-9)


# --- near-duplicates, hubs and orphans -----------------------------------------------------------------------------


def test_duplicates_hubs_and_orphans():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 5)).astype(np.float32)
    rows[10] = rows[11] = rows[3]
    rows[50] = rows[51] + 1e-4
    rows[99] = 40  # far from everything
    labels = np.zeros(100, int)
    labels[50] = 1
    found = audit(EBEClassifier.from_embeddings(rows, labels, k=5, metric="euclidean"))
    table = found.duplicates()
    assert table["index"].tolist() == [3, 10, 11, 50, 51]
    assert table["same_label"].tolist() == [True] * 3 + [False] * 2 and table["group"].nunique() == 2
    assert found.orphans[0] == 99 and (found.occurrences[found.orphans] == 0).all()
    assert found.occurrences.sum() == 500 and found.occurrences[found.hubs(3)].min() >= np.sort(found.occurrences)[-3]
    assert found.hubness == pytest.approx(skew(found.occurrences))
    frame = found.to_frame()
    assert len(frame) == 100 and frame["copies"][3] == 2 and "influence" not in frame and "network_loss" not in frame
    assert "5 examples have near-duplicates" in repr(found)


def test_an_audit_of_a_network(trained, small):
    ebe = EBEClassifier(trained, 14, 10).fit(small[0])
    found = audit(ebe, small[1], k=4)
    own = ebe.network_proba_[np.arange(200), small[0].labels]
    np.testing.assert_allclose(found.network_loss, -np.log(own), rtol=1e-5)
    shares = EBEClassifier(trained, 14, 4).fit(small[0]).predict_proba(small[1].images)
    assert found.influence.sum() == pytest.approx(shares[np.arange(60), small[1].labels].mean())
    assert found.label_errors("network")["index"][0] == own.argmin()
    assert {"network_loss", "influence"} <= set(found.to_frame())
    near = kneighbors(np.asarray(ebe._embeddings), np.asarray(ebe._embeddings), 5)[1]
    others = [[i for i in row if i != at][:4] for at, row in enumerate(near.tolist())]
    np.testing.assert_array_equal(found.indices, others)
    with pytest.raises(ValueError, match="label 10 of the test examples is not among the classes"):
        audit(ebe, small[1].images, np.full(60, 10))
    with pytest.raises(ValueError, match="k=200"):
        audit(ebe, k=200)


# --- mutual proximity ----------------------------------------------------------------------------------------------


def test_mutual_proximity_is_schnitzers_formula():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 5))
    distances = pairwise_distances(rows)
    np.fill_diagonal(distances, np.nan)  # an example's distance to itself says nothing
    found = mutual_proximity(distances, distances, distances)
    for i, j in ((0, 1), (7, 3), (20, 29)):
        far = [norm.sf(distances[i, j], np.nanmean(distances[at]), np.nanstd(distances[at])) for at in (i, j)]
        assert found[i, j] == found[j, i] == pytest.approx(1 - far[0] * far[1])


def test_mutual_proximity_has_fewer_hubs_and_is_a_metric_of_the_classifier():
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, 300)).astype(np.float32) for n in (800, 300))
    how = MutualProximity(rows[::4], "euclidean")
    plain, mutual = (hubness(kneighbors(rows, queries, 10, metric)[1], 800) for metric in ("euclidean", how))
    assert plain > 1.5 and mutual < 0.5 * plain
    ebe = EBEClassifier.from_embeddings(rows, np.arange(800) % 3, k=5, metric=how)
    expected = how(queries[:7].astype(float), rows.astype(float)).astype(np.float32).argsort(1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ebe.kneighbors(queries[:7])[1], expected)
    with pytest.raises(ValueError, match="the sample has one embedding"):
        MutualProximity(rows[:1])
    with pytest.raises(ValueError, match="metric='euclid' is unknown"):
        MutualProximity(rows, "euclid")
