"""What explanations can be asked further: the fitted arrays behind them, as they were when these were made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .calibration import Calibration, Doubts, nonconformity_of_votes, reach
from .duplicates import typical_distance
from .search import Index
from .search.brute_force import BruteForce
from .search.rows import Metric

SETTINGS = ("k", "weights", "target", "candidates", "choice")  # that may be changed after fit, and change the votes


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """The arrays behind explanations of n inputs.

    queries: (n, d) embeddings of the inputs; embeddings: (n_train, d); labels: (n_train,) class indices; fetch: gives
    training examples by position; proba: (n, outputs), the network's softmax of the inputs, or None; settings: the
    values of `SETTINGS`; provenance: facts about where the explanation comes from, by what they are called.
    """

    queries: np.ndarray
    index: Index
    embeddings: np.ndarray
    labels: np.ndarray
    metric: Metric
    fetch: Callable[[np.ndarray], Any]
    proba: np.ndarray | None
    settings: dict[str, Any]
    calibration: Calibration | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ebe: Any, queries: np.ndarray, proba: np.ndarray | None, fetch: Callable[[np.ndarray], Any]
           ) -> Evidence:
        """From a fitted `EBEClassifier` and the embeddings of its queries."""
        settings = {name: getattr(ebe, name) for name in SETTINGS}
        network = None if ebe.model is None else {"type": type(ebe.model).__name__,
                                                  "fingerprint": ebe._watch.fingerprint}
        about = {"network": network, "pooling": ebe.pooling_, "classes": len(ebe.classes_),
                 "training examples": len(ebe.labels_), "embedding dimensions": ebe.n_features_in_} | settings
        return cls(queries, ebe._index, ebe._embeddings, ebe.labels_, ebe.metric_, fetch,
                   proba if ebe.comparable_ else None, settings, getattr(ebe, "calibration_", None), about)

    def of_query(self, i: int) -> Evidence:
        """That of input i alone."""
        return replace(self, queries=self.queries[i:i + 1], proba=None if self.proba is None else self.proba[i:i + 1])

    @property
    def typical(self) -> float:
        """`typical_distance` of the training set."""
        return typical_distance(self.index, self.embeddings)

    def nearest(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """(distances, indices) of the m nearest training examples, (n, m), or of all if there are not so many."""
        return self.index.kneighbors(self.queries, min(m, len(self.labels)))

    def nearest_of_class(self, label: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        """The same among the training examples of one class."""
        rows = np.flatnonzero(self.labels == label)
        if len(rows) == 0:
            return np.empty((len(self.queries), 0), np.float32), np.empty((len(self.queries), 0), np.int64)
        search = BruteForce(torch.from_numpy(np.array(self.queries, np.float32)), min(m, len(rows)), self.metric)
        for start in range(0, len(rows), 4096):
            search.add(torch.from_numpy(np.array(self.embeddings[rows[start:start + 4096]], np.float32)))
        distances, found = search.result()
        return distances, rows[found]

    def removal(self) -> tuple[str, Callable[[int], tuple[np.ndarray, np.ndarray]]]:
        """(why it is not known which examples have to be removed to change the vote, or "", deeper neighbours)."""
        why = ""
        if self.settings["target"] != "labels":
            why = "it is known for the nearest examples (target='labels'), and the network's answer chose these."
        elif self.settings["weights"] != "uniform":
            why = "it is known for votes that count equally (weights='uniform')."

        def deeper(m):
            indices = self.nearest(m)[1][0]
            return indices, self.labels[indices]

        return why, deeper

    @cached_property
    def around(self) -> tuple[np.ndarray, np.ndarray]:
        """`nearest`, as deep as nonconformity looks."""
        return self.nearest(reach(self.settings["k"]))

    def scores(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(nonconformity (n, classes), distance to the k-th nearest (n,)); shares: of the votes, (n, classes)."""
        distances, indices = self.around
        k = self.settings["k"]
        return nonconformity_of_votes(shares, self.labels[indices], k), distances[:, k - 1].astype(float)

    def doubts(self, shares: np.ndarray) -> Doubts | None:
        """How sure the votes are, (n, classes); None without a calibration.

        Raises ValueError if k, weights, target or candidates have been changed since.
        """
        if self.calibration is None:
            return None
        self.calibration.check(self.settings)
        return self.calibration.judge(*self.scores(shares), self.proba)
