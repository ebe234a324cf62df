"""What each training example is worth: exact Shapley values of k-NN (Jia et al. 2019, arXiv:1908.08619).

The worth of a set of training examples, for one test example, is the share of the k votes that its nearest members give
to the right class; votes that are missing because there are fewer than k members count as wrong. The Shapley value of a
training example is what it adds to a random growing set, on average. The values of all examples add up to the k-NN's
mean share of right votes: they divide its performance among the training examples. Negative values do harm, as wrong
labels do.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .checks import integer


def knn_shapley(order: np.ndarray, labels: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """(m, n): Shapley value of each training example for each test example, by the exact recursion.

    order: (m, n), all training examples for each test example, nearest first; labels: (n,); truth: (m,). Each row adds
    up to the share of right votes among the k nearest. ValueError unless every row orders all n examples.
    """
    order, labels, truth = np.asarray(order), np.asarray(labels), np.asarray(truth)
    n, k = len(labels), integer("k", k, 1)
    if order.ndim != 2 or order.shape != (len(truth), n):
        raise ValueError(f"order has shape {order.shape}; pass all {n} training examples, nearest first, for each of "
                         f"{len(truth)} test examples.")
    right = (labels[order] == truth[:, None]).astype(float)
    rank = np.arange(1, n)  # of the nearer one of two that follow each other, from 1
    steps = (right[:, :-1] - right[:, 1:]) / k * np.minimum(k, rank) / rank
    last = right[:, -1:] * min(k, n) / (k * n)
    ranked = np.concatenate([np.cumsum(steps[:, ::-1], 1)[:, ::-1] + last, last], 1)
    values = np.empty_like(ranked)
    np.put_along_axis(values, order, ranked, 1)
    return values


def mean_shapley(distances: Iterable[np.ndarray], labels: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """(n,): mean over test examples of `knn_shapley`, from their distances to all training examples.

    distances: blocks of rows (b, n), in the order of `truth`; equal distances are ordered by training index.
    """
    total, done = np.zeros(len(labels)), 0
    for block in distances:
        # In float32, as the search has them, so that what is equal but for rounding is a tie.
        order = np.asarray(block, np.float32).argsort(1, kind="stable")
        total += knn_shapley(order, labels, truth[done:done + len(order)], k).sum(0)
        done += len(order)
    if done != len(truth):
        raise ValueError(f"there are distances of {done} test examples and {len(truth)} labels; pass one for each.")
    return total / done
