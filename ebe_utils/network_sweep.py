"""A sweep of the network's own answer: of each layer's nearest, those that explain what the network said.

`EBEClassifier(target="network")` makes the same choice for one layer, see `ebe_utils.network_examples`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from .checks import integer, one_of
from .embeddings import embed
from .forward import predict_logits, softmax
from .layer_neighbors import LayerNeighbors
from .layers import INPUT_OF, last_layer
from .network_examples import CHOICES, NetworkView


def with_features(neighbors: LayerNeighbors, model: nn.Module, train_set: Any, test_set: Any, **options: Any
                  ) -> LayerNeighbors:
    """The same `LayerNeighbors` with what goes into the network's last layer, from another pass over both sets.

    And with its logits, where they are not known. options: batch_size, device. Raises ValueError for a network that
    does not end in a linear layer.
    """
    layer = INPUT_OF + last_layer(model)
    train, test = (np.asarray(embed(model, part, layer, **options)) for part in (train_set, test_set))
    if neighbors.train_logits is None:
        learned, said = (predict_logits(model, part, **options) for part in (train_set, test_set))
        neighbors = replace(neighbors, train_logits=learned, network_logits=said)
    return replace(neighbors, features=(train, test))


def for_network(neighbors: LayerNeighbors, candidates: int = 200, k: int = 50, choice: str = "influence"
                ) -> LayerNeighbors:
    """The neighbours re-ordered: of each layer's `candidates` nearest, the k that a choice prefers, the best first.

    choice: "influence", which needs `with_features`, or "answers", see `ebe_utils.network_examples`. The first j of the
    result are the choice of j examples, for every j up to k; their distances are those at the layer, so they no longer
    ascend. Layer 0, the pixels, is re-ordered like the others. NNK weights have to be added anew (`with_nnk`). Raises
    ValueError where fewer neighbours than `candidates` were searched, or where what a choice needs is not known.
    """
    searched = next(iter(neighbors.indices.values())).shape[1]
    integer("candidates", candidates, 1, searched, f" (so many neighbours were searched; search again with "
                                                   f"k={candidates} for more)")
    if one_of("choice", choice, CHOICES) == "shares":
        raise ValueError("choice='shares' divides each number of examples anew, so that the first few of many are not "
                         "the choice of few; use EBEClassifier for it, or choice='influence' or 'answers' here.")
    learned, said = (None if logits is None else softmax(logits)
                     for logits in (neighbors.train_logits, neighbors.network_logits))
    train, test = (None, None) if neighbors.features is None else neighbors.features
    view = NetworkView(neighbors.train_labels if neighbors.same_classes else None, learned, train)
    indices, distances = {}, {}
    for layer, near in neighbors.indices.items():
        order, _ = view.choose(near[:, :candidates], said, test, choice, k)
        indices[layer] = np.take_along_axis(near, order, 1)
        distances[layer] = np.take_along_axis(neighbors.distances[layer], order, 1)
    return replace(neighbors, indices=indices, distances=distances, nnk={})
