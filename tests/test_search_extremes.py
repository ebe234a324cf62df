"""Step 4 on rows that break a careless search: against sums in extended precision, engine against engine."""

import numpy as np
import pytest
import torch
from hypothesis import example, settings

from ebe_utils.search import Index, kneighbors, searcher
from ebe_utils.search.bounded import NearestLists, search
from ebe_utils.search.brute_force import BruteForce
from ebe_utils.search.projection import Basis
from ebe_utils.upkeep.trial_search import METRICS, cases, check_case, in_extended_precision


@settings(max_examples=150, deadline=None, derandomize=True)
@cases()
@example("normal", "cosine", 0, 30, 40, 5, -40, 13, 8)  # lengths below 3e-39
@example("normal", "euclidean", 0, 30, 300, 5, 20, 13, 8)  # squares above float32
@example("constant", "euclidean", 0, 90, 40, 12, 0, 13, 8)
@example("one ulp apart", "cosine", 1, 90, 40, 12, 0, 13, 8)
@example("normal", "cosine", 0, 3, 7, 12, 0, 1, 0)  # fewer rows than k
def test_every_engine_agrees_with_extended_precision(kind, metric, seed, n, d, k, exponent, shard, rank):
    check_case(kind, metric, seed, n, d, k, exponent, shard, rank)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("huge", [False, True])
def test_a_later_shard_of_another_scale(metric, huge):
    """The scale of the first shard may neither overflow nor drown what comes after it."""
    rng, scale = np.random.default_rng(0), 1e30 if huge else 1e-30
    train = rng.normal(size=(80, 40)).astype(np.float32)
    train[40:] *= scale
    queries = np.concatenate([train[:3], train[40:43]]) * np.float32(1.5)
    results = []
    for rank in (0, 16):
        basis, lists = Basis(train[:40], metric, rank, queries[:3]), NearestLists(6, 20)
        here = basis.project(queries).bounds(basis, rank // 2, False)
        for start in (0, 40):
            search(basis, here, basis.project(train[start:start + 40]).bounds(basis, rank // 2, True), lists, start)
        results.append(lists.indices)
    exact = in_extended_precision(train, queries, metric)
    expected = np.lexsort((np.broadcast_to(np.arange(80), exact.shape), exact.astype(np.float32)), axis=1)[:, :20]
    for indices in results:
        np.testing.assert_array_equal(indices, expected)


def test_a_row_of_tiny_length_does_not_spoil_the_others():
    rng = np.random.default_rng(0)
    train, queries = (rng.normal(size=(n, 200)).astype(np.float32) for n in (2000, 5))
    expected = kneighbors(train, queries, 3)[1]
    train = np.concatenate([train, np.full((1, 200), 1e-41, np.float32)])
    distances, indices = Index(train).kneighbors(queries, 3)
    np.testing.assert_array_equal(indices, expected)
    assert Index(train).kneighbors(train[-1:] * 3, 1)[1].tolist() == [[2000]]


def test_rows_sorted_by_class_cost_what_shuffled_rows_cost():
    """The directions are of all rows, not of the first ones: exact distances computed, which time does not blur."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 10, 6000))
    spaces = rng.normal(size=(10, 12, 500))  # each class fills directions of its own
    rows = np.einsum("nr,nrd->nd", rng.normal(size=(6000, 12)), spaces[labels]).astype(np.float32)
    rows += 0.3 * rng.normal(size=rows.shape).astype(np.float32)
    queries = rows[rng.permutation(6000)[:50]] + 0.3 * rng.normal(size=(50, 500)).astype(np.float32)

    def count(order):
        index = Index(rows[order])
        here = index.basis.project(queries).bounds(index.basis, index._coarse, False)
        return search(index.basis, here, index.bounds, NearestLists(50, 10))[1]

    shuffled = rng.permutation(6000)
    assert count(np.arange(6000)) <= 1.3 * count(shuffled)
    assert count(shuffled) < 0.2 * 50 * 6000


def test_a_first_shard_of_one_class_costs_little_more(monkeypatch):
    """The directions of a stream are fitted to the queries, too, of which all classes are known."""
    rng = np.random.default_rng(0)
    labels, spaces = np.sort(rng.integers(0, 4, 4000)), rng.normal(size=(4, 12, 400))
    rows = np.einsum("nr,nrd->nd", rng.normal(size=(4000, 12)), spaces[labels]).astype(np.float32)
    rows += 0.3 * rng.normal(size=rows.shape).astype(np.float32)
    queries = rows[rng.permutation(4000)[:500]] + 0.3 * rng.normal(size=(500, 400)).astype(np.float32)
    whole = Basis(rows[rng.permutation(4000)], "cosine", 64)
    half = Basis(rows[:1000], "cosine", 64, queries)

    def left(basis):  # of the last class, what the directions leave
        seen = basis.project(rows[labels == 3])
        return (seen.rest(64, 0) ** 2 / seen.norm).mean()

    assert left(half) < 2 * left(whole) < 0.5 * left(Basis(rows[:1000], "cosine", 64))


BAD = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("engine", ["auto", "bounded", "torch", lambda *given: BruteForce(*given)])
@pytest.mark.parametrize("metric", METRICS)
def test_a_value_that_is_not_finite_is_refused_wherever_it_enters(value, engine, metric):
    rows, queries = torch.randn(60, 30), torch.randn(5, 30)
    bad = queries.clone()
    bad[[3, 4], 7] = value
    with pytest.raises(ValueError, match="the queries contain NaN or infinite values.*first at position 3"):
        found = searcher(bad, 2, metric, engine)
        found.add(rows)
    found = searcher(queries, 2, metric, engine)
    found.add(rows[:40])
    bad = rows[40:].clone()
    bad[[5, 9], 2] = value
    with pytest.raises(ValueError, match="the training embeddings contain NaN or infinite.*first at position 45"):
        found.add(bad)
    indices = found.result()[1]
    assert (indices >= 0).all() and (indices < 40).all()
    bad = torch.cat([rows[:40], bad])
    for call in (lambda: Index(bad, metric), lambda: kneighbors(bad, queries, 2, metric)):
        with pytest.raises(ValueError, match="the training embeddings contain NaN.*first at position 45"):
            call()
    with pytest.raises(ValueError, match="the queries contain NaN"):
        Index(rows, metric).kneighbors(bad, 2)


def test_one_bad_value_among_equal_rows_is_refused():
    """Where there are no directions to be found, so that nothing is projected."""
    rows = np.ones((5000, 120), np.float32)
    assert Index(rows).kneighbors(rows[:1], 3)[1].tolist() == [[0, 1, 2]]
    rows[4321, 7] = np.nan
    with pytest.raises(ValueError, match="first at position 4321"):
        Index(rows)


def test_a_value_beyond_float32_is_refused():
    with pytest.raises(ValueError, match="beyond float32 .first at position 1.; replace or remove"):
        Index([[1.0, 2.0], [1e300, 0.0]])
    with pytest.raises(ValueError, match="longer than 1.7e.38.*first at position 1.*scale all embeddings down"):
        Index(np.array([[1, 2], [3e38, 0]], np.float32), "euclidean")
    assert Index(np.array([[1, 2], [3e38, 0]], np.float32)).kneighbors([[1, 0.1]], 1)[1].tolist() == [[1]]
