"""NNK votes of a sweep: they follow from the embeddings, which a search has dropped by the time it ends."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
from torch import nn

from .data import as_image_set, scale
from .embeddings import embed
from .layer_neighbors import PIXELS, LayerNeighbors
from .votes import check_weights, nnk_weights


def with_nnk(neighbors: LayerNeighbors, model: nn.Module, train_set: Any, test_set: Any, ks: Iterable[int],
             pooling: str = "none", memory_budget: float | None = None, **options: Any) -> LayerNeighbors:
    """The same `LayerNeighbors` with NNK weights of the k nearest, for each k of ks, at every layer.

    For each k on its own: NNK among more candidates is another problem, not a longer list. The images are embedded
    again, as many layers at a time as fit into memory_budget (GiB that the process may take in all; default: what it
    has and half of what is free). train_set, test_set, pooling: those of the search; options: of `embed`. Raises
    ValueError if the metric is not cosine or a k was not searched.
    """
    check_weights("weights", "nnk", neighbors.metric)
    train_set, test_set, ks = as_image_set(train_set), as_image_set(test_set), [*map(neighbors._check_k, ks)]
    have = psutil.Process().memory_info().rss
    room = psutil.virtual_memory().available / 2 if memory_budget is None else memory_budget * 2**30 - have
    found = {}
    for group in _in_groups(neighbors.dimensions, 4 * (len(train_set) + len(test_set)), room):
        train, test = (_embeddings(model, part.images, group, pooling, options) for part in (train_set, test_set))
        for layer in group:
            found[layer] = {k: nnk_weights(train[layer], test[layer], neighbors.indices[layer][:, :k]) for k in ks}
        del train, test  # before the next group takes their place
    return replace(neighbors, nnk=found)


def _embeddings(model, images, layers, pooling, options):
    """{layer: (n, d)}, the pixels among them if they are asked for."""
    wanted = [layer for layer in layers if layer != PIXELS]
    found = embed(model, images, wanted, pooling, **options) if wanted else {}
    return found | ({PIXELS: scale(images).flatten(1).numpy()} if PIXELS in layers else {})


def _in_groups(dimensions, size, room):
    """Layers in order, in lists that fit into `room`, or of one layer; size: what a layer takes for one dimension."""
    groups: list[list[int | str]] = []
    used = np.inf
    for layer, dimension in dimensions.items():
        used += size * dimension
        if used > room:
            groups.append([])
            used = size * dimension
        groups[-1].append(layer)
    return groups
