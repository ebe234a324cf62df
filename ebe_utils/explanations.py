"""Explanations of several inputs together: their votes as arrays, and each one as an `Explanation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .calibration import Doubts
from .evidence import Evidence
from .explanation import Explanation


class Explanations(Sequence):
    """Explanations of several inputs, from one forward pass and one search.

    indices, distances, weights: (n, k); attributions: scipy CSR (n, n_train), rows with sum 1; proba: (n, classes),
    equal to attributions @ one_hot(labels); prediction: (n,) class indices of the vote; network_prediction (n,) and
    network_proba (n, outputs): the network's own, or None. `explanations[i]` is the `Explanation` of input i.
    """

    def __init__(self, indices: np.ndarray, distances: np.ndarray, weights: np.ndarray, train_labels: np.ndarray,
                 classes: Sequence[str], network_proba: np.ndarray | None, comparable: bool,
                 make: Callable[[int], Explanation], evidence: Evidence | None = None):
        n, k = indices.shape
        self.indices, self.distances, self.weights, self.comparable = indices, distances, weights, comparable
        self.attributions = sp.csr_array((weights.ravel(), indices.ravel(), np.arange(n + 1) * k),
                                         shape=(n, len(train_labels)), copy=True)
        self.attributions.eliminate_zeros()  # in place, and the arrays above stay as they are
        votes = sp.csr_array((np.ones(len(train_labels)), train_labels, np.arange(len(train_labels) + 1)),
                             shape=(len(train_labels), len(classes)))
        self.proba = (self.attributions @ votes).toarray()
        self.prediction = self.proba.argmax(1)
        self.network_proba = network_proba
        self.network_prediction = None if network_proba is None else network_proba.argmax(1)
        self.evidence, self._make = evidence, make

    @property
    def agreement(self) -> np.ndarray | None:
        """(n,) booleans: where the vote says what the network says; None where the two cannot be compared."""
        if self.network_prediction is None or not self.comparable:
            return None
        return self.prediction == self.network_prediction

    @cached_property
    def doubts(self) -> Doubts | None:
        """`Explanation.doubt` of all inputs, as arrays: `ebe_utils.calibration.Doubts`."""
        return None if self.evidence is None else self.evidence.doubts(self.proba)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self._make(j) for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"explanation {i} of {len(self)}")
        return self._make(int(i) % len(self))

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def to_frame(self) -> pd.DataFrame:
        """`Explanation.to_frame` of each below each other, with a column "input"."""
        return pd.concat([e.to_frame().assign(input=i) for i, e in enumerate(self)], ignore_index=True)

    def __repr__(self):
        return f"Explanations of {len(self)} inputs, k={self.indices.shape[1]}"
