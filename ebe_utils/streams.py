"""Sweeps of what is no array of images: torch data sets and loaders, dicts, several inputs, and ready embeddings.

The embeddings of all layers are held at once, since such inputs may come only once. A sweep of images does without
(`ebe_utils.layer_neighbors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .batches import Stacked
from .data import ImageSet
from .embeddings import Layers, embed_batches
from .forward import on_device
from .inputs import Inputs, as_inputs
from .labels import encode_labels
from .layer_neighbors import LayerNeighbors
from .layers import layer_names
from .memory import available_memory
from .search import kneighbors
from .search.rows import Metric, metric_name
from .votes import nnk_weights


def is_stream(data: Any) -> bool:
    """Whether these inputs are not an `ImageSet` or arrays with integer labels, which `layer_neighbors` takes."""
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], Inputs):
        first, labels = data
        kind = labels.dtype if isinstance(labels, torch.Tensor) else np.asarray(labels).dtype
        return isinstance(first, Mapping | tuple | Dataset | DataLoader) or str(kind).startswith(("<U", "object"))
    return isinstance(data, Inputs | Mapping | Iterator | DataLoader) or (
        isinstance(data, Dataset) and not isinstance(data, ImageSet))


def embedding_neighbors(train: Mapping[Any, np.ndarray], train_labels: np.ndarray, test: Mapping[Any, np.ndarray],
                        test_labels: np.ndarray, k: int = 50, metric: Metric = "cosine",
                        network: np.ndarray | None = None, nnk: Iterable[int] = ()) -> LayerNeighbors:
    """The `LayerNeighbors` of embeddings that someone already has: {layer: (n_train, d)} and {layer: (n_test, d)}.

    train_labels (n_train,), test_labels (n_test,): class indices from 0. network: (n_test,), what the network predicts;
    without it agreement and its accuracy are NaN. nnk: the numbers of examples of which NNK weights are computed.
    Raises ValueError for layers, dimensions or lengths that do not match.
    """
    if set(train) != set(test) or not train:
        raise ValueError(f"the training embeddings are of layers {', '.join(map(str, train))}, the test embeddings of "
                         f"{', '.join(map(str, test))}; pass the same layers, at least one.")
    for what, given, labels in (("training", train, train_labels), ("test", test, test_labels)):
        for layer, values in given.items():
            if len(values) != len(labels):
                raise ValueError(f"layer {layer!r} has {len(values)} {what} embeddings and there are {len(labels)} "
                                 "labels; pass one for each.")
    far, near = {}, {}
    for layer, rows in train.items():
        far[layer], found = kneighbors(rows, test[layer], k, metric)
        near[layer] = found.astype(np.int32)
    classes = int(max(np.max(train_labels), np.max(test_labels))) + 1
    unknown = network is None
    neighbors = LayerNeighbors(
        {layer: str(layer) for layer in train}, near, far, np.asarray(train_labels), np.asarray(test_labels),
        np.zeros(len(test_labels), np.int64) if network is None else np.asarray(network),
        {layer: rows.shape[1] for layer, rows in train.items()}, metric_name(metric) if callable(metric) else metric,
        n_outputs=-1 if unknown else classes, n_classes=classes)
    wanted = [*nnk]
    return replace(neighbors, nnk={layer: {j: nnk_weights(rows, test[layer], near[layer][:, :j]) for j in wanted}
                                   for layer, rows in train.items()}) if wanted else neighbors


def input_neighbors(model: nn.Module, train_set: Any, test_set: Any, layers: Layers = "all", k: int = 50,
                    metric: Metric = "cosine", pooling: str = "none", batch_size: int = 256,
                    device: str | torch.device = "auto", memory_budget: float | None = None,
                    nnk: Iterable[int] = ()) -> LayerNeighbors:
    """`LayerNeighbors` of inputs of any kind (`ebe_utils.inputs.as_inputs`), from one pass over each set.

    memory_budget: GiB that the embeddings of all layers may take (default: half of what is free). Raises ValueError if
    they take more, and for labels of the test set that the training set has not.
    """
    train, test = as_inputs(train_set), as_inputs(test_set)
    names, (model, device) = layer_names(model, layers), on_device(model, device)
    room = available_memory() / 2 if memory_budget is None else memory_budget * 2**30
    held = {}
    for what, inputs in (("training", train), ("test", test)):
        held[what] = _collect(model, inputs, list(names), pooling, batch_size, device, room)
        room -= sum(rows.nbytes for rows in held[what][0].values())
    if train.labels is None or test.labels is None:
        raise ValueError("a sweep needs labels of the training and of the test examples; pass them with the inputs.")
    known, class_names, codes = encode_labels(train.labels, train.classes)
    integers = known.dtype.kind in "iu"
    asked = encode_labels(test.labels, class_names if integers else known.tolist())[2]
    (rows, learned), (queries, logits) = held["training"], held["test"]
    found = embedding_neighbors(rows, codes, queries, asked, k, metric, logits.argmax(1), nnk)
    return replace(found, names=names, n_outputs=logits.shape[1], n_classes=len(known), network_logits=logits,
                   train_logits=learned)


def _collect(model, inputs, layers, pooling, batch_size, device, room):
    """({layer: (n, d) float32}, logits (n, outputs)) of all inputs."""
    rows: dict[Any, Stacked] = {layer: Stacked(inputs.n) for layer in layers}
    logits, used = Stacked(inputs.n), 0
    for found, said in embed_batches(model, inputs.batches(batch_size), layers, pooling, device):
        for layer, values in found.items():
            rows[layer].add(values.cpu().numpy())
            used += values.nbytes
        logits.add(said.cpu().numpy())
        if used > room:
            raise ValueError(f"the embeddings of {len(layers)} layers take more than the {room / 2**30:.2f} GiB that "
                             "they may; pass fewer layers, pooling='avg', or a larger memory_budget.")
    return {layer: stacked.whole() for layer, stacked in rows.items()}, logits.whole()
