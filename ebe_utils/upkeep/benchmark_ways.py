"""The ways that the benchmark measures: the network, the data, and what each way does with them."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import scale
from ..datasets import load_dataset
from ..embeddings import embed, probe
from ..files import write_text
from ..layer_neighbors import layer_neighbors
from ..layers import conv_layers
from ..memory import peak_memory
from ..model import load_model, predict_logits, resnet18_for, save_model
from ..search.kernels import exact_distances
from ..tables import KS
from ..training import train
from .benchmark_engines import ENGINES
from .benchmark_stages import timed

WAYS = ("limits", "sklearn", "faiss-flat", "captum", "engine=faiss", "engine=torch", "engine=bounded")
K = 50
_MUCH = 5e12  # multiplications from which our own brute-force engines, too, search for a part of the queries only


class Bench:
    """Network, data and layers of one benchmark, the same in each of its processes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.folder)
        self.train, self.test = load_dataset(options.dataset, None, options.train or None, options.test or None)
        self.model = resnet18_for(self.train, options.stem)
        file = Path(options.network or self.folder / "model.safetensors")
        if file.exists():
            load_model(file, self.model, self.train)
        else:
            part = load_dataset(options.dataset, None, min(10_000, len(self.train)))[0]
            train(self.model, part, epochs=options.epochs, schedule="linear", progress=False)
            save_model(file, self.model, self.train)
        self.layers = options.layers or list(conv_layers(self.model))
        self.dimensions = probe(self.model, self.train.images, self.layers)[0]
        self.k = min(K, len(self.train))

    def queries(self, most: int) -> tuple[np.ndarray, float]:
        """(positions of at most so many test images, how often the whole test set is so many)."""
        rows = np.linspace(0, len(self.test) - 1, min(most, len(self.test))).astype(int)
        return rows, len(self.test) / len(rows)

    def leave(self, row: str, seconds: float, layer_seconds: Any = (), rows: Any = (), found: Any = (),
              **what: Any) -> None:
        """Keep one row's results for the table: seconds, peak memory, and what was found."""
        arrays = {f"{name}.{layer}": v for layer, one in dict(found).items() for name, v in one.items()}
        np.savez(self.folder / f"{row}.npz", rows=rows, **arrays)
        peak = peak_memory()
        write_text(self.folder / f"{row}.json", json.dumps(
            {"seconds": seconds, "GiB": None if peak is None else peak / 2**10, "searched": len(rows),
             "layer_seconds": dict(layer_seconds), **what}))

    # --- the ways -------------------------------------------------------------------------------------------------

    def limits(self) -> None:
        """The bare forward pass, and the matrix products of brute force at the rate that they reach here."""
        start = time.perf_counter()
        for part in (self.train, self.test):
            predict_logits(self.model, part.images)
        forward = time.perf_counter() - start
        self.leave("forward", forward)
        a, b = torch.randn(2048, 2048), torch.randn(2048, 4096)
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            a @ b
            rates.append(2 * a.numel() * b.shape[1] / (time.perf_counter() - start))
        pairs = len(self.train) * len(self.test)
        products = {layer: 2 * pairs * d / max(rates) for layer, d in self.dimensions.items()}
        self.leave("limit", forward + sum(products.values()), products, gflops=max(rates) / 1e9)

    def sklearn(self) -> None:
        """The paper's procedure and the sensible one. Both extract alike, which is done once and counted for each."""
        from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
        from torchvision.models.feature_extraction import create_feature_extractor

        rows, times = self.queries(self.options.queries)
        names, found = conv_layers(self.model), {}
        spent: dict[str, dict[int, float]] = {"extract": {}, "paper": {}, "sklearn": {}}
        for layer in self.layers:
            start = time.perf_counter()
            extractor = create_feature_extractor(self.model, {names[layer]: "out"})  # which ends at that layer
            train_rows, test_rows = (torch.cat([extractor(scale(batch))["out"].flatten(1)
                                                for batch in part.images.split(256)]).numpy()
                                     for part in (self.train, self.test))
            spent["extract"][layer], start = time.perf_counter() - start, time.perf_counter()
            queries = test_rows[rows]
            votes = [KNeighborsClassifier(k, metric="cosine").fit(train_rows, self.train.labels).predict(queries)
                     for k in KS if k <= self.k]
            spent["paper"][layer], start = (time.perf_counter() - start) * times, time.perf_counter()
            at = NearestNeighbors(n_neighbors=self.k, metric="cosine").fit(train_rows).kneighbors(queries)[1]
            spent["sklearn"][layer] = (time.perf_counter() - start) * times
            found[layer] = self._checked(at, queries, train_rows) | {"votes": np.stack(votes, 1)}
        extracted = sum(spent["extract"].values())
        for row in ("paper", "sklearn"):
            self.leave(row, extracted + sum(spent[row].values()), spent[row], rows, found, extract=extracted)

    def faiss_flat(self) -> None:
        import faiss

        rows, times = self.queries(self.options.queries)
        start = time.perf_counter()
        held, wanted = (dict(embed(self.model, part.images, self.layers)) for part in (self.train, self.test))
        extracted, spent, found = time.perf_counter() - start, {}, {}
        for layer in self.layers:
            start = time.perf_counter()
            for part in (held[layer], wanted[layer]):
                faiss.normalize_L2(part)
            index = faiss.IndexFlatIP(held[layer].shape[1])
            index.add(held[layer])
            middle = time.perf_counter()
            at = index.search(wanted[layer][rows], self.k)[1]
            spent[layer] = middle - start + (time.perf_counter() - middle) * times
            del index
            found[layer] = self._checked(at, wanted[layer][rows], held.pop(layer))
        self.leave("faiss-flat", extracted + sum(spent.values()), spent, rows, found)

    def captum(self) -> None:
        from captum.influence import SimilarityInfluence
        from torch.utils.data import TensorDataset

        names, (rows, times) = conv_layers(self.model), self.queries(16)
        for layer in self.layers:  # Captum takes contiguous embeddings only
            self.model.get_submodule(names[layer]).register_forward_hook(lambda module, args, out: out.contiguous())
        with tempfile.TemporaryDirectory() as folder:  # Captum keeps the embeddings on disk
            start = time.perf_counter()
            method = SimilarityInfluence(self.model, [names[layer] for layer in self.layers],
                                         TensorDataset(scale(self.train.images)), folder, "bench", batch_size=256)
            built, start = time.perf_counter() - start, time.perf_counter()
            got = method.influence(scale(self.test.images[torch.from_numpy(rows)]), top_k=self.k)
            searched = time.perf_counter() - start
        found = {layer: {"indices": got[names[layer]][0].numpy()} for layer in self.layers}
        self.leave("captum", built + searched * times, (), rows, found)

    def engine(self, engine: str) -> None:
        """One of ours, or another library's in its place."""
        n, m = len(self.train), len(self.test)
        much = n * m * sum(self.dimensions.values()) > _MUCH
        rows, times = self.queries(1000 if much and engine != "bounded" else m)
        options = {"pixels": False, "progress": False, "memory_budget": self.options.memory,
                   "engine": ENGINES.get(engine, engine)}
        few = np.arange(min(64, m, n))  # compiles the kernels, which happens once in an installation
        layer_neighbors(self.model, self.train.subset(few), self.test.subset(few), self.layers[-1:], 1, **options)
        start = time.perf_counter()
        with timed():
            got = layer_neighbors(self.model, self.train, self.test.subset(rows), self.layers, self.k, **options)
        spent = time.perf_counter() - start
        search = {layer: note.pop("seconds") for layer, note in got.notes.items()}
        rest = (spent - sum(search.values())) * (n + m) / (n + len(rows))  # the pass over the images
        search = {layer: seconds * times for layer, seconds in search.items()}
        found = {layer: {"indices": got.indices[layer], "distances": got.distances[layer],
                         "votes": got.votes(layer)[:, [k - 1 for k in KS if k <= self.k]]} for layer in self.layers}
        self.leave(f"engine={engine}", rest + sum(search.values()), search, rows, found, notes=got.notes)

    def _checked(self, at, queries, train):
        """Neighbours of another library, with their distances in float64."""
        return {"indices": at, "distances": exact_distances(queries, train, at, "cosine")}

    def measure(self, way: str) -> None:
        with torch.inference_mode():
            if way.startswith("engine="):
                self.engine(way.removeprefix("engine="))
            else:
                getattr(self, way.replace("-", "_"))()
