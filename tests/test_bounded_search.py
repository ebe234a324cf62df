"""Step 4, the bounded search: what it rules out is never a neighbour, whatever the rows are like."""

import numpy as np
import pytest
import torch

from ebe_utils.search.bounded import BoundedSearch, NearestLists, search
from ebe_utils.search.brute_force import BruteForce
from ebe_utils.search.index import Index
from ebe_utils.search.kernels import exact_distances
from ebe_utils.search.projection import Basis

METRICS = ("cosine", "euclidean")


def rows_of(kind, seed, n, d):
    """Rows as layers give them (near a subspace, tightly clustered, saturated), and as they do not (isotropic)."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    turn, centers = fixed.normal(size=(12, d)), fixed.normal(size=(5, d))
    rows = {"isotropic": lambda: rng.normal(size=(n, d)),
            "subspace": lambda: rng.normal(size=(n, 12)) @ turn + 0.1 * rng.normal(size=(n, d)),
            "clusters": lambda: centers[rng.integers(0, 5, n)] + 1e-3 * rng.normal(size=(n, d)),
            "saturated": lambda: 10 * np.abs(centers[0]) + 0.1 * rng.normal(size=(n, d)),
            "large": lambda: 1e6 * (rng.normal(size=(n, 12)) @ turn + 0.1 * rng.normal(size=(n, d)))}[kind]()
    return rows.astype(np.float32)


def brute(train, queries, k, metric):
    oracle = BruteForce(torch.from_numpy(queries), k, metric)
    oracle.add(torch.from_numpy(train))
    return oracle.result()


def seen(basis, rows, coarse, train=True):
    return basis.project(rows).bounds(basis, coarse, train)


def assert_same(found, expected):
    """The same rows at the same distances, to the last bit: a distance depends on its two rows alone."""
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


KINDS = ("isotropic", "subspace", "clusters", "saturated", "large")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank, coarse", [(0, 0), (4, 4), (40, 8)])
def test_same_neighbors_as_brute_force(metric, kind, rank, coarse):
    """With directions that help and with far too few, and with none."""
    train, queries = rows_of(kind, 0, 1200, 300), rows_of(kind, 1, 150, 300)
    basis = Basis(train[:500], metric, rank)
    lists, here = NearestLists(len(queries), 20), seen(basis, queries, coarse, False)
    for start in range(0, 1200, 500):
        search(basis, here, seen(basis, train[start:start + 500], coarse), lists, start)
    assert_same((lists.distances, lists.indices), brute(train, queries, 20, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_few_distances_are_computed_near_a_subspace(metric):
    train, queries = rows_of("subspace", 0, 3000, 400), rows_of("subspace", 1, 100, 400)
    basis = Basis(train, metric, 32)
    exact = search(basis, seen(basis, queries, 16, False), seen(basis, train, 16), NearestLists(100, 5))[1]
    assert 5 <= exact / 100 < 300


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_the_bound_is_above_every_product(rank):
    """coarse·coarse with any number of directions, and with the fine bound added, against float64."""
    train, queries = (rows_of("subspace", seed, 300, 200).astype(float) for seed in (0, 1))
    basis = Basis(train.astype(np.float32), "euclidean", 30)
    here, there = (seen(basis, rows.astype(np.float32), rank, train) for rows, train in ((queries, 0), (train, 1)))
    train = train[there.order]
    center = basis.center / basis.factor
    product = ((queries - center) @ (train - center).T - ((train - center) ** 2).sum(1) / 2) * basis.factor**2
    low = here.coarse.astype(float) @ there.coarse.astype(float)
    slack = 1e-5 * here.radius * there.radius
    assert (low >= product - slack).all() and (low - product).mean() > 0
    tight = low + here.fine.astype(float) @ there.fine.astype(float).T
    assert (tight >= product - slack).all() and (tight <= low + slack).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_shards_and_threads_do_not_change_a_bit(metric, kind, monkeypatch):
    monkeypatch.setattr("ebe_utils.search.bounded._TINY", 0)
    train, queries = rows_of(kind, 0, 400, 400), rows_of(kind, 1, 100, 400)
    found, threads = [], torch.get_num_threads()
    try:
        for shard, many in ((400, 1), (401, 2), (150, 2), (77, 1), (3, 2)):
            torch.set_num_threads(many)
            one = BoundedSearch(torch.from_numpy(queries), 12, metric, 400)
            for rows in torch.from_numpy(train).split(shard):
                one.add(rows)
            found.append(one.result())
    finally:
        torch.set_num_threads(threads)
    for distances, indices in found[1:]:
        np.testing.assert_array_equal(distances, found[0][0])
        np.testing.assert_array_equal(indices, found[0][1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rank", [0, 20])
def test_copies_zeros_and_all_rows(metric, rank):
    """Copies at distance zero, by index; zero vectors as scikit-learn has them; k = n; one query."""
    train = rows_of("subspace", 0, 120, 90)
    train[60:] = train[:60]
    train[[7, 67, 11]] = 0
    queries = np.concatenate([train[:5], np.zeros((1, 90), np.float32)])
    for chosen in (queries, queries[2:3], queries[5:]):
        basis = Basis(train, metric, rank)
        lists, here = NearestLists(len(chosen), 120), seen(basis, chosen, rank, False)
        for start in range(0, 120, 50):
            search(basis, here, seen(basis, train[start:start + 50], rank), lists, start)
        assert_same((lists.distances, lists.indices), brute(train, chosen, 120, metric))
        assert (np.sort(lists.indices, 1) == np.arange(120)).all()
        for near, at in zip(lists.distances, lists.indices, strict=True):
            assert (np.diff(at)[np.diff(near) == 0] > 0).all() and (np.diff(near) >= 0).all()
    basis, lists = Basis(train, metric, rank), NearestLists(5, 3)
    search(basis, seen(basis, train[:5], rank, False), seen(basis, train, rank), lists)
    assert (lists.distances[:, :2] == 0).all()
    np.testing.assert_array_equal(lists.indices[:, :2], np.arange(5)[:, None] + [0, 60])
    if metric == "cosine":
        lists = NearestLists(1, 4)
        search(basis, seen(basis, queries[5:], rank, False), seen(basis, train, rank), lists)
        assert (lists.distances == 1).all() and lists.indices.tolist() == [[0, 1, 2, 3]]


def test_directions_chosen_by_trial(monkeypatch):
    monkeypatch.setattr("ebe_utils.search.bounded._TINY", 0)
    found = {}
    for kind in ("isotropic", "subspace"):
        train, queries = rows_of(kind, 0, 4000, 1024), rows_of(kind, 1, 600, 1024)
        found[kind] = BoundedSearch(queries, 10, "cosine", 400_000)
        for start in range(0, 4000, 2000):
            found[kind].add(train[start:start + 2000])
        assert_same(found[kind].result(), brute(train, queries, 10, "cosine"))
    notes = found["subspace"].notes()
    assert notes["directions"] > 0 and 10 / 4000 <= notes["exact"] < 0.1
    assert notes["coarse"] <= notes["directions"] and notes["exact"] <= notes["candidates"] < 0.5


def test_no_more_directions_are_tried_than_there_are_rows_to_fit_them(monkeypatch):
    """In a layer of 65,536 dimensions the sample is of 128 rows."""
    monkeypatch.setattr("ebe_utils.search.bounded._TINY", 0)
    monkeypatch.setattr("ebe_utils.search.projection.SAMPLE", 100 * 1024)
    monkeypatch.setattr("ebe_utils.search.bounded.SAMPLE", 100 * 1024)
    train, queries = rows_of("subspace", 0, 2000, 1024), rows_of("subspace", 1, 300, 1024)
    found = BoundedSearch(queries, 10, "cosine", 400_000)
    found.add(train)
    assert found.notes()["directions"] in (0, 64)
    assert_same(found.result(), brute(train, queries, 10, "cosine"))


@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_given_pairs(metric):
    train, queries = rows_of("saturated", 0, 50, 700), rows_of("saturated", 1, 20, 700)
    distances, indices = brute(train, queries, 50, metric)
    shuffled = np.random.default_rng(0).permuted(indices, axis=1)
    expected = np.take_along_axis(distances, indices.argsort(1), 1)
    np.testing.assert_allclose(exact_distances(queries, train, shuffled, metric),
                               np.take_along_axis(expected, shuffled, 1), rtol=2e-7)


def test_an_index_of_many_rows_answers_as_brute_force():
    train, queries = rows_of("subspace", 0, 2000, 300), rows_of("subspace", 1, 9, 300)
    index = Index(train)
    assert index.basis is not None
    assert_same(index.kneighbors(queries, 15), brute(train, queries, 15, "cosine"))
    assert_same(index.kneighbors(queries[:1], 2000), brute(train, queries[:1], 2000, "cosine"))
    again = rows_of("subspace", 2, 9, 300)  # what was made ready belongs to the training rows only
    assert_same(index.kneighbors(again, 15), brute(train, again, 15, "cosine"))
