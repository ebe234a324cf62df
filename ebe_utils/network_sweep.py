"""A sweep of the network's own answer: of each layer's nearest, those to which the network gives the query's answer.

`EBEClassifier(target="network")` makes the same choice for one layer, see `ebe_utils.network_examples`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .checks import integer
from .forward import softmax
from .layer_neighbors import LayerNeighbors
from .network_examples import by_answer


def for_network(neighbors: LayerNeighbors, candidates: int = 200, k: int = 50) -> LayerNeighbors:
    """The neighbours re-ordered: of each layer's `candidates` nearest, the k whose softmax is nearest to the query's.

    The first j of the result are the choice of j examples, for every j up to k; their distances are those at the layer,
    so they no longer ascend. Layer 0, the pixels, is re-ordered like the others. NNK weights have to be added anew
    (`with_nnk`). Raises ValueError where fewer neighbours than `candidates` were searched, or the network's logits are
    not known.
    """
    searched = next(iter(neighbors.indices.values())).shape[1]
    integer("candidates", candidates, 1, searched, f" (so many neighbours were searched; search again with "
                                                   f"k={candidates} for more)")
    integer("k", k, 1, candidates, f" (there are {candidates} candidates)")
    if neighbors.network_logits is None or neighbors.train_logits is None:
        raise ValueError("what the network said of the training and test examples is not known here; search again with "
                         "layer_neighbors, which keeps it.")
    proba, train_proba = softmax(neighbors.network_logits), softmax(neighbors.train_logits)
    indices, distances = {}, {}
    for layer, near in neighbors.indices.items():
        order = by_answer(near[:, :candidates], train_proba, proba)[:, :k]
        indices[layer] = np.take_along_axis(near, order, 1)
        distances[layer] = np.take_along_axis(neighbors.distances[layer], order, 1)
    return replace(neighbors, indices=indices, distances=distances, nnk={})
