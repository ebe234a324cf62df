"""The nearest training images of every test image at every layer, from one pass over the data (section 3.3).

Training embeddings are taken batch by batch, compared with all test embeddings, merged into each layer's K nearest
and dropped. One search with the largest K serves every k, since its first k columns are the k nearest."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from torch import nn

from .checks import boolean, integer
from .data import ImageSet, as_image_set, check_sets
from .devices import float64_device
from .embeddings import Layers, probe
from .explanation import Explanation
from .forward import on_device
from .layers import layer_names
from .memory import Plan, row_parts
from .neighbors_file import read_neighbors, write_neighbors
from .passes import PIXELS, search_layers, together
from .progress import Progress, progress_bar
from .search.brute_force import merge
from .search.engines import Engine, check_engine, check_k
from .search.rows import Metric, metric_name
from .votes import Weights, one_hot, vote_shares, vote_weights

__all__ = ["PIXELS", "LayerNeighbors", "layer_neighbors"]
_log = logging.getLogger("ebe_utils")


@dataclass(frozen=True, eq=False)
class LayerNeighbors:
    """The K nearest training images of every test image at every layer.

    names: {layer: module name}; indices int32 and distances float32: {layer: (n_test, K)}; train_labels (n_train,);
    test_labels and network (the network's own predictions), (n_test,); dimensions: {layer: d}; notes: what the
    engine has to say of its search, {layer: {"seconds": of search, without the passes over the images, "exact":
    share of all distances that were computed, ...}}, not saved; nnk: {layer: {k: (n_test, k)}}, the NNK weights that
    `with_nnk` adds for some k. n_outputs: of the network; n_classes: of the data set; network_logits (n_test, outputs)
    and train_logits (n_train, outputs): what the network said; features: what went into its last layer, of the training
    and of the test images, which `network_sweep.with_features` adds, not saved; None where they are not known. Two are
    equal if all of that but the notes, logits and features is.
    """

    names: dict
    indices: dict
    distances: dict
    train_labels: np.ndarray
    test_labels: np.ndarray
    network: np.ndarray
    dimensions: dict
    metric: Metric = "cosine"
    notes: dict = field(default_factory=dict)
    nnk: dict = field(default_factory=dict)
    n_outputs: int | None = None
    n_classes: int | None = None
    network_logits: np.ndarray | None = None
    train_logits: np.ndarray | None = None
    features: tuple[np.ndarray, np.ndarray] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerNeighbors):
            return NotImplemented
        plain, arrays = ("names", "dimensions", "metric", "n_outputs", "n_classes"), ("train_labels", "test_labels",
                                                                                       "network")
        return (all(getattr(self, name) == getattr(other, name) for name in plain)
                and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
                and all(np.array_equal(mine[layer], others[layer]) for layer in self.names for mine, others in (
                    (self.indices, other.indices), (self.distances, other.distances))))

    __hash__ = None  # type: ignore[assignment]  # what compares by content that can change has no hash

    @property
    def same_classes(self) -> bool:
        """Whether the network's outputs stand for the data set's classes, as far as their numbers tell.

        A network that was trained on other classes (ImageNet's 1,000, say) still has embeddings to search, but what it
        predicts is no prediction of these classes: its accuracy and the agreement with it are NaN.
        """
        return self.n_outputs is None or self.n_outputs == self.n_classes

    def weights(self, layer: int | str, k: int, weights: Weights = "uniform") -> np.ndarray:
        """Weights of the k nearest at one layer, (n_test, k); ValueError for NNK weights that were not computed."""
        if weights != "nnk":
            return vote_weights(self.distances[layer][:, :k], weights)
        found = self.nnk.get(layer, {})
        if k not in found:
            raise ValueError(f"there are no NNK weights of {k} examples at layer {layer!r}, but of "
                             f"{', '.join(map(str, found)) or 'none'}; `ebe_utils.nnk.with_nnk` adds them.")
        return found[k]

    def votes(self, layer: int | str, weights: Weights = "uniform", ks: Iterable[int] | None = None) -> np.ndarray:
        """EBE's prediction for each k of ks (default: 1 to K) at one layer, (n_test, len(ks))."""
        near = self.indices[self._check_layer(layer)]
        wanted = np.arange(1, near.shape[1] + 1) if ks is None else np.array([self._check_k(k) for k in ks])
        if weights not in ("uniform", "distance"):
            return np.stack([vote_shares(near[:, :k], self.train_labels, self.weights(layer, k, weights)).argmax(1)
                             for k in wanted.tolist()], 1)
        labels, votes = one_hot(self.train_labels), np.empty((len(near), len(wanted)), np.int64)
        # Weights of the first k neighbours differ from those of all K by a common factor only, which no vote sees.
        raw = vote_weights(self.distances[layer], weights)
        for rows in row_parts(len(near), 3 * near.shape[1] * labels.shape[1] * 8):
            votes_for = labels[near[rows]]  # (rows, K, classes)
            sums = (votes_for if weights == "uniform" else raw[rows, :, None] * votes_for).cumsum(1)
            votes[rows] = sums.argmax(2)[:, wanted - 1]
        return votes

    def accuracy(self, layer: int | str, k: int, weights: Weights = "uniform") -> float:
        """Share of test images that the k nearest at `layer` classify correctly."""
        return float((self.votes(layer, weights, [k])[:, 0] == self.test_labels).mean())

    @property
    def network_accuracy(self) -> float:
        """Share of test images that the network classifies correctly; NaN if its classes are others."""
        return float("nan") if not self.same_classes else float((self.network == self.test_labels).mean())

    def explain(self, train_set: ImageSet, test_set: ImageSet, position: int, layer: int | str = 14, k: int = 10,
                weights: Weights = "uniform") -> Explanation:
        """The `Explanation` of the test image at `position`, without another search.

        Raises ValueError for a layer, k or position that was not searched.
        """
        self._check_layer(layer)
        self._check_k(k)
        integer("position", position, 0, len(self.test_labels) - 1, ", that of a test image")
        return Explanation.of_votes(
            self.indices[layer][position, :k], self.distances[layer][position, :k],
            self.weights(layer, k, weights)[position], self.train_labels, train_set.classes,
            lambda at: train_set.images[at], network_prediction=int(self.network[position]), layer=layer,
            layer_name=self.names[layer], metric=metric_name(self.metric), image=test_set.images[position],
            comparable=self.same_classes)

    def _check_layer(self, layer):
        if not isinstance(layer, str | int | np.integer) or layer not in self.names:
            raise ValueError(f"layer={layer!r} was not searched; choose one of {', '.join(map(repr, self.names))}.")
        return layer

    def _check_k(self, k):
        largest = next(iter(self.indices.values())).shape[1]
        return integer("k", k, 1, largest, f" (so many neighbours were searched; search again with k={k} for more)")

    def examples(self, positions: Sequence[int], k: int) -> pd.DataFrame:
        """The k nearest of some test images at every layer, tidy: position, network, layer, rank, index, distance.

        And nnk, their weights, if `with_nnk` has added those of k examples.
        """
        self._check_k(k)
        return pd.DataFrame([
            {"position": p, "network": int(self.network[p]), "layer": layer, "rank": rank + 1,
             "index": int(self.indices[layer][p, rank]), "distance": self.distances[layer][p, rank],
             **({"nnk": self.nnk[layer][k][p, rank]} if k in self.nnk.get(layer, ()) else {})}
            for p in positions for layer in self.names for rank in range(k)])

    @classmethod
    def of_examples(cls, table: pd.DataFrame, sweep: pd.DataFrame, train_set: ImageSet, test_set: ImageSet,
                    metric: str = "cosine") -> "LayerNeighbors":
        """What `examples` kept: the neighbours of those test images only, in the order of the table.

        sweep: the `sweep_table` of the same search, which knows the layers' names and dimensions.
        """
        about = sweep.drop_duplicates("layer").set_index("layer")
        positions = table["position"].drop_duplicates().to_numpy()

        def grid(layer, column, dtype):
            part = table[table["layer"] == layer].pivot(index="position", columns="rank", values=column)
            return np.array(part.loc[positions], dtype)

        layers = [*table["layer"].drop_duplicates()]
        network = table.drop_duplicates("position").set_index("position").loc[positions, "network"].to_numpy()
        k, weighed = int(table["rank"].max()), layers if "nnk" in table else []
        return cls({layer: about["name"][layer] for layer in layers},
                   {layer: grid(layer, "index", np.int32) for layer in layers},
                   {layer: grid(layer, "distance", np.float32) for layer in layers}, train_set.labels,
                   test_set.labels[positions], network, {layer: int(about["dimension"][layer]) for layer in layers},
                   metric, nnk={layer: {k: grid(layer, "nnk", float)} for layer in weighed})

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; ValueError for a metric that is a function, which no file holds."""
        if not isinstance(self.metric, str):
            raise ValueError(f"the metric is the function {metric_name(self.metric)!r}, which no file can hold; save "
                             "neighbours by a metric that has a name, or search again when they are needed.")
        write_neighbors(path, self)

    @classmethod
    def load(cls, path: str | Path) -> "LayerNeighbors":
        """Read what `save` wrote; ValueError if the file is damaged."""
        return cls(**read_neighbors(path))


def layer_neighbors(model: nn.Module, train_set: Any, test_set: Any, layers: Layers = "all", k: int = 50,
                    metric: Metric = "cosine", pooling: str = "none", pixels: bool = True, engine: Engine = "auto",
                    memory_budget: float | None = None, shard: int | None = None, parts: int = 1,
                    batch_size: int = 256, device: str | torch.device = "auto", progress: Progress = True,
                    ) -> LayerNeighbors:
    """Find the k nearest training images of every test image at every layer: one pass over each set, if memory allows.

    layers: "all", or numbers and module names. pixels: also search the raw images, as layer 0. engine: a name or a
    function that makes a `SearchEngine`, see `ebe_utils.search.engines`; on CUDA embeddings stay there and "auto" is
    "torch". memory_budget: GiB that the process may take in all (default: what it has and half of what is free, on the
    machine or within a container's limit); `Plan` says what is made of it, and is logged (logger "ebe_utils", level
    INFO). shard: training images searched at a time (default: the plan's choice), rounded to whole batches. batch_size:
    images per forward pass at most; the plan takes fewer where they do not fit into memory.
    parts: pieces of the training set that joblib searches independently, on the backend that
    `joblib.parallel_config` names (processes, a Dask cluster); the neighbours are the same, and the memory
    budget is that of each part. progress: whether to show a bar, or a function of (images done, images in all); of
    several parts there is none.

    The network may have been trained on other classes, see `LayerNeighbors.same_classes`. Returns `LayerNeighbors`.
    Raises ValueError for bad parameters, before any work, and for a layer whose output is not finite.
    """
    train_set, test_set = as_image_set(train_set), as_image_set(test_set)
    check_k(k, len(train_set))
    check_sets(train_set, test_set)
    names: dict = layer_names(model, layers)
    net, device = on_device(model, device)
    check_engine(engine, metric, float64_device(device))
    parts = integer("parts", parts, 1, len(train_set))
    dimensions, outputs = probe(net, test_set.images, list(names), pooling, device)
    if boolean("pixels", pixels):
        names = {PIXELS: "pixels", **names}
        dimensions = {PIXELS: int(np.prod(test_set.shape)), **dimensions}
    plan = Plan.of(dimensions, len(train_set), len(test_set), k, engine, memory_budget, batch_size, outputs, shard,
                   pooling)
    _log.info("%s", plan)
    work = (test_set.images, k, metric, pooling, engine, device, plan)
    if parts == 1:
        bar = progress_bar(progress, len(plan.passes) * (len(train_set) + len(test_set)), desc="sweep", unit="image")
        found = [search_layers(train_set.images, 0, net, *work, bar)]
        bar.close()
    else:  # parts begin where a batch begins, so that every image is embedded in the same batch
        size = plan.batch_size
        edges = np.linspace(0, -(-len(train_set) // size), parts + 1).astype(int) * size
        pieces = [(train_set.images[a:b], int(a)) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]
        found = joblib.Parallel()(joblib.delayed(search_layers)(images, offset, model, *work)
                                  for images, offset in pieces)
    logits, learned = found[0][1], np.concatenate([part[2] for part in found])
    best = {layer: merge([part[layer][:2] for part, *_ in found], k) for layer in names}
    notes = {layer: together([part[layer][2] for part, *_ in found]) for layer in names}
    return LayerNeighbors(names, {layer: i.astype(np.int32) for layer, (_, i) in best.items()},
                          {layer: d for layer, (d, _) in best.items()}, train_set.labels, test_set.labels,
                          logits.argmax(1), dimensions, metric, notes, n_outputs=logits.shape[1],
                          n_classes=len(train_set.classes), network_logits=logits, train_logits=learned)
