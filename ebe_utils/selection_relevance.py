"""Is a handful of examples, as a set, more relevant to the answer than random ones? Without training anything.

Schoenegger and Roth (2026, "Compact example-based explanations for language models", arXiv:2601.03786) judge a set of
examples by how well their gradients together rebuild that of the query, and find that the most influential examples
often do so worse than random ones, since they repeat each other. Here the gradients are those of the last layer, where
they are known in closed form, and weights are non-negative: only what pulls towards the answer counts. We know their
article by its abstract and by summaries, so that details may differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls


def selection_relevance(indices: np.ndarray, features: np.ndarray, proba: np.ndarray, answers: ArrayLike,
                        train_features: np.ndarray, train_proba: np.ndarray, train_labels: np.ndarray) -> np.ndarray:
    """(n,): share of the query's squared gradient that a non-negative mix of its examples' gradients rebuilds; 0 to 1.

    indices: (n, k), the examples of each query, each once; features: (n, d), what the last layer takes; proba: (n,
    outputs), its softmax; answers: (n,), the class that is explained. train_...: the same of the training set, with
    its labels. The gradient of one example is that of its cross-entropy by the last layer's weights and biases,
    (proba - one_hot(label)) ⊗ (features, 1). NaN where the query's gradient is zero.
    """
    features, train_features = _with_one(features), _with_one(train_features)
    pull = np.asarray(proba, float) - np.eye(proba.shape[1])[np.asarray(answers)]
    train_pull = np.asarray(train_proba, float) - np.eye(proba.shape[1])[np.asarray(train_labels)]
    found = np.empty(len(indices))
    for q, row in enumerate(indices):
        wanted = np.outer(pull[q], features[q]).ravel()
        length = np.linalg.norm(wanted)
        at = np.einsum("kc,kd->kcd", train_pull[row], train_features[row]).reshape(len(row), -1).T
        at = at / np.maximum(np.linalg.norm(at, axis=0), 1e-300)  # lengths do not matter, and may be tiny
        if length == 0:
            found[q] = np.nan
            continue
        basis, small = np.linalg.qr(at)
        inside = basis.T @ (wanted / length)
        rest = nnls(small, inside)[1] ** 2
        found[q] = np.clip(inside @ inside - rest, 0, 1)
    return found


def same_class_examples(indices: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, k): for each example another one at random with the same label; none twice in a row of (n, k) indices.

    The control of `selection_relevance`: sets of equal size and class balance. Raises ValueError if a class has too few
    examples.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    found = np.empty_like(indices)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    for row, drawn in zip(indices, found, strict=True):
        for label in np.unique(labels[row]):
            places = np.flatnonzero(labels[row] == label)
            others = np.setdiff1d(members[label], row)
            if len(others) < len(places):
                raise ValueError(f"class {label} has {len(others)} other examples, and {len(places)} are needed; pass "
                                 "a larger training set, or fewer examples.")
            drawn[places] = rng.choice(others, len(places), replace=False)
    return found


def _with_one(rows):
    return np.hstack([np.asarray(rows, float), np.ones((len(rows), 1))])
