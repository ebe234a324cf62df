"""Step 6, the layer sweep: accuracy of every layer and every k from one pass over the data (section 3.3).

Training embeddings are taken batch by batch, compared with all test embeddings, merged into each layer's K nearest
and dropped. One search with the largest K serves every k, since its first k columns are the k nearest.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import psutil
import torch

from .attribution import WEIGHTS, Explanation, one_hot, vote_weights
from .checks import integer, one_of
from .data import as_image_set
from .embeddings import iter_embeddings
from .model import layer_names, read_tensors, scale, write_tensors
from .neighbors import METRICS, TopK, check_k

PIXELS = 0  # number of the "layer" that is the image itself


@dataclass(frozen=True)
class LayerNeighbors:
    """The K nearest training images of every test image at every layer.

    names: {layer: module name}; indices int32 and distances float32: {layer: (n_test, K)}; train_labels (n_train,);
    test_labels and network (the network's own predictions), (n_test,); dimensions: {layer: d}.
    """

    names: dict
    indices: dict
    distances: dict
    train_labels: np.ndarray
    test_labels: np.ndarray
    network: np.ndarray
    dimensions: dict
    metric: str = "cosine"

    def votes(self, layer, weights="uniform"):
        """EBE's prediction for k = 1..K at one layer, (n_test, K): column k - 1 holds the votes of k examples."""
        labels = one_hot(self.train_labels)[self.indices[layer]]  # (n, K, classes)
        if callable(weights):
            shares = [np.einsum("nk,nkc->nc", vote_weights(self.distances[layer][:, :k], weights), labels[:, :k])
                      for k in range(1, labels.shape[1] + 1)]
            return np.stack(shares, 1).argmax(2)
        # Weights of the first k neighbours differ from those of all K by a common factor only, which no vote sees.
        raw = vote_weights(self.distances[layer], weights)
        return (raw[:, :, None] * labels).cumsum(1).argmax(2) if weights != "uniform" else labels.cumsum(1).argmax(2)

    def accuracy(self, layer, k, weights="uniform"):
        """Share of test images that the k nearest at `layer` classify rightly."""
        return float((self.votes(layer, weights)[:, k - 1] == self.test_labels).mean())

    @property
    def network_accuracy(self):
        return float((self.network == self.test_labels).mean())

    def explain(self, train_set, test_set, position, layer=14, k=10, weights="uniform"):
        """The `Explanation` of the test image at `position`, without another search.

        Raises ValueError for a layer, k or position that was not searched.
        """
        if layer not in self.names:
            raise ValueError(f"layer={layer!r} was not searched; choose one of {', '.join(map(repr, self.names))}.")
        self._check_k(k)
        integer("position", position, 0, len(self.test_labels) - 1, ", that of a test image")
        indices, distances = self.indices[layer][position, :k], self.distances[layer][position, :k]
        share = vote_weights(distances[None], weights)[0]
        # bincount adds in order, so that classes with equally many votes get equal sums, as in `votes`.
        proba = np.bincount(self.train_labels[indices], share, len(train_set.classes))
        return Explanation(indices=indices, labels=self.train_labels[indices], distances=distances, weights=share,
                           proba=proba, prediction=int(proba.argmax()), network_prediction=int(self.network[position]),
                           classes=train_set.classes, layer=layer, layer_name=self.names[layer], metric=self.metric,
                           image=test_set.images[position], examples=train_set.images[indices])

    def _check_k(self, k):
        largest = next(iter(self.indices.values())).shape[1]
        return integer("k", k, 1, largest, f" (so many neighbours were searched; search again with k={k} for more)")

    def save(self, path):
        """Write everything to one safetensors file."""
        tensors = {f"{kind}.{layer}": torch.from_numpy(values) for kind in ("indices", "distances")
                   for layer, values in getattr(self, kind).items()}
        tensors |= {name: torch.from_numpy(getattr(self, name)) for name in ("train_labels", "test_labels", "network")}
        layers = [[layer, name, self.dimensions[layer]] for layer, name in self.names.items()]
        write_tensors(path, tensors, {"layers": json.dumps(layers), "metric": self.metric})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; ValueError if the file is damaged."""
        tensors, metadata = read_tensors(path)
        if "layers" not in metadata:
            raise ValueError(f"{path} holds no neighbours of a sweep; delete it and sweep again.")
        layers, arrays = json.loads(metadata["layers"]), {name: t.numpy() for name, t in tensors.items()}
        return cls({layer: name for layer, name, _ in layers},
                   *({layer: arrays[f"{kind}.{layer}"] for layer, _, _ in layers} for kind in ("indices", "distances")),
                   *(arrays[name] for name in ("train_labels", "test_labels", "network")),
                   {layer: dimension for layer, _, dimension in layers}, metadata["metric"])


def layer_neighbors(model, train_set, test_set, layers="all", k=50, metric="cosine", pooling="none", pixels=True,
                    batch_size=256, shard=2048, device="auto", progress=True):
    """Find the k nearest training images of every test image at every layer: one pass over each set.

    layers: "all", or numbers and module names. pixels: also search the raw images, as layer 0. Test embeddings of
    all layers are held; if they do not fit into half of the free memory, the layers are taken in several passes.
    Returns `LayerNeighbors`. Raises ValueError for bad parameters, before any work.
    """
    train_set, test_set = as_image_set(train_set), as_image_set(test_set)
    check_k(k, len(train_set))
    one_of("metric", metric, METRICS)
    if train_set.shape != test_set.shape:
        raise ValueError(f"test images of shape {test_set.shape} do not fit training images of shape "
                         f"{train_set.shape}; both need the same size and channels.")
    names = layer_names(model, layers)
    _, probe, _ = next(iter_embeddings(model, test_set.images[:1], list(names), pooling, device=device))
    dimensions = {layer: values.shape[1] for layer, values in probe.items()}
    found = {}
    groups = _groups(dimensions, len(test_set) + shard)
    bar = _bar(len(groups) * (len(train_set) + len(test_set)), progress)
    for group in groups:
        part, network = _search(model, train_set, test_set, group, k, metric, pooling, batch_size, shard, device, bar)
        found |= part
    if pixels:
        search = TopK(scale(test_set.images).flatten(1), k, metric)
        for images in train_set.images.split(shard):
            search.add(scale(images).flatten(1))
        found, names, dimensions = ({PIXELS: search, **found}, {PIXELS: "pixels", **names},
                                    {PIXELS: int(np.prod(test_set.shape)), **dimensions})
    bar.close()
    results = {layer: found[layer].result() for layer in names}
    return LayerNeighbors(names, {layer: i.astype(np.int32) for layer, (_, i) in results.items()},
                          {layer: d for layer, (d, _) in results.items()}, train_set.labels, test_set.labels, network,
                          dimensions, metric)


def _bar(total, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="sweep", unit="image", disable=not progress)


def _groups(dimensions, rows):
    """Layers that are searched in the same pass: as many as fit into half of the free memory, with their copies."""
    budget, groups, used = psutil.virtual_memory().available / 2, [[]], 0
    for layer, dimension in dimensions.items():
        need = 3 * 4 * dimension * rows
        if groups[-1] and used + need > budget:
            groups.append([])
            used = 0
        groups[-1].append(layer)
        used += need
    return groups


def _search(model, train_set, test_set, layers, k, metric, pooling, batch_size, shard, device, bar):
    """({layer: TopK}, the network's predictions) from one pass over both sets."""
    queries, logits = {layer: [] for layer in layers}, []
    for _, batch, out in iter_embeddings(model, test_set.images, layers, pooling, batch_size, device):
        logits.append(out.argmax(1).cpu().numpy())
        for layer in layers:
            queries[layer].append(batch[layer])
        bar.update(len(out))
    searches = {layer: TopK(torch.cat(queries.pop(layer)), k, metric) for layer in layers}
    held, rows = {layer: [] for layer in layers}, 0
    for place, batch, out in iter_embeddings(model, train_set.images, layers, pooling, batch_size, device):
        rows += len(out)
        for layer in layers:
            held[layer].append(batch[layer])
        if rows >= shard or place.stop == len(train_set):
            for layer in layers:
                searches[layer].add(torch.cat(held[layer]))
                held[layer].clear()
            rows = 0
        bar.update(len(out))
    return searches, np.concatenate(logits)


def sweep_table(neighbors, ks=range(1, 51), weights="uniform"):
    """Accuracy for every layer and k as a tidy DataFrame, one row each.

    Columns: layer (0 for raw pixels), name, dimension, k, accuracy (share of test images that EBE gets right),
    agreement (share where EBE says what the network says), network_accuracy. Accuracies run from 0 to 1.
    """
    rows, ks = [], [neighbors._check_k(k) for k in ks]
    for layer, name in neighbors.names.items():
        votes = neighbors.votes(layer, weights)
        for k in ks:
            rows.append({"layer": layer, "name": name, "dimension": neighbors.dimensions[layer], "k": k,
                         "accuracy": (votes[:, k - 1] == neighbors.test_labels).mean(),
                         "agreement": (votes[:, k - 1] == neighbors.network).mean(),
                         "network_accuracy": neighbors.network_accuracy})
    return pd.DataFrame(rows)


def layer_sweep(model, train_set, test_set, layers="all", ks=range(1, 51), metric="cosine", weights="uniform",
                pooling="none", **options):
    """Accuracy and agreement of EBE for every layer and k: `sweep_table` of `layer_neighbors`, which see."""
    ks = list(ks)
    if not ks:
        raise ValueError("ks is empty; pass the numbers of examples to try, range(1, 51) for example.")
    for k in ks:
        check_k(k, len(as_image_set(train_set)))
    if not callable(weights):
        one_of("weights", weights, WEIGHTS)
    found = layer_neighbors(model, train_set, test_set, layers, max(ks), metric, pooling, **options)
    return sweep_table(found, ks, weights)
