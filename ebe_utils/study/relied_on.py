"""How far the network's answers rest on examples: reliance, for the tables of notebooks 05 and 09."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from ..data import ImageSet
from ..embeddings import embed
from ..forward import predict_logits, softmax
from ..reliance import like_network, reliance


def mean_reliance(model: nn.Module, train_set: ImageSet, test_set: ImageSet, examples: Mapping[str, np.ndarray],
                  weights: Mapping[str, np.ndarray] | None = None, most: int = 500, device: str = "auto",
                  ) -> dict[str, float]:
    """{explanation: mean reliance on its examples, over the first `most` test images}.

    model: a ResNet; examples: {explanation: (n_test, k), positions in the training set}; weights: of the same shapes,
    for those whose examples of weight 0 do not count. Reliance (`ebe_utils.reliance`) is to first order how far
    log p(answer) falls when the last layer is fitted again without the examples, as a share of the largest fall that
    as many training images can cause. The ridge of the fit is that with which it answers most like the network.
    """
    asked = test_set.subset(range(min(most, len(test_set))))
    features, train_features = (np.asarray(embed(model, part.images, "input of fc", device=device))
                                for part in (asked, train_set))
    proba = softmax(predict_logits(model, asked.images, device=device))
    fit = like_network(train_features, train_set.labels, features, proba, (10, 100))
    found: dict[str, list[np.ndarray]] = {name: [] for name in examples}
    at, weights = 0, weights or {}
    for effects in fit.effects(features, proba.argmax(1)):
        for name, indices in examples.items():
            rows = slice(at, at + len(effects))
            found[name].append(reliance(effects, indices[rows], weights[name][rows] if name in weights else None))
        at += len(effects)
    return {name: float(np.nanmean(np.concatenate(parts))) for name, parts in found.items()}
