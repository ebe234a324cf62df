"""The passes of a sweep over the images: embeddings are taken batch by batch, searched and dropped."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from .data import scale
from .devices import float64_device
from .embeddings import iter_embeddings
from .forward import on_device
from .memory import Plan
from .search.engines import Engine, searcher
from .search.rows import Metric

PIXELS = 0  # number of the "layer" that is the image itself


def _embeddings(model, images, layers, pooling, batch_size, device, into) -> Iterator[tuple[slice, Any]]:
    """(slice, logits or None) of each batch, whose embeddings and pixels are written to `into`."""
    if wanted := [layer for layer in layers if layer != PIXELS]:
        batches: Any = ((rows, out) for rows, _, out in
                   iter_embeddings(model, images, wanted, pooling, batch_size, device, into))
    else:
        batches = ((slice(i, min(i + batch_size, len(images))), None) for i in range(0, len(images), batch_size))
    for rows, logits in batches:
        if PIXELS in layers:
            at = rows.start % len(into[PIXELS])
            into[PIXELS][at:at + rows.stop - rows.start] = scale(images[rows]).flatten(1)
        yield rows, logits


def buffer(n: int, d: int, device: str | torch.device) -> torch.Tensor:
    """Room for embeddings where they are searched: on `device`, or on the CPU for a device without float64.

    From NumPy on the CPU, since it asks for large pages, which are faster to walk through.
    """
    device = float64_device(device)
    if device.type == "cpu":
        return torch.from_numpy(np.empty((n, d), np.float32))
    return torch.empty(n, d, device=device)


def search_layers(images: torch.Tensor, offset: int, model: nn.Module, test_images: torch.Tensor, k: int,
                  metric: Metric, pooling: str, engine: Engine, device: torch.device, plan: Plan, bar: Any = None,
                  ) -> tuple[dict, np.ndarray, np.ndarray]:
    """The plan's passes over training `images`, numbered from `offset`.

    Returns ({layer: (distances, indices, notes)}, the network's logits for the test images (n_test, outputs), and those
    for the training images).
    """
    model, device = on_device(model, device)
    batch_size = plan.batch_size
    searched: dict = {layer: [] for layer in plan.dimensions}
    said: dict[int, np.ndarray] = {}  # logits by the first test image of their batch
    learned: dict[int, np.ndarray] = {}  # the same of training images, the same in every pass
    shard = plan.shard
    for layers, part in plan.passes:
        rows = part.stop - part.start
        queries, held = ({layer: buffer(n, plan.dimensions[layer], device) for layer in layers}
                         for n in (rows, min(shard, -(-len(images) // batch_size) * batch_size)))
        for now, out in _embeddings(model, test_images[part], layers, pooling, batch_size, device, queries):
            if out is not None:
                said[part.start + now.start] = out.cpu().numpy()
            if bar is not None:
                bar.update(now.stop - now.start)
        searches = {layer: searcher(queries[layer], k, metric, engine, len(images)) for layer in layers}
        seconds = dict.fromkeys(layers, 0.0)
        for now, out in _embeddings(model, images, layers, pooling, batch_size, device, held):
            if out is not None:
                learned[now.start] = out.cpu().numpy()
            if now.stop % shard == 0 or now.stop == len(images):
                for layer in layers:
                    start = time.perf_counter()
                    searches[layer].add(held[layer][:(now.stop - 1) % shard + 1])
                    seconds[layer] += time.perf_counter() - start
            if bar is not None:
                bar.update(now.stop - now.start)
        for layer in layers:
            start = time.perf_counter()
            search = searches.pop(layer)
            distances, indices = search.result()
            notes = {"seconds": seconds[layer] + time.perf_counter() - start, **search.notes()}
            searched[layer].append((distances, indices + offset, notes))
    found: dict = {}
    for layer, parts in searched.items():
        far, at, told = zip(*parts, strict=True)
        found[layer] = np.concatenate(far), np.concatenate(at), together(told)
    test, train = (np.concatenate([logits[start] for start in sorted(logits)]) for logits in (said, learned))
    return found, test, train


def together(notes: Any) -> dict:
    """The notes of several searches as one: the sum of seconds, shares on average, but the worst recall."""
    how: dict[str, Any] = {"seconds": sum, "candidates": np.mean, "exact": np.mean, "recall": min}
    return notes[0] | {key: float(how[key]([note[key] for note in notes])) for key in how if key in notes[0]}
