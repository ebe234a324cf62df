"""EBE for quanda, whose metrics are somebody else's: an explainer as they call it (Bareeva et al. 2024).

quanda asks an explainer for a score of every training example for every query, (n, n_train), and reads the scores'
order. Nothing here needs quanda itself. It wants older libraries than this package (captum < 0.9, numpy < 2, Python <
3.13), so that its metrics run in an environment of their own; the guide has the commands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .explainer import EBEClassifier
from .votes import one_hot

TIE = 1e-3  # difference between the first and the last factor of `ranked_weights`


def ranked_weights(weights: ArrayLike) -> np.ndarray:
    """Weights (n, k) that carry their rank: no two are equal, and rows have the sum that they had.

    The larger weight comes first, and of equal weights the nearer example (weights are nearest first). In that order
    each is multiplied by a factor that falls evenly by a thousandth in all, and the row is scaled back to its sum. So
    uniform weights keep their ranks where quanda's top-k would pick among equal ones at random. Zeros stay zeros.
    """
    weights = np.asarray(weights, float)
    k = weights.shape[1]
    order = np.argsort(-weights, 1, kind="stable")
    factors = np.empty_like(weights)
    np.put_along_axis(factors, order, np.linspace(1 + TIE / 2, 1 - TIE / 2, k)[None].repeat(len(weights), 0), 1)
    ranked = weights * factors
    total = ranked.sum(1, keepdims=True)
    return ranked * np.divide(weights.sum(1, keepdims=True), total, out=np.ones_like(total), where=total != 0)


class EBEExplainer:
    """`EBEClassifier` with the constructor and the methods that quanda's metrics and benchmarks call.

    model, train_dataset: the network, and a torch `Dataset` of (input, label) in the order of its training examples.
    layer, k, settings: those of `EBEClassifier` (target="network", candidates=200, ...). signed: count an example
    against the class asked for if it has another label, so that a row adds up to that class's share of the votes minus
    that of all others; by default a row is the attribution whatever class is asked for. checkpoints: files with the
    weights of the network, of which the last is loaded; checkpoints_load_func: function of (model, file) that does so.

    classifier: the fitted `EBEClassifier`.
    """

    accepted_tasks = ("image_classification",)

    def __init__(self, model: torch.nn.Module, train_dataset: Any, checkpoints: str | Sequence[str] | None = None,
                 checkpoints_load_func: Callable[[torch.nn.Module, str], Any] | None = None,
                 task: str = "image_classification", layer: int | str | None = None, k: int = 10,
                 signed: bool = False, **settings: Any):
        if task not in self.accepted_tasks:
            raise ValueError(f"task={task!r} is not possible; EBE explains classifiers: {self.accepted_tasks[0]!r}.")
        if checkpoints:
            last = checkpoints if isinstance(checkpoints, str) else checkpoints[-1]
            (checkpoints_load_func or _load)(model, last)
        self.model, self.train_dataset, self.signed = model, train_dataset, signed
        self.classifier = EBEClassifier(model, layer, k, **settings).fit(train_dataset)

    def explain(self, test_data: torch.Tensor, targets: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """(n, n_train) float32: the weight of every training example, see `ranked_weights`; 0 for those not chosen.

        test_data: (n, ...), as the network takes it; targets: (n,) classes, which only `signed` looks at.
        """
        labels = self.classifier.labels_
        indices, weights = _nearest_first(self.classifier.attributions(test_data))
        weights, n = ranked_weights(weights), len(weights)
        if self.signed:
            if targets is None:
                raise ValueError("signed attributions need targets: the class that is asked about, for each input.")
            wanted = np.asarray(targets.cpu() if isinstance(targets, torch.Tensor) else targets).reshape(n, 1)
            weights = np.where(labels[indices] == wanted, weights, -weights)
        return torch.zeros(n, len(labels)).scatter_add_(1, torch.from_numpy(indices), torch.from_numpy(weights).float())

    def self_influence(self, batch_size: int = 32) -> torch.Tensor:
        """(n_train,): how suspicious the label of each training example is, from 0 to 1, for quanda's mislabelling
        metric: what share of the votes of the k nearest *other* training examples is for another class.

        An example's own weight, which quanda would take, is the same for all. 0.5 where all the weight is its own, as
        NNK gives it. batch_size: not used.
        """
        ebe, labels = self.classifier, self.classifier.labels_
        more = copy.copy(ebe)
        more.k = ebe.k + 1  # one of them is the example itself
        more.candidates = max(ebe.candidates, more.k)
        weights = more.attributions(self.train_dataset)
        own, everyone = weights.diagonal(), weights.sum(1)
        same = (weights @ one_hot(labels, len(ebe.classes_)))[np.arange(len(labels)), labels] - own
        others = everyone - own
        trusted = np.divide(same, others, out=np.full(len(labels), 0.5), where=others > 1e-9)
        return torch.from_numpy(1 - trusted).float().clamp(0, 1)


def _nearest_first(attributions):
    """(indices, weights), each (n, most examples of a row), of a CSR with the nearest first; 0 at a row's end."""
    count = np.diff(attributions.indptr)
    inside = np.arange(count.max()) < count[:, None]
    indices, weights = np.zeros(inside.shape, np.int64), np.zeros(inside.shape)
    indices[inside], weights[inside] = attributions.indices, attributions.data
    return indices, weights


def _load(model, file):
    device = next(model.parameters()).device
    model.load_state_dict(torch.load(file, map_location=device, weights_only=True))
