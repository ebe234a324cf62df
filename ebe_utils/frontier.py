"""Which examples explain the network? Choices of the field and ours, on one network, by the same four measures.

agreement  how often the vote is the network's answer, and how often where the network is wrong
TV         mean total variation between the vote's shares and the network's softmax
near       per cent of the training set that is nearer, at the layer, than an example is; the weighted mean
reliance   how much the network's last layer would change its answer without the examples, see `ebe_utils.reliance`

No measure says enough alone: an explanation that is fitted to the answer agrees with it, one that may look anywhere is
relied on, and the nearest examples are near.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .checks import integer
from .data import as_image_set
from .embeddings import embed
from .forward import predict_logits, softmax
from .layers import INPUT_OF, last_layer
from .network_examples import NetworkView, convex_weights, nearest_answers, total_variation
from .reliance import LastLayer, like_network, reliance
from .search import kneighbors
from .statistics import mean_interval
from .votes import nnk_weights, vote_shares

Choice = tuple[np.ndarray, np.ndarray | None]  # (examples (n, k), weights (n, k) or None for equal ones)


class Frontier:
    """What is known of a network, a training and a test set, for choices of k examples to be compared on.

    layer: where nearness is measured. candidates: numbers of nearest examples that our choices look at, ascending.
    Holds the embeddings of the layer and what goes into the last layer, for both sets.
    """

    def __init__(self, model: nn.Module, train_set: Any, test_set: Any, layer: int | str = 14, k: int = 10,
                 candidates: Iterable[int] = (50, 200), seed: int = 0, batch_size: int = 256):
        train, test = as_image_set(train_set), as_image_set(test_set)
        self.labels, self.truth, self.n, self.layer, self.seed = train.labels, test.labels, len(train), layer, seed
        self.candidates = sorted({integer("candidates", c, k, self.n) for c in candidates})
        self.k, self.classes = integer("k", k, 1, self.n), len(train.classes)
        last = last_layer(model)
        found: list[Any] = [embed(model, part, [layer, INPUT_OF + last], batch_size=batch_size)
                            for part in (train, test)]
        (self.rows, self.train_features), (self.queries, self.features) = (
            (each[layer], each[INPUT_OF + last]) for each in found)
        self.train_logits, self.logits = (predict_logits(model, part, batch_size) for part in (train, test))
        self.train_proba, self.proba = softmax(self.train_logits), softmax(self.logits)
        if self.proba.shape[1] != self.classes:
            raise ValueError(f"the network has {self.proba.shape[1]} outputs and the labels {self.classes} classes; "
                             "pass a network of these classes.")
        self.answers = self.proba.argmax(1)
        self.wrong = np.flatnonzero(self.answers != self.truth)
        self.view = NetworkView(self.labels, self.train_proba, self.train_features)
        self.distances, self.near = kneighbors(self.rows, self.queries, max(50, *self.candidates))

    def choices(self) -> dict[str, Choice]:
        """{name: (examples, weights)} of the field's choices and ours."""
        k, near, rng = self.k, self.near, np.random.default_rng(self.seed)
        by_class = [np.flatnonzero(self.labels == c) for c in range(self.classes)]
        some = min(50, near.shape[1])
        found: dict[str, Choice] = {
            f"layer {self.layer}, nearest (the paper)": (near[:, :k], None),
            f"layer {self.layer}, NNK of {some}": (near[:, :some], nnk_weights(self.rows, self.queries,
                                                                               near[:, :some])),
            "pooled features": (kneighbors(self.train_features, self.features, k)[1], None),
            "logits": (kneighbors(self.train_logits, self.logits, k)[1], None),
            "probabilities": (kneighbors(np.sqrt(self.train_proba), np.sqrt(self.proba), k, "euclidean")[1], None),
            f"convex weights of {some}": (near[:, :some], convex_weights(self.train_proba, self.proba,
                                                                         near[:, :some])),
            "nearest of the answer's class": (self._of_class(self.rows, self.queries, by_class), None)}
        for c in self.candidates:
            found[f"answers, of {c}"] = (nearest_answers(near[:, :c], self.distances[:, :c], self.train_proba,
                                                         self.proba, k)[1], None)
        for c in self.candidates:
            found[f"influence, of {c}"] = (self._chosen(c, "influence")[0], None)
        found[f"shares, of {max(self.candidates)}"] = self._chosen(max(self.candidates), "shares")
        found["representer points"] = (self._representers(), None)
        found["random of the answer's class"] = (np.array([rng.choice(by_class[a], k, replace=False)
                                                           for a in self.answers]), None)
        found["random"] = (np.array([rng.choice(self.n, k, replace=False) for _ in self.answers]), None)
        return found

    def judge(self, ridges: Iterable[float] = (10, 100, 1000, 10000)) -> LastLayer:
        """The fit of the last layer that answers most like the network, see `like_network`."""
        return like_network(self.train_features, self.labels, self.features, self.proba, tuple(ridges))

    def table(self, judge: LastLayer, choices: dict[str, Choice] | None = None, refits: int = 100) -> pd.DataFrame:
        """One row for each choice: the measures of the top of this page, in per cent but for TV.

        reliance: of the network's mistakes, to first order; refit: the same by that many real refits; refit low and
        refit high: its 95 % interval; examples: how many have weight, on average. NaN where the network makes no
        mistake.
        """
        wrong, some = self.wrong, self.wrong[:refits]
        effects = (np.concatenate(list(judge.effects(self.features[wrong], self.answers[wrong]))) if len(wrong)
                   else np.empty((0, self.n)))
        most = self._without(judge, some, (-effects[:len(some)]).argsort(1)[:, :self.k])
        choices, rows = self.choices() if choices is None else choices, []
        ranks = self._nearer([at for at, _ in choices.values()])
        for (name, (at, given)), rank in zip(choices.items(), ranks, strict=True):
            weights = np.full(at.shape, 1 / at.shape[1]) if given is None else given
            shares = vote_shares(at, self.labels, weights, self.classes)
            same = shares.argmax(1) == self.answers
            moved = self._without(judge, some, at[some], weights[some]) / most
            low, high = mean_interval(moved) if len(some) > 1 else (np.nan, np.nan)
            rows.append({"choice": name, "agreement": 100 * same.mean(), "on mistakes": _percent(same[wrong]),
                         "TV": total_variation(shares, self.proba).mean(), "near": 100 * (rank * weights).sum(1).mean(),
                         "reliance": _percent(reliance(effects, at[wrong], weights[wrong])),
                         "refit": _percent(moved), "refit low": 100 * low, "refit high": 100 * high,
                         "examples": (weights > 0).sum(1).mean(),
                         "accuracy": 100 * (shares.argmax(1) == self.truth).mean()})
        return pd.DataFrame(rows)

    def bounds(self, judge: LastLayer, refits: int = 100) -> pd.DataFrame:
        """What no choice among the nearest can exceed: rows as of `table`, for each number of candidates.

        Of the candidates those k are taken whose removal costs the network's answer most by the judge itself, to first
        order. This is no method but the end of the scale at that nearness: what is chosen and what judges are the same.
        Of the network's mistakes only; agreement, TV and accuracy over all images are NaN.
        """
        wrong = self.wrong
        choices: dict[str, Choice] = {}
        for c in self.candidates:
            at = self.near[:, :self.k].copy()
            start = 0
            for effects in judge.effects(self.features[wrong], self.answers[wrong]):
                rows = wrong[start:start + len(effects)]
                near = self.near[rows, :c]
                best = (-np.take_along_axis(effects, near, 1)).argsort(1, kind="stable")[:, :self.k]
                at[rows] = np.take_along_axis(near, np.sort(best, 1), 1)
                start += len(rows)
            choices[f"most relied on, of {c} (bound)"] = at, None
        rows = self.table(judge, choices, refits)
        ranks = self._nearer([at for at, _ in choices.values()])
        rows["near"] = [100 * rank[wrong].mean() if len(wrong) else np.nan for rank in ranks]
        return rows.assign(**dict.fromkeys(["agreement", "TV", "accuracy"], np.nan))

    def _chosen(self, c, choice):
        ranks, weights = self.view.choose(self.near[:, :c], self.proba, self.features, choice, self.k)
        return np.take_along_axis(self.near, ranks, 1), weights

    def _of_class(self, rows, queries, by_class):
        """(n, k): of each query the nearest training examples whose label is the network's answer."""
        found = np.empty((len(queries), self.k), np.int64)
        for c in np.unique(self.answers):
            asked = self.answers == c
            found[asked] = by_class[c][kneighbors(rows[by_class[c]], queries[asked], self.k)[1]]
        return found

    def _representers(self):
        """(n, k): of all training examples those with the largest influence, see `network_examples.by_influence`."""
        found = np.empty((len(self.answers), self.k), np.int64)
        for at in range(0, len(found), 256):
            rows = slice(at, at + 256)
            left = (self.labels == self.answers[rows, None]) - self.train_proba[:, self.answers[rows]].T
            found[rows] = (-left * (self.features[rows] @ self.train_features.T)).argsort(1, kind="stable")[:, :self.k]
        return found

    def _nearer(self, choices):
        """For each of several (n, k) examples: the share of the training set that is nearer at the layer, (n, k)."""
        rows = self.rows / np.maximum(np.linalg.norm(self.rows, axis=1, keepdims=True), 1e-30)
        found = [np.empty(at.shape) for at in choices]
        for start in range(0, len(self.queries), 256):
            part = slice(start, start + 256)
            cosine = self.queries[part] @ rows.T
            own = [np.take_along_axis(cosine, at[part], 1) for at in choices]
            cosine.sort(1)
            for out, mine in zip(found, own, strict=True):
                out[part] = [self.n - np.searchsorted(line, values, "right") for line, values in
                             zip(cosine, mine, strict=True)]
        return [out / self.n for out in found]

    def _without(self, judge, queries, indices, weights=None):
        """Effect of taking each query's examples away; those without weight stay, as copies of the first that has."""
        if weights is not None:
            first = np.take_along_axis(indices, (weights > 0).argmax(1)[:, None], 1)
            indices = np.where(weights > 0, indices, first)
        return judge.without(self.features[queries], self.answers[queries], indices)


def _percent(values):
    return 100 * float(np.nanmean(values)) if len(values) else np.nan
