"""Near-duplicates among training examples: examples that show the same thing.

Two examples are near-duplicates if their embeddings are equal, or if their distance is at most `TOLERANCE` times what
is typical: the median distance of a training example to its nearest other one. Groups are chains of such pairs.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import pairwise_distances

from .search import Index
from .search.rows import Metric

TOLERANCE = 0.1
_SAMPLED = 64  # training examples whose nearest other one says what is typical
_TYPICAL: WeakKeyDictionary[Index, float] = WeakKeyDictionary()


def distances_between(a: np.ndarray, b: np.ndarray, metric: Metric) -> np.ndarray:
    """(m, n) distances of all rows of a (m, d) to all of b (n, d), by a metric of `ebe_utils.search`."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return np.asarray(metric(a, b)) if callable(metric) else pairwise_distances(a, b, metric)


def typical_distance(index: Index, embeddings: np.ndarray) -> float:
    """Median distance of a training example to its nearest other one, over evenly spread examples; kept by index."""
    if index not in _TYPICAL:
        n = len(embeddings)
        at = np.unique(np.linspace(0, n - 1, min(n, _SAMPLED)).astype(int))
        distances, found = index.kneighbors(np.asarray(embeddings[at]), min(2, n))
        # The example itself is one of the two, unless more than two are equal to it: then all distances are 0.
        other = np.where(found[:, 0] == at, distances[:, -1], distances[:, 0])
        _TYPICAL[index] = float(np.median(other))
    return _TYPICAL[index]


def groups_of(rows: np.ndarray, metric: Metric, typical: float, tolerance: float = TOLERANCE) -> np.ndarray:
    """(m,) integers: the group of each embedding (m, d), numbered by their first member; see the top of this module.

    typical: `typical_distance` of the training set.
    """
    rows = np.asarray(rows)
    near = distances_between(rows, rows, metric) <= tolerance * typical
    near |= (rows[:, None] == rows[None]).all(2)  # whatever rounding makes of a distance of 0
    return in_order(connected_components(sp.csr_array(near), directed=False)[1])


def in_order(groups: np.ndarray) -> np.ndarray:
    """The same groups, numbered in the order in which they first appear."""
    first, member = np.unique(groups, return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(first))[member]
