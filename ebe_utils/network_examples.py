"""Attributions of the network's own answer: examples that are near at a layer *and* have to do with that answer.

The nearest examples at a layer explain what their labels vote for, and where the network errs that is often something
else. Two ways to choose k among the `candidates` nearest explain what the network says:

influence  those that pulled the network's last layer most towards this answer: for a query with features f and answer
           a, example i counts (1[y_i = a] - p_i(a)) * f_i . f, the gradient of a's logit that it has given at the end
           of training (TracIn at one checkpoint and one layer, Pruthi et al. 2020; representer points, Yeh et al. 2018)
answers    those whose softmax is nearest to the query's (Hellinger distance): the network treats them alike
shares     k divided among the classes as the network's probability is, of each class those with the most influence on
           it; an example's weight is its class's probability, divided by the number of its examples. So the vote *is*
           the network's softmax, but for classes that get no example: it is fitted to that, so agreement is no merit
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from .checks import integer, one_of

TARGETS = ("labels", "network")
CHOICES = ("influence", "answers", "shares")


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


def by_influence(indices: np.ndarray, train_labels: np.ndarray, train_proba: np.ndarray, train_features: np.ndarray,
                 proba: np.ndarray, features: np.ndarray) -> np.ndarray:
    """(n, c): the ranks of each query's candidates, from 0, by their influence on the network's answer, largest first.

    indices: (n, c), nearest at the layer first; train_labels: (n_train,), numbers of outputs; train_proba: (n_train,
    outputs) and proba: (n, outputs), the network's softmax; train_features: (n_train, d) and features: (n, d), what
    goes into its last layer. Equal influence is decided by nearness at the layer.
    """
    answers, inner = proba.argmax(1)[:, None], _inner(indices, train_features, features)
    score = ((train_labels[indices] == answers) - train_proba[indices, answers]) * inner
    scale = np.abs(score).max(1, keepdims=True)
    return (-score / np.where(scale > 0, scale, 1)).round(9).argsort(1, kind="stable")


def by_shares(indices: np.ndarray, train_labels: np.ndarray, train_proba: np.ndarray, train_features: np.ndarray,
              proba: np.ndarray, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ranks, weights), each (n, k): k candidates divided among the classes by the largest remainder of k * proba.

    See `by_influence` for the arguments. Ranks ascend; weights sum to 1, and are 0 where a class has fewer candidates
    than its share. Where none of the classes in question has a candidate, the nearest candidates share the weight.
    """
    inner = _inner(indices, train_features, features)
    ranks, weights = np.empty((len(indices), k), np.int64), np.zeros((len(indices), k))
    for q, near in enumerate(indices):
        slots = np.floor(proba[q] * k + 1e-9).astype(int)
        slots[np.argsort(slots - proba[q] * k, kind="stable")[:k - slots.sum()]] += 1
        share = np.zeros(len(near))
        for c in np.flatnonzero(slots):
            own = np.flatnonzero(train_labels[near] == c)
            score = (1 - train_proba[near[own], c]) * inner[q, own]
            best = own[(-score).argsort(kind="stable")[:slots[c]]]
            share[best] = proba[q, c] / max(1, len(best))
        share = share / share.sum() if share.any() else (np.arange(len(near)) < k) / k
        ranks[q] = np.sort((share == 0).argsort(kind="stable")[:k])  # those with weight, filled up with the nearest
        weights[q] = share[ranks[q]]
    return ranks, weights


def _inner(indices, train_features, features):
    """(n, c): inner products of what goes into the last layer, of each query and its candidates."""
    found = np.empty(indices.shape)
    step = max(1, 2**24 // max(1, indices.shape[1] * features.shape[1]))  # 128 MiB of float64 features at a time
    for start in range(0, len(indices), step):
        rows = slice(start, start + step)
        found[rows] = np.einsum("ncd,nd->nc", train_features[indices[rows]].astype(float), features[rows].astype(float))
    return found


@dataclass(frozen=True, eq=False)
class NetworkView:
    """What a network says of the training examples: what a choice for its answer needs, None where it is not known.

    labels: (n,), numbers of the network's outputs; proba: (n, outputs); features: (n, d), what goes into its last
    layer.
    """

    labels: np.ndarray | None = None
    proba: np.ndarray | None = None
    features: np.ndarray | None = None

    def choose(self, indices: np.ndarray, proba: np.ndarray | None, features: np.ndarray | None, choice: str, k: int
               ) -> tuple[np.ndarray, np.ndarray | None]:
        """(ranks (n, k), weights or None): k of the candidates (n, c) of some queries, the best first.

        For "shares" they are in the order of nearness, and have weights. Raises ValueError for a choice that is not
        known, or that needs what is not known here.
        """
        integer("k", k, 1, indices.shape[1], f" (there are {indices.shape[1]} candidates)")
        one_of("choice", choice, CHOICES)
        if self.proba is None or proba is None:
            raise ValueError("target='network' needs what the network says of every example, which is not known here; "
                             "pass target='labels', or fit and search with the network.")
        if choice == "answers":
            return by_answer(indices, self.proba, proba)[:, :k], None
        if self.features is None or features is None:
            raise ValueError(f"choice={choice!r} needs what goes into the network's last layer, which was not kept; "
                             "call fit again with target='network', or pass choice='answers'.")
        if self.labels is None:
            raise ValueError("the network's outputs are not the classes of the labels, so no label speaks for its "
                             "answer; pass choice='answers'.")
        about = indices, self.labels, self.proba, self.features, proba, features
        return by_shares(*about, k) if choice == "shares" else (by_influence(*about)[:, :k], None)


def check_last_layer(layer: Any, features: torch.Tensor, logits: torch.Tensor) -> None:
    """ValueError unless the logits of a batch are what a linear layer makes of its features, (n, d)."""
    with torch.inference_mode():
        made = layer(features.to(layer.weight)).float() if features.ndim == 2 else torch.zeros(0, 0)
    if made.ndim == 2 and made.shape[1] == 1 and logits.shape[1] == 2:  # a single logit against 0, see `logits_of`
        made = torch.cat([torch.zeros_like(made), made], 1)
    if made.shape != logits.shape or not torch.allclose(made, logits.float(), rtol=0.02, atol=0.02):
        raise ValueError("the network's outputs are not those of its last linear layer, so its answer cannot be traced "
                         "back to examples through that; pass choice='answers'.")


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
