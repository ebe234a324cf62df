"""Step 6, the layer sweep: accuracy of every layer and every k from one pass over the data (section 3.3).

Training embeddings are taken batch by batch, compared with all test embeddings, merged into each layer's K nearest
and dropped. One search with the largest K serves every k, since its first k columns are the k nearest.
"""

import json
import time
from dataclasses import dataclass, field

import joblib
import numpy as np
import pandas as pd
import psutil
import torch

from .attribution import Explanation, check_weights, effective_number, one_hot, softmax_weights, vote_weights
from .checks import integer, real
from .data import as_image_set
from .embeddings import iter_embeddings, probe
from .model import layer_names, on_device, read_tensors, scale, write_tensors
from .neighbors import SMALL, check_engine, check_k, merge, searcher

KS = (1, 3, 5, 10, 20, 50)  # the k that the figures and claims are about
PIXELS = 0  # number of the "layer" that is the image itself
_FIXED = 200 * 2**20  # bytes that a search needs whatever its size


@dataclass(frozen=True)
class LayerNeighbors:
    """The K nearest training images of every test image at every layer.

    names: {layer: module name}; indices int32 and distances float32: {layer: (n_test, K)}; train_labels (n_train,);
    test_labels and network (the network's own predictions), (n_test,); dimensions: {layer: d}; notes: what the
    engine has to say of its search, {layer: {"seconds": of search, without the passes over the images, "compared":
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

    layers: "all", or numbers and module names. pixels: also search the raw images, as layer 0. engine: see
    `ebe_utils.neighbors`; on CUDA embeddings stay there and "auto" is "torch". memory_budget: GiB that the process
    may take in all (default: what it has and half of what is free); `Plan` says what is made of it, and is printed.
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


@dataclass(frozen=True)
class Plan:
    """What a sweep will do: passes, a list of (layers, slice of the test images), and training images per shard.

    peak, budget: bytes that the process is expected, and allowed, to take.
    """

    passes: list
    shard: int
    peak: int
    budget: int
    dimensions: dict
    n_train: int

    @classmethod
    def of(cls, dimensions, n_train, n_test, k, engine="shortlist", memory_budget=None, batch_size=256, forward=0,
           wanted=None):
        """Plan a sweep with as few passes as fit into memory_budget (GiB). forward: bytes of the forward pass;
        wanted: training images per shard, if not the plan's choice.

        Raises ValueError if not even one layer and one batch of test images fit.
        """
        integer("batch_size", batch_size, 1)
        have = psutil.Process().memory_info().rss
        if memory_budget is None:
            budget = have + psutil.virtual_memory().available // 2
        else:
            budget = int(real("memory_budget", memory_budget) * 2**30)
        fixed, plans = have + forward + _FIXED, []

        def need(layer, rows, shard):
            d, rank = dimensions[layer], min(dimensions[layer], 384)
            whole = {"sklearn": 16, "hnsw": 16}.get(engine, 0) * d * n_train
            small = engine == "auto" and d * n_train * n_test <= SMALL
            copies = {"auto": 4 * d + 8 * rank, "shortlist": 4 * d + 8 * rank, "faiss": 8 * d}.get(engine, 28 * d)
            copies = 28 * d if small else copies
            return (rows + min(shard, n_train)) * copies + rows * k * 24 + whole

        for shard in (4096, 2048, 1024, 512) if wanted is None else (integer("shard", wanted, 1),):
            shard = max(batch_size, shard // batch_size * batch_size)
            rows = n_test
            while rows > batch_size and max(need(layer, rows, shard) for layer in dimensions) > budget - fixed:
                rows = -(-rows // 2)
            passes, used, peak = [], None, fixed
            for part in range(0, n_test, rows):
                part, used = slice(part, min(part + rows, n_test)), None
                for layer in dimensions:
                    more = need(layer, rows, shard)
                    if used is None or used + more > budget - fixed:
                        passes.append(([], part))
                        used = 0
                    passes[-1][0].append(layer)
                    used += more
                    peak = max(peak, fixed + used)
            plans.append(cls(passes, shard, peak, budget, dimensions, n_train))
        plan = min(plans, key=lambda p: (p.peak > budget, len(p.passes), -p.shard))
        if plan.peak > budget:
            raise ValueError(f"memory_budget={budget / 2**30:.2f} GiB is too small for layer "
                             f"{max(dimensions, key=dimensions.get)!r}, which needs {plan.peak / 2**30:.2f} GiB, with "
                             f"{have / 2**30:.2f} that the process has already; allow more, or pass pooling='avg'.")
        return plan

    def __str__(self):
        n = len(self.passes)
        return (f"{len(self.dimensions)} layers, {sum(self.dimensions.values()):,} dimensions: {n} pass{'es' * (n > 1)}"
                f" over {self.n_train:,} training images, {self.shard:,} at a time; about {self.peak / 2**30:.1f} of "
                f"{self.budget / 2**30:.1f} GiB")


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
    how = {"seconds": sum, "looked": np.mean, "compared": np.mean, "recall": min}
    return notes[0] | {key: float(how[key]([note[key] for note in notes])) for key in how if key in notes[0]}


def sweep_table(neighbors, ks=range(1, 51), weights="uniform"):
    """Accuracy for every layer and k as a tidy DataFrame, one row each.

    Columns: layer (0 for raw pixels), name, dimension, k, accuracy (share of test images that EBE gets right),
    agreement (share where EBE says what the network says), network_accuracy. Accuracies run from 0 to 1. After an
    approximate search also recall, the share of the true K nearest that it found.
    """
    rows, ks = [], [neighbors._check_k(k) for k in ks]
    for layer, name in neighbors.names.items():
        votes, note = neighbors.votes(layer, weights), neighbors.notes.get(layer, {})
        for k in ks:
            rows.append({"layer": layer, "name": name, "dimension": neighbors.dimensions[layer], "k": k,
                         "accuracy": (votes[:, k - 1] == neighbors.test_labels).mean(),
                         "agreement": (votes[:, k - 1] == neighbors.network).mean(),
                         "network_accuracy": neighbors.network_accuracy,
                         **({"recall": note["recall"]} if "recall" in note else {})})
    return pd.DataFrame(rows)


def vote_table(neighbors, ks, weights):
    """How many examples a vote rests on, and how good it is, for several weights: a tidy DataFrame.

    weights: {name: "uniform", "distance" or a function, see `vote_weights`}. Columns: layer, k, weights, accuracy,
    agreement, effective (mean of `effective_number` over the test images).
    """
    labels, rows = one_hot(neighbors.train_labels), []
    for layer in neighbors.names:
        for k in map(neighbors._check_k, ks):
            for name, how in weights.items():
                share = vote_weights(neighbors.distances[layer][:, :k], how)
                votes = np.einsum("nk,nkc->nc", share, labels[neighbors.indices[layer][:, :k]]).argmax(1)
                rows.append({"layer": layer, "k": k, "weights": name,
                             "accuracy": (votes == neighbors.test_labels).mean(),
                             "agreement": (votes == neighbors.network).mean(),
                             "effective": effective_number(share).mean()})
    return pd.DataFrame(rows)


def right_together(neighbors, ks, weights="uniform"):
    """How many test images each two predictors get right together, a symmetric DataFrame of integers.

    Predictors: "all" (always right, so that its row counts what each gets right, and its own entry the test images),
    "network", and "layer/k" for every layer and every k of `ks`. From it follow McNemar's test for any two of them
    and the covariance of all accuracies (`ebe_utils.claims`).
    """
    right = {"all": np.ones(len(neighbors.test_labels), bool), "network": neighbors.network == neighbors.test_labels}
    for layer in neighbors.names:
        votes = neighbors.votes(layer, weights)
        right |= {f"{layer}/{k}": votes[:, neighbors._check_k(k) - 1] == neighbors.test_labels for k in ks}
    rows = np.stack([*right.values()]).astype(np.int64)
    return pd.DataFrame(rows @ rows.T, index=pd.Index(right, name="predictor"), columns=[*right])


def save_tables(neighbors, folder, weights="uniform"):
    """Write what is kept of a sweep as CSV: sweep (every k up to the largest), together and votes (the `KS`)."""
    k_max = next(iter(neighbors.indices.values())).shape[1]
    ks = [k for k in KS if k <= k_max]
    sweep_table(neighbors, range(1, k_max + 1), weights).to_csv(folder / "sweep.csv", index=False)
    right_together(neighbors, ks, weights).to_csv(folder / "together.csv")
    votes = vote_table(neighbors, ks, {"uniform": "uniform", "distance": "distance", "softmax": softmax_weights()})
    votes.to_csv(folder / "votes.csv", index=False, float_format="%.6g")


def layer_sweep(model, train_set, test_set, layers="all", ks=range(1, 51), metric="cosine", weights="uniform",
                pooling="none", **options):
    """Accuracy and agreement of EBE for every layer and k: `sweep_table` of `layer_neighbors`, which see."""
    ks = list(ks)
    if not ks:
        raise ValueError("ks is empty; pass the numbers of examples to try, range(1, 51) for example.")
    for k in ks:
        check_k(k, len(as_image_set(train_set)))
    check_weights("weights", weights)
    found = layer_neighbors(model, train_set, test_set, layers, max(ks), metric, pooling, **options)
    return sweep_table(found, ks, weights)
