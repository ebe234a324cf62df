"""Attributions of the network's own answer: examples that are near at a layer *and* get the same answer from it.

The nearest examples at a layer explain what their labels vote for, and where the network errs that is often something
else. Among the `candidates` nearest, those whose softmax is nearest to the query's are examples that the network treats
alike: near in the layer, and near in the answer. Nothing is fitted to the answer but the choice of the k.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from .checks import integer

TARGETS = ("labels", "network")


def hellinger(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Hellinger distance of distributions over the last axis, which broadcast; from 0 (equal) to 1 (disjoint)."""
    overlap = np.sqrt(np.asarray(p, float) * np.asarray(q, float)).sum(-1)
    return np.sqrt(np.clip(1 - overlap, 0, None))


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the sum of |p - q| over the last axis: the largest difference in the probability of any event."""
    return np.abs(np.asarray(p, float) - np.asarray(q, float)).sum(-1) / 2


def by_answer(indices: np.ndarray, train_proba: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """(n, c): the ranks of each query's candidates, from 0, in the order of the Hellinger distance of their softmax.

    indices: (n, c), nearest at the layer first; train_proba: (n_train, outputs) and proba: (n, outputs). Equal answers
    are decided by nearness at the layer.
    """
    order = np.empty(indices.shape, np.int64)
    for start in range(0, len(indices), 1024):  # (1024, c, outputs) at a time
        rows = slice(start, start + 1024)
        apart = hellinger(train_proba[indices[rows]], proba[rows, None])
        # Rounded, so that answers which differ by rounding only are equal; then a stable sort keeps the nearer one.
        order[rows] = apart.round(9).argsort(1, kind="stable")
    return order


def nearest_answers(indices: np.ndarray, distances: np.ndarray, train_proba: np.ndarray, proba: np.ndarray,
                    k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the candidates of each query, the k whose softmax is nearest to its own (Hellinger distance).

    indices, distances: (n, c), the c nearest training examples at a layer, nearest first; train_proba: (n_train,
    outputs) and proba: (n, outputs), the network's softmax. Returns (distances, indices, ranks), each (n, k): nearest
    at the layer first, with their ranks among the candidates, from 0. Equal answers are decided by nearness at the
    layer. Raises ValueError if there are fewer than k candidates.
    """
    integer("k", k, 1, indices.shape[1], f" (there are {indices.shape[1]} candidates)")
    chosen = np.sort(by_answer(indices, train_proba, proba)[:, :k], 1)
    return np.take_along_axis(distances, chosen, 1), np.take_along_axis(indices, chosen, 1), chosen


def convex_weights(train_proba: np.ndarray, proba: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Weights (n, c), non-negative with sum 1, whose mix of the examples' softmax is nearest to the query's.

    train_proba: (n_train, outputs); proba: (n, outputs); indices: (n, c). Least squares on the simplex. They are
    *fitted* to the answer: agreement then says little, and the examples need not matter to the network (see
    `ebe_utils.reliance`).
    """
    weights = np.empty(indices.shape)
    pull = 1e3  # weight of the equation that the weights sum to one
    for q, row in enumerate(indices):
        system = np.vstack([train_proba[row].T, np.full(len(row), pull)])
        found = nnls(system, np.append(proba[q], pull))[0]
        weights[q] = found / found.sum()
    return weights
