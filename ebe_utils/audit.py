"""An audit of a training set by its neighbours: labels that are probably wrong, near-duplicates, hubs, influence.

Every training example is looked at in the light of the others at the classifier's layer (leave-one-out). A network that
was trained on wrong labels has seen them, so that its own answers are no independent witness; the neighbours are, as
far as the layer has not memorised the labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from .calibration import as_they_came, class_indices
from .checks import integer, one_of
from .duplicates import TOLERANCE, distances_between, in_order
from .explainer import EBEClassifier
from .hubness import hubness
from .inputs import as_inputs
from .label_errors import confident_errors, leave_one_out, suspicion
from .metrics import k_occurrence
from .search import check_k
from .shapley import mean_shapley
from .votes import vote_shares

_VALUES, _ROWS = 2**22, 8192  # distances that are held, and training rows that are read, at a time
SUSPICIONS = ("neighbors", "network", "influence")


@dataclass(frozen=True, eq=False)
class Audit:
    """What the neighbours of n training examples say of them; made by `audit`.

    indices, distances: (n, k), the k nearest other training examples of each; labels: (n,) class indices; classes:
    their names; network_loss: (n,) minus the logarithm of the probability that the network gives to the label, or None;
    influence: (n,) mean Shapley value over a test set, or None.
    """

    indices: np.ndarray
    distances: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    network_loss: np.ndarray | None
    influence: np.ndarray | None

    @cached_property
    def shares(self) -> np.ndarray:
        """(n, classes): the vote of each example's neighbours, itself left out."""
        return vote_shares(self.indices, self.labels, classes=len(self.classes))

    @cached_property
    def suspicion(self) -> np.ndarray:
        """(n,) from 0 to 1: how little the neighbours support the label; see `label_errors.suspicion`."""
        return suspicion(self.indices, self.distances, self.labels)

    def label_errors(self, by: str = "neighbors") -> pd.DataFrame:
        """The training examples, most suspicious first: index, label, suggested, suspicion, likely.

        by: "neighbors", `suspicion`; "network", its loss; or "influence", minus the influence. suggested: the class
        that most neighbours have; likely: whether confident learning counts it as an error
        (`label_errors.confident_errors` of the neighbours' votes). ValueError where the network or a test set would be
        needed.
        """
        found = {"neighbors": self.suspicion, "network": self.network_loss,
                 "influence": None if self.influence is None else -self.influence}[one_of("by", by, SUSPICIONS)]
        if found is None:
            raise ValueError(f"by={by!r} needs " + ("a network with the classes of the labels; choose by='neighbors'."
                                                    if by == "network" else "a test set: audit(ebe, test_set)."))
        order = np.lexsort((np.arange(len(found)), -found))
        names = np.array(self.classes)
        return pd.DataFrame({"index": order, "label": names[self.labels[order]],
                             "suggested": names[self.shares.argmax(1)[order]], "suspicion": found[order],
                             "likely": confident_errors(self.shares, self.labels)[order]})

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) the group of near-duplicates of each example, most alone in theirs; see `ebe_utils.duplicates`.

        Pairs are sought among the neighbours: in a group of more than k + 1 every one has to have some of its nearest.
        """
        near = self.distances <= max(TOLERANCE * np.median(self.distances[:, 0]),
                                     1e-6 * np.median(self.distances[:, -1]))  # equal but for rounding
        rows = np.repeat(np.arange(len(self.labels)), near.sum(1))
        pairs = sp.csr_array((np.ones(len(rows)), (rows, self.indices[near])), shape=(len(self.labels),) * 2)
        return in_order(connected_components(pairs, directed=False)[1])

    def duplicates(self) -> pd.DataFrame:
        """The examples that have near-duplicates, group by group: group, index, label, same_label, distance.

        same_label: whether all of the group have one label; distance: to the nearest other example.
        """
        size = np.bincount(self.groups)
        at = np.flatnonzero(size[self.groups] > 1)
        found = pd.DataFrame({"group": self.groups[at], "index": at, "label": np.array(self.classes)[self.labels[at]],
                              "distance": self.distances[at, 0]})
        found.insert(3, "same_label", found.groupby("group")["label"].transform("nunique") == 1)
        return found.sort_values(["group", "index"], ignore_index=True)

    @cached_property
    def occurrences(self) -> np.ndarray:
        """(n,): among the neighbours of how many others each example is: hubs many, orphans none."""
        return k_occurrence(self.indices, len(self.labels))

    @property
    def hubness(self) -> float:
        """Skewness of the occurrences: about 0 without hubs."""
        return hubness(self.indices, len(self.labels))

    @property
    def orphans(self) -> np.ndarray:
        """The examples that are among the neighbours of no other, those with the farthest neighbours first."""
        at = np.flatnonzero(self.occurrences == 0)
        return at[np.argsort(-self.distances[at, -1], kind="stable")]

    def hubs(self, many: int = 10) -> np.ndarray:
        """The examples that are among the neighbours of most others."""
        return np.argsort(-self.occurrences, kind="stable")[:integer("many", many, 1)]

    @property
    def knn_graph(self) -> sp.csr_matrix:
        """The neighbours as scikit-learn's `kneighbors_graph(mode="distance")` has them, and cleanlab's Datalab takes.

        scipy CSR (n, n) of distances float64, k in each row, nearest first, no example its own neighbour.
        """
        n, k = self.indices.shape
        return sp.csr_matrix((self.distances.astype(float).ravel(), self.indices.ravel(), np.arange(0, n * k + 1, k)),
                             shape=(n, n))

    def to_frame(self) -> pd.DataFrame:
        """One row for each training example, in their order, with everything above."""
        names = np.array(self.classes)
        size = np.bincount(self.groups)
        found = {"label": names[self.labels], "suggested": names[self.shares.argmax(1)], "suspicion": self.suspicion,
                 "likely": confident_errors(self.shares, self.labels), "network_loss": self.network_loss,
                 "influence": self.influence, "group": self.groups, "copies": size[self.groups] - 1,
                 "occurrences": self.occurrences, "distance": self.distances[:, 0]}
        return pd.DataFrame({name: value for name, value in found.items() if value is not None})

    def __repr__(self):
        likely, copies = confident_errors(self.shares, self.labels).sum(), len(self.duplicates())
        return (f"Audit of {len(self.labels):,} training examples: {likely:,} labels are likely to be wrong, "
                f"{copies:,} examples have near-duplicates, {len(self.orphans):,} are nobody's neighbour; "
                f"hubness {self.hubness:.2f}")


def audit(ebe: EBEClassifier, test_set: Any = None, y: Any = None, k: int | None = None) -> Audit:
    """An `Audit` of the examples that a classifier was fitted on, at its layer and with its metric.

    ebe: fitted; of embeddings alone, `EBEClassifier.from_embeddings`. test_set, y: examples with labels, which are
    right and which were not trained on, to measure influence on them; any form that `fit` takes. k: number of
    neighbours, by default the classifier's. ValueError for a k that leaves no other example.
    """
    n = len(ebe.labels_)
    k = check_k(ebe.k if k is None else k, n - 1)
    ebe._check_unchanged()
    distances, indices = [], []
    for start in range(0, n, 1024):
        at = np.arange(start, min(start + 1024, n))
        far, near = ebe._index.kneighbors(np.asarray(ebe._embeddings[start:start + 1024]), k + 1)
        distances.append(leave_one_out(near, at, far))
        indices.append(leave_one_out(near, at))
    loss = None
    if ebe.comparable_ and ebe.network_proba_ is not None:
        own = ebe.network_proba_[np.arange(n), ebe.labels_].astype(float)
        loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    influence = None
    if test_set is not None:
        inputs = as_inputs(test_set, y)
        queries = ebe._query(as_they_came(inputs))[0]
        truth = class_indices(inputs.labels, ebe.classes_, "the test examples")
        influence = mean_shapley(_blocks(queries, ebe), ebe.labels_, truth, k)
    return Audit(np.concatenate(indices), np.concatenate(distances), ebe.labels_, ebe.class_names_, loss, influence)


def _blocks(queries: np.ndarray, ebe: EBEClassifier) -> Iterator[np.ndarray]:
    """Distances of some queries at a time to all training examples, (b, n)."""
    n = len(ebe.labels_)
    step = max(1, _VALUES // n)
    for start in range(0, len(queries), step):
        yield np.hstack([distances_between(queries[start:start + step], ebe._embeddings[at:at + _ROWS], ebe.metric_)
                         for at in range(0, n, _ROWS)])
