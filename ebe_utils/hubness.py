"""Hubs, which are near to everything, and a distance that has fewer of them: mutual proximity.

In many dimensions some training examples are among the nearest of very many others (Radovanović et al. 2010). Mutual
proximity (Schnitzer et al. 2012) asks of two examples how probable it is that both find another one farther: it is near
only if each is near for the other. Here with normal distributions and independence, as the authors' fast form has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm, skew

from .checks import same_shape
from .duplicates import distances_between
from .metrics import k_occurrence
from .search.rows import Metric, as_rows, check_metric


def mutual_proximity(distances: np.ndarray, query_distances: np.ndarray, train_distances: np.ndarray) -> np.ndarray:
    """(m, n) distances from 0 to 1: one minus the probability that both would find another example farther.

    distances: (m, n) from queries to training examples; query_distances: (m, s) from the queries, train_distances:
    (n, s) from the training examples, each to the same s examples: what distances are usual for either. NaN there is
    left out (an example's distance to itself). An order by it has the nearest first, as by any distance.
    """
    nearer = []
    for usual, axis in ((query_distances, 0), (train_distances, 1)):
        usual = np.asarray(usual, float)
        mean, spread = np.nanmean(usual, 1), np.nanstd(usual, 1)
        same_shape("the usual distances", mean, np.empty(np.shape(distances)[axis]))
        mean, spread = (np.expand_dims(x, 1 - axis) for x in (mean, np.maximum(spread, np.finfo(float).tiny)))
        nearer.append(norm.cdf(np.asarray(distances, float), mean, spread))  # the share of usual distances below it
    return nearer[0] + nearer[1] - nearer[0] * nearer[1]


@dataclass(frozen=True, eq=False)
class MutualProximity:
    """Mutual proximity as a metric: `EBEClassifier(..., metric=MutualProximity(sample))`, searched by brute force.

    sample: (s, d) embeddings that say what distances are usual, some hundred of the training set; metric: the distance
    that is changed. It takes the embeddings of two sets and returns their distances, (m, n).
    """

    sample: np.ndarray
    metric: Metric = field(default="cosine")

    def __post_init__(self) -> None:
        check_metric(self.metric)
        rows = as_rows(self.sample, "the sample")
        if len(rows) < 2:
            raise ValueError("the sample has one embedding; pass some hundred, so that they say what is usual.")
        object.__setattr__(self, "sample", rows)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(m, n) distances of all rows of a (m, d) to all of b (n, d)."""
        usual = [distances_between(x, self.sample, self.metric) for x in (a, b)]
        return mutual_proximity(distances_between(a, b, self.metric), *usual)


def hubness(indices: np.ndarray, n_train: int) -> float:
    """Skewness of how often each training example is among the neighbours (n, k): about 0 without hubs."""
    return float(skew(k_occurrence(indices, n_train)))
