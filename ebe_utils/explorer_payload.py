"""What the explorer's page is made of: chosen test inputs, their neighbours at every layer, the network, the maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from .checks import integer
from .data import ImageSet
from .explorer_maps import check_projection, layer_maps, network_rows, sample_size
from .explorer_pictures import packed
from .forward import softmax
from .layer_neighbors import LayerNeighbors
from .model import predict_logits
from .search.rows import metric_name
from .votes import vote_shares

_MAPPED = 10  # of each test input's examples, so many nearest are on the map


@dataclass(frozen=True)
class Source:
    """What an explorer is made from; see `ebe_utils.explorer.explore`. ValueError for parts that do not fit."""

    neighbors: LayerNeighbors
    train_set: Any
    test_set: Any
    model: nn.Module | None = None
    names: tuple[str, ...] = ()
    network_proba: ArrayLike | None = None
    embeddings: Mapping | None = None
    pooling: str = "none"
    device: str | torch.device = "auto"

    def __post_init__(self) -> None:
        for what, given, labels in (("training", self.train_set, self.neighbors.train_labels),
                                    ("test", self.test_set, self.neighbors.test_labels)):
            if len(given) != len(labels):
                raise ValueError(f"there are {len(given)} {what} inputs, but {len(labels)} were searched; pass the "
                                 "sets that the neighbours are from.")
            if isinstance(given, ImageSet) and not np.array_equal(given.labels, labels):
                raise ValueError(f"the labels of the {what} set are not those that were searched; pass the sets that "
                                 "the neighbours are from, in the same order.")
        most = 1 + int(max(self.neighbors.train_labels.max(), self.neighbors.test_labels.max()))
        if len(self.classes) < most:
            raise ValueError(f"classes has {len(self.classes)} names, but labels run up to {most - 1}; pass a name for "
                             "each class.")

    @property
    def classes(self) -> list[str]:
        """Names of all classes."""
        known = self.names or tuple(map(str, getattr(self.train_set, "classes", ())))
        most = max(self.neighbors.train_labels.max(), self.neighbors.test_labels.max())
        return [*known] or [str(one) for one in range(int(most) + 1)]

    @staticmethod
    def inputs(given: Any) -> Any:
        """The inputs themselves, without labels."""
        return given.images if isinstance(given, ImageSet) else given

    def proba(self, at: np.ndarray) -> np.ndarray | None:
        """(n, outputs): the network's softmax for the test inputs at some positions; None where it is not known.

        Raises ValueError where that is not the network that the neighbours were searched with.
        """
        if self.network_proba is not None:
            given = np.asarray(self.network_proba, float)
            if given.ndim != 2 or len(given) != len(self.neighbors.test_labels):
                raise ValueError(f"network_proba has shape {given.shape}; pass a row for each of the "
                                 f"{len(self.neighbors.test_labels)} test inputs.")
            found = given[at]
        elif self.model is not None:
            chosen = torch.as_tensor(self.inputs(self.test_set))[torch.from_numpy(at)]
            found = softmax(predict_logits(self.model, chosen, device=self.device))
        else:
            return None
        # A rounding error may decide where two outputs are as good as equal.
        best = found.max(1) - found[np.arange(len(at)), self.neighbors.network[at]] if (
            self.neighbors.network[at].max() < found.shape[1]) else np.ones(len(at))
        if (best > 1e-3).any():
            raise ValueError(f"the network says something else of {int((best > 1e-3).sum())} of {len(at)} test inputs "
                             "than it did when the neighbours were searched; pass the same network and the same data.")
        return found

    def rows(self, ids: np.ndarray) -> Iterator[tuple[slice, Mapping[Any, np.ndarray]]]:
        """(slice, {layer: embeddings}) of inputs by number, training inputs first; in batches."""
        n_train, layers = len(self.neighbors.train_labels), list(self.neighbors.names)
        first, second = ids[ids < n_train], ids[ids >= n_train] - n_train
        if self.embeddings is not None:
            yield slice(0, len(ids)), {layer: np.concatenate([self.embeddings[layer][0][first],
                                                              self.embeddings[layer][1][second]]) for layer in layers}
        elif self.model is not None:
            parts = [torch.as_tensor(self.inputs(given))[torch.from_numpy(at)] for given, at in
                     ((self.train_set, first), (self.test_set, second))]
            yield from network_rows(self.model, torch.cat(parts), layers, self.neighbors.dimensions, self.pooling,
                                    self.device)


def payload_of(source: Source, images: int, positions: Sequence[int] | None, layer: int | str | None, k: int,
               k_max: int | None, projection: str, seed: int,
               ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """(payload without pictures, positions of its test inputs (n,), of its training inputs, best ranks).

    The training inputs are in the order of the best rank that they have for any test input at any layer; those that
    are on the map only come last and have none.
    """
    neighbors = source.neighbors
    layers, searched = list(neighbors.names), next(iter(neighbors.indices.values())).shape[1]
    k_max = searched if k_max is None else neighbors._check_k(k_max)
    layer = (14 if 14 in layers else layers[len(layers) // 2]) if layer is None else neighbors._check_layer(layer)
    k = min(integer("k", k, 1), k_max)  # 10, the default, may be more than were searched
    check_projection(projection)
    at, chosen, start = _choose(neighbors, integer("images", images, 1), positions, layer, k, seed)
    # (n, layers, k_max)
    near = np.stack([neighbors.indices[one][at, :k_max] for one in layers], 1).astype(np.int64)
    mapped = projection != "none" and (source.embeddings is not None or source.model is not None)
    sample = np.empty(0, np.int64)
    if mapped:
        drawn = np.random.default_rng(seed).permutation(len(neighbors.train_labels))
        sample = np.sort(drawn[:sample_size(neighbors.dimensions)])
    slots, ranks = _slots(near, sample)
    place = np.zeros(len(neighbors.train_labels), np.int64)
    place[slots] = np.arange(len(slots))
    small = np.uint16 if len(slots) <= 2**16 else np.uint32
    payload: dict[str, Any] = {
        "classes": source.classes, "metric": metric_name(neighbors.metric), "chosen": chosen, "k_max": k_max,
        "layers": [{"key": _plain(one), "name": neighbors.names[one], "dimension": int(neighbors.dimensions[one])}
                   for one in layers],
        "start": {"image": start, "layer": _plain(layer), "k": k, "weights": "uniform"},
        "n_test": len(neighbors.test_labels), "n_train": len(neighbors.train_labels),
        "positions": packed(at.astype(np.uint32)), "neighbors": packed(place[near].astype(small)),
        "distances": packed(np.stack([neighbors.distances[one][at, :k_max] for one in layers], 1).astype(np.float32)),
        "slots": packed(slots.astype(np.uint32)), "labels": packed(neighbors.train_labels[slots].astype(np.uint16)),
        "truths": packed(neighbors.test_labels[at].astype(np.uint16))}
    if neighbors.same_classes:
        proba = source.proba(at)
        payload["network"] = packed(neighbors.network[at].astype(np.uint16))
        payload["proba"] = None if proba is None else packed(proba.astype(np.float32))
    if mapped:
        payload["map"] = _maps(source, at, near, sample, place.astype(small), projection, seed)
    return payload, at, slots, ranks


def _choose(neighbors, images, positions, layer, k, seed):
    """(positions of the test inputs, how they were chosen, which one to begin with)."""
    n = len(neighbors.test_labels)
    shares = vote_shares(neighbors.indices[layer][:, :k], neighbors.train_labels)
    vote, odd = shares.argmax(1), np.zeros(n, bool)
    if neighbors.same_classes:
        odd = (neighbors.network != neighbors.test_labels) | (vote != neighbors.network)
    if positions is not None:
        at, chosen = np.array([integer("positions", one, 0, n - 1) for one in positions], np.int64), "given"
        if len(at) == 0 or len({*at.tolist()}) < len(at):
            raise ValueError(f"positions holds {len(at)} positions, {len({*at.tolist()})} of them different; pass at "
                             "least one, and none twice.")
    elif n <= images:
        at, chosen = np.arange(n), "all"
    else:
        rng = np.random.default_rng(seed)
        first = rng.permutation(np.flatnonzero(odd))[:images // 2]
        rest = rng.permutation(np.setdiff1d(np.arange(n), first))[:images - len(first)]
        at, chosen = np.sort(np.concatenate([first, rest])), "mixed" if len(first) else "random"
    # The first impression: an input on which the vote is divided, and which the network gets wrong if there is one.
    return at, chosen, int(np.lexsort((shares[at].max(1), ~odd[at]))[0])


def _slots(near, sample):
    """(training positions that the page needs, each once; their best ranks): examples first, nearest first."""
    best = np.full(int(near.max()) + 1, near.shape[2] + 1)
    for rank in range(near.shape[2], 0, -1):
        best[near[..., rank - 1].ravel()] = rank
    examples = np.flatnonzero(best <= near.shape[2])
    examples = examples[np.argsort(best[examples], kind="stable")]
    return np.concatenate([examples, np.setdiff1d(sample, examples)]), best[examples]


def _maps(source, at, near, sample, place, projection, seed):
    """What the page draws maps from; the first n points of each layer are the test inputs, then training inputs."""
    n_train, layers = len(place), list(source.neighbors.names)
    tests = at + n_train
    points = {layer: np.concatenate([tests, sample, np.setdiff1d(near[:, i, :_MAPPED], sample)])
              for i, layer in enumerate(layers)}
    found = layer_maps(source.rows, points, sample, len(at) + len(sample), source.neighbors.metric, projection, seed)
    drawn = []
    for layer, ids in points.items():
        places, explained = found[layer]
        low, high = places.min(0), places.max(0)
        places = (places - (low + high) / 2) / (float((high - low).max()) or 1) + 0.5  # within a square
        drawn.append({"slots": packed(place[ids[len(at):]]), "explained": round(explained, 4),
                      "places": packed((places * 65535).round().astype(np.uint16))})
    return {"projection": projection, "sample": len(sample), "examples": _MAPPED, "layers": drawn}


def _plain(layer):
    return int(layer) if isinstance(layer, np.integer) else layer
