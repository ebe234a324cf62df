"""Step 4: the k nearest rows, against scikit-learn in float64."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from ebe_utils import kneighbors
from ebe_utils.search.brute_force import smallest
from ebe_utils.search.engines import searcher
from ebe_utils.search.index import Index

METRICS = ("cosine", "euclidean", "manhattan")


def random_rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def saturated_rows(seed, n, d):
    """Rows that nearly point the same way, as deep layers give them."""
    return (10 * np.abs(random_rows(99, d)) + 0.1 * random_rows(seed, n, d)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n, m, d, k", [(300, 40, 64, 12), (50, 1, 3, 50), (7, 5, 1500, 1), (1, 2, 5, 1)])
def test_same_neighbors_as_scikit_learn(metric, n, m, d, k, same_neighbors):
    train, queries = random_rows(0, n, d), random_rows(1, m, d) + 0.5
    distances, indices = kneighbors(train, queries, k, metric)
    assert distances.shape == indices.shape == (m, k)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    assert same_neighbors(indices, train, queries, metric) < 0.01
    expected = np.sort(pairwise_distances(queries.astype(float), train.astype(float), metric), 1)[:, :k]
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [512, 2000])
def test_same_neighbors_where_all_rows_nearly_point_the_same_way(metric, d, same_neighbors):
    """In few dimensions, which are searched in float64, and in many, which are not."""
    train, queries = saturated_rows(0, 400, d), saturated_rows(1, 50, d)
    assert 1 - pairwise_distances(queries, train, "cosine").mean() > 0.999
    assert same_neighbors(kneighbors(train, queries, 50, metric)[1], train, queries, metric, rtol=5e-6) < 0.01
    search = searcher(torch.from_numpy(queries), 50, metric)
    search.add(torch.from_numpy(train))
    assert same_neighbors(search.result()[1], train, queries, metric, rtol=5e-6) < 0.01


@pytest.mark.parametrize("d", [512, 2000])
def test_plain_float32_cosine_would_get_that_wrong(d):
    """Otherwise the test above shows nothing."""
    train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in
                      (saturated_rows(0, 400, d), saturated_rows(1, 50, d)))
    naive = (1 - queries @ train.T).argsort(1, kind="stable")[:, :50]
    exact = (1 - queries.astype(float) @ train.T.astype(float)).argsort(1)[:, :50]
    assert (naive != exact).mean() > 0.1


@pytest.mark.parametrize("metric, p", [("euclidean", 2), ("manhattan", 1)])
@pytest.mark.parametrize("k", [1, 5, 63, 64])
def test_equal_distances_are_sorted_by_index(metric, p, k):
    """Small integers, which float32 computes exactly, against integers and a stable sort."""
    rng = np.random.default_rng(0)
    train, queries = rng.integers(-2, 3, (64, 2)), rng.integers(-2, 3, (30, 2))
    exact = (np.abs(queries[:, None] - train[None]) ** p).sum(2)
    distances, indices = kneighbors(train, queries, k, metric)
    expected = exact.argsort(1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, np.take_along_axis(exact, expected, 1) ** (1 / p), rtol=1e-6)


def test_equal_angles_are_sorted_by_index():
    train = [[0, 2], [3, 0], [0, 1], [-1, 0], [5, 0], [0, -1], [1, 0], [0, 9]]
    distances, indices = kneighbors(np.array(train, float), np.array([[2., 0.], [0., 7.]]), 8)
    assert indices.tolist() == [[1, 4, 6, 0, 2, 5, 7, 3], [0, 2, 7, 1, 3, 4, 6, 5]]
    np.testing.assert_allclose(distances, [[0, 0, 0, 1, 1, 1, 1, 2]] * 2, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [100, 1500])
def test_copies_of_a_training_row_are_found_at_distance_zero(metric, d):
    train = random_rows(0, 40, d)
    train[[7, 19, 33]] = train[2]
    distances, indices = kneighbors(train, train[[2, 5]], 6, metric)
    assert indices[0, :4].tolist() == [2, 7, 19, 33] and (distances[0, :4] == 0).all() and distances[0, 4] > 0.1
    assert indices[1, 0] == 5 and distances[1, 0] == 0


@pytest.mark.parametrize("metric", METRICS)
def test_copies_of_a_training_row_come_in_the_order_of_their_indices(metric):
    """Wherever they lie: matrix products round the same row differently in different places.

    In the dimensions that are searched in float64.
    """
    for seed in range(8):
        rng = np.random.default_rng(seed)
        source = rng.integers(0, 30, 90)
        train, queries = random_rows(seed, 30, 100 + 80 * seed)[source], random_rows(99, 5, 100 + 80 * seed)
        search = searcher(torch.from_numpy(queries), 90, metric)
        for rows in torch.from_numpy(train).split(7):
            search.add(rows)
        for indices in (*kneighbors(train, queries, 90, metric)[1], *search.result()[1]):
            for copies in (indices[source[indices] == i] for i in range(30)):
                assert (np.diff(copies) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_zero_rows(metric):
    """A zero vector has cosine distance 1 to everything, itself included, as in scikit-learn."""
    train = random_rows(0, 10, 6)
    train[[3, 8]] = 0
    queries = np.concatenate([random_rows(1, 3, 6), np.zeros((1, 6), np.float32)])
    distances, indices = kneighbors(train, queries, 10, metric)
    expected = pairwise_distances(queries.astype(float), train.astype(float), metric)
    np.testing.assert_allclose(distances, np.take_along_axis(expected, indices, 1), atol=1e-5)
    if metric == "cosine":
        assert (distances[3] == 1).all() and indices[3].tolist() == list(range(10))


@pytest.mark.parametrize("metric", METRICS)
def test_k_of_all_rows_gives_every_row_once(metric):
    distances, indices = kneighbors(random_rows(0, 30, 8), random_rows(1, 4, 8), 30, metric)
    assert (np.sort(indices, 1) == np.arange(30)).all() and (np.diff(distances) >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_neighbors_are_the_first_of_more(metric):
    train, queries = random_rows(0, 60, 8), random_rows(1, 9, 8)
    few, many = (kneighbors(train, queries, k, metric)[1] for k in (5, 20))
    np.testing.assert_array_equal(few, many[:, :5])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shard", [1, 7, 64])
def test_shards_give_the_same_as_the_whole(metric, shard, same_neighbors):
    train, queries = random_rows(0, 64, 20), random_rows(1, 11, 20)
    search = searcher(torch.from_numpy(queries), 9, metric)
    for start in range(0, 64, shard):
        search.add(torch.from_numpy(train[start:start + shard]))
        assert search.result()[0].shape == (11, min(9, start + shard, 64))
    distances, indices = search.result()
    assert same_neighbors(indices, train, queries, metric) < 0.01
    np.testing.assert_allclose(distances, kneighbors(train, queries, 9, metric)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shard", [1, 7, 64])
def test_equal_distances_are_sorted_by_index_across_shards(shard):
    rng = np.random.default_rng(0)
    train, queries = rng.integers(-2, 3, (64, 2)), rng.integers(-2, 3, (32, 2))
    expected = np.abs(queries[:, None] - train[None]).sum(2).argsort(1, kind="stable")[:, :20]
    search = searcher(torch.from_numpy(queries).float(), 20, "manhattan")
    for rows in torch.from_numpy(train).float().split(shard):
        search.add(rows)
    np.testing.assert_array_equal(search.result()[1], expected)


@pytest.mark.parametrize("metric", METRICS)
def test_small_blocks_give_the_same(metric, monkeypatch):
    train, queries = random_rows(0, 50, 20), random_rows(1, 11, 20)
    expected = kneighbors(train, queries, 8, metric)[1]
    monkeypatch.setattr("ebe_utils.search.index.BLOCK", 100)
    monkeypatch.setattr("ebe_utils.search.brute_force.BLOCK", 100)
    np.testing.assert_array_equal(kneighbors(train, queries, 8, metric)[1], expected)
    search = searcher(torch.from_numpy(queries), 8, metric)
    search.add(torch.from_numpy(train))
    np.testing.assert_array_equal(search.result()[1], expected)


def test_smallest_is_a_stable_sort():
    values = torch.randint(0, 6, (50, 40), generator=torch.Generator().manual_seed(0)).float()
    for k in (1, 7, 40):
        found, at = smallest(values, k)
        expected = values.numpy().argsort(1, kind="stable")[:, :k]
        np.testing.assert_array_equal(at, expected)
        np.testing.assert_array_equal(found, np.take_along_axis(values.numpy(), expected, 1))


def test_an_index_answers_many_queries():
    train, index = random_rows(0, 50, 20), Index(random_rows(0, 50, 20))
    for seed in (1, 2):
        queries = random_rows(seed, 6, 20)
        np.testing.assert_array_equal(index.kneighbors(queries, 4)[1], kneighbors(train, queries, 4)[1])


ROWS = random_rows(0, 10, 4)


@pytest.mark.parametrize("train, queries, k, metric, error, words", [
    (ROWS, ROWS, 0, "cosine", ValueError, "k=0 is out of range"),
    (ROWS, ROWS, 11, "cosine", ValueError, r"from 1 to 10 \(there are 10 training images\)"),
    (ROWS, ROWS, True, "cosine", TypeError, "is a bool"), (ROWS, ROWS, 2.0, "cosine", TypeError, "is a float"),
    (ROWS, ROWS, "3", "cosine", TypeError, "is a str"),
    (ROWS, ROWS, 3, "cosin", ValueError, "Did you mean 'cosine'"), (ROWS, ROWS, 3, None, ValueError, "is unknown"),
    (ROWS, ROWS[:, :3], 3, "cosine", ValueError, "3 dimensions, the training embeddings 4"),
    (ROWS, ROWS[0], 3, "cosine", ValueError, "the queries have shape"),
    (ROWS[None], ROWS, 1, "cosine", ValueError, "the training embeddings have shape"),
    (ROWS[:0], ROWS, 1, "cosine", ValueError, "the training embeddings are empty"),
    (ROWS, np.where(ROWS > 1, np.nan, ROWS), 3, "cosine", ValueError, "the queries contain NaN"),
    (np.where(ROWS > 1, np.inf, ROWS), ROWS, 3, "cosine", ValueError, "the training embeddings contain")])
def test_what_kneighbors_refuses(train, queries, k, metric, error, words):
    with pytest.raises(error, match=words):
        kneighbors(train, queries, k, metric)
