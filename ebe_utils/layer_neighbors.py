"""The nearest training images of every test image at every layer, from one pass over the data (section 3.3).

Training embeddings are taken batch by batch, compared with all test embeddings, merged into each layer's K nearest
and dropped. One search with the largest K serves every k, since its first k columns are the k nearest."""

import json
import time
from dataclasses import dataclass, field

import joblib
import numpy as np
import pandas as pd
import torch

from .checks import integer
from .data import as_image_set, scale
from .embeddings import iter_embeddings, probe
from .explanation import Explanation
from .files import read_tensors, write_tensors
from .layers import layer_names
from .memory import Plan
from .model import on_device
from .search.brute_force import merge
from .search.engines import check_engine, check_k, searcher
from .votes import one_hot, vote_weights

PIXELS = 0  # number of the "layer" that is the image itself


@dataclass(frozen=True)
class LayerNeighbors:
    """The K nearest training images of every test image at every layer.

    names: {layer: module name}; indices int32 and distances float32: {layer: (n_test, K)}; train_labels (n_train,);
    test_labels and network (the network's own predictions), (n_test,); dimensions: {layer: d}; notes: what the
    engine has to say of its search, {layer: {"seconds": of search, without the passes over the images, "exact":
    share of all distances that were computed, ...}}, not saved.
    """

    names: dict
    indices: dict
    distances: dict
    train_labels: np.ndarray
    test_labels: np.ndarray
    network: np.ndarray
    dimensions: dict
    metric: str = "cosine"
    notes: dict = field(default_factory=dict, compare=False)

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
        indices, distances, share = (row[share > 0] for row in (indices, distances, share))
        # bincount adds in order, so that classes with equally many votes get equal sums, as in `votes`.
        proba = np.bincount(self.train_labels[indices], share, len(train_set.classes))
        return Explanation(indices=indices, labels=self.train_labels[indices], distances=distances, weights=share,
                           proba=proba, prediction=int(proba.argmax()), network_prediction=int(self.network[position]),
                           classes=train_set.classes, layer=layer, layer_name=self.names[layer], metric=self.metric,
                           image=test_set.images[position], examples=train_set.images[indices])

    def _check_k(self, k):
        largest = next(iter(self.indices.values())).shape[1]
        return integer("k", k, 1, largest, f" (so many neighbours were searched; search again with k={k} for more)")

    def examples(self, positions, k):
        """The k nearest of some test images at every layer, tidy: position, network, layer, rank, index, distance."""
        self._check_k(k)
        return pd.DataFrame([
            {"position": p, "network": int(self.network[p]), "layer": layer, "rank": rank + 1,
             "index": int(self.indices[layer][p, rank]), "distance": self.distances[layer][p, rank]}
            for p in positions for layer in self.names for rank in range(k)])

    @classmethod
    def of_examples(cls, table, sweep, train_set, test_set, metric="cosine"):
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
        return cls({layer: about["name"][layer] for layer in layers},
                   {layer: grid(layer, "index", np.int32) for layer in layers},
                   {layer: grid(layer, "distance", np.float32) for layer in layers}, train_set.labels,
                   test_set.labels[positions], network, {layer: int(about["dimension"][layer]) for layer in layers},
                   metric)

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
                    engine="auto", memory_budget=None, shard=None, parts=1, batch_size=256, device="auto",
                    progress=True):
    """Find the k nearest training images of every test image at every layer: one pass over each set, if memory allows.

    layers: "all", or numbers and module names. pixels: also search the raw images, as layer 0. engine: a name or a
    function that makes a `SearchEngine`, see `ebe_utils.search.engines`; on CUDA embeddings stay there and "auto" is
    "torch". memory_budget: GiB that the process may take in all (default: what it has and half of what is free);
    `Plan` says what is made of it, and is printed.
    shard: training images searched at a time (default: the plan's choice), rounded to whole batches.
    parts: pieces of the training set that joblib searches independently, on the backend that
    `joblib.parallel_config` names (processes, a Dask cluster); the neighbours are the same, and the memory
    budget is that of each part.
    Returns `LayerNeighbors`. Raises ValueError for bad parameters, before any work.
    """
    train_set, test_set = as_image_set(train_set), as_image_set(test_set)
    check_k(k, len(train_set))
    if train_set.shape != test_set.shape:
        raise ValueError(f"test images of shape {test_set.shape} do not fit training images of shape "
                         f"{train_set.shape}; both need the same size and channels.")
    names = layer_names(model, layers)
    device = on_device(model, device)[1]
    check_engine(engine, metric, device)
    parts = integer("parts", parts, 1, len(train_set))
    dimensions, largest = probe(model, test_set.images, list(names), pooling, device)
    if pixels:
        names = {PIXELS: "pixels", **names}
        dimensions = {PIXELS: int(np.prod(test_set.shape)), **dimensions}
    plan = Plan.of(dimensions, len(train_set), len(test_set), k, engine, memory_budget, batch_size,
                   12 * largest * batch_size, shard)
    if progress:
        print(plan, flush=True)
    work = (model, test_set.images, k, metric, pooling, engine, batch_size, device, plan)
    if parts == 1:
        bar = _bar(len(plan.passes) * (len(train_set) + len(test_set)), progress)
        found = [_search(train_set.images, 0, *work, bar)]
        bar.close()
    else:  # parts begin where a batch begins, so that every image is embedded in the same batch
        edges = np.linspace(0, -(-len(train_set) // batch_size), parts + 1).astype(int) * batch_size
        pieces = [(train_set.images[a:b], int(a)) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]
        found = joblib.Parallel()(joblib.delayed(_search)(images, offset, *work) for images, offset in pieces)
    network = found[0][1]
    best = {layer: merge([part[layer][:2] for part, _ in found], k) for layer in names}
    notes = {layer: _together([part[layer][2] for part, _ in found]) for layer in names}
    return LayerNeighbors(names, {layer: i.astype(np.int32) for layer, (_, i) in best.items()},
                          {layer: d for layer, (d, _) in best.items()}, train_set.labels, test_set.labels, network,
                          dimensions, metric, notes)


def _bar(total, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="sweep", unit="image", disable=not progress)


def _embeddings(model, images, layers, pooling, batch_size, device, into):
    """(slice, logits or None) of each batch, whose embeddings and pixels are written to `into`."""
    if wanted := [layer for layer in layers if layer != PIXELS]:
        batches = ((rows, out) for rows, _, out in
                   iter_embeddings(model, images, wanted, pooling, batch_size, device, into))
    else:
        batches = ((slice(i, min(i + batch_size, len(images))), None) for i in range(0, len(images), batch_size))
    for rows, logits in batches:
        if PIXELS in layers:
            at = rows.start % len(into[PIXELS])
            into[PIXELS][at:at + rows.stop - rows.start] = scale(images[rows]).flatten(1)
        yield rows, logits


def _buffer(n, d, device):
    """Room for embeddings; from NumPy on the CPU, since it asks for large pages, which are faster to walk through."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy(np.empty((n, d), np.float32))
    return torch.empty(n, d, device=device)


def _search(images, offset, model, test_images, k, metric, pooling, engine, batch_size, device, plan, bar=None):
    """({layer: (distances, indices, notes)}, the network's predictions): the plan's passes over training `images`."""
    found, logits = {layer: [] for layer in plan.dimensions}, {}
    shard = plan.shard
    for layers, part in plan.passes:
        rows = part.stop - part.start
        queries, held = ({layer: _buffer(n, plan.dimensions[layer], device) for layer in layers}
                         for n in (rows, min(shard, -(-len(images) // batch_size) * batch_size)))
        for now, out in _embeddings(model, test_images[part], layers, pooling, batch_size, device, queries):
            if out is not None:
                logits[part.start + now.start] = out.argmax(1).cpu().numpy()
            if bar is not None:
                bar.update(now.stop - now.start)
        searches = {layer: searcher(queries[layer], k, metric, engine, len(images)) for layer in layers}
        seconds = dict.fromkeys(layers, 0.0)
        for now, _ in _embeddings(model, images, layers, pooling, batch_size, device, held):
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
            found[layer].append((distances, indices + offset, notes))
    for layer, searched in found.items():
        distances, indices, notes = zip(*searched, strict=True)
        found[layer] = np.concatenate(distances), np.concatenate(indices), _together(notes)
    return found, np.concatenate([logits[start] for start in sorted(logits)])


def _together(notes):
    """The notes of several searches as one: the sum of seconds, shares on average, but the worst recall."""
    how = {"seconds": sum, "candidates": np.mean, "exact": np.mean, "recall": min}
    return notes[0] | {key: float(how[key]([note[key] for note in notes])) for key in how if key in notes[0]}
