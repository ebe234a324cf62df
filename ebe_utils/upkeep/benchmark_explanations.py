"""How long one explanation takes, and a thousand, and what an index holds: `make bench EXPLAIN="1 14 20"`.

A classifier that is fitted once answers queries that come later. Each way is measured at each layer in a process of its
own, which gives its memory.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import psutil

from ..data import ImageSet
from ..embeddings import embed
from ..explainer import EBEClassifier
from ..memory import peak_memory
from ..methods import captum_neighbors
from ..model import predict_logits
from .benchmark_ways import Bench

EXPLAINERS = {"ours": "this package, fitted", "network": "the same, the network's answer",
              "faiss": "FAISS IndexFlatIP", "captum": "Captum SimilarityInfluence"}
K, MANY, REPEATS = 10, 1000, 20
WARM = 4096  # images of the first fit


def measure(options: argparse.Namespace, way: str, layer: int) -> dict[str, Any]:
    """One row: seconds to make ready, beyond the forward pass for one query and for `MANY`, and memory.

    held, peak: what the process holds after the fit, and its peak, beyond what it held before, as shares of the
    embeddings; a fit to few images comes first, as libraries and compiled code are loaded once. beyond: of one query,
    what choosing its examples takes beyond the search for them or their candidates.
    Captum keeps its embeddings on disk and passes over them at each query, of which it gets one.
    """
    bench = Bench(options)
    few, many = (bench.test.images[:n] for n in (1, min(MANY, len(bench.test))))
    makers: dict[str, Callable[[Bench, int, ImageSet], Callable[[Any], Any]]] = {
        "ours": _ours, "network": partial(_ours, target="network"), "faiss": _faiss, "captum": _captum}
    makers[way](bench, layer, bench.train.subset(range(min(WARM, len(bench.train)))))(few)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    ask = makers[way](bench, layer, bench.train)
    ready, held = time.perf_counter() - start, psutil.Process().memory_info().rss - before
    size, peak = 4 * len(bench.train) * bench.dimensions[layer], peak_memory()
    row: dict[str, Any] = {"way": EXPLAINERS[way], "layer": layer, "ready (s)": ready, "held": held / size,
                           "peak": None if peak is None else (peak * 2**20 - before) / size}
    ask(few)
    for name, images, times in (("one (ms)", few, REPEATS), (f"{MANY} (s)", many, 1)):
        if way == "captum" and images is many:
            continue
        forward = _median(partial(predict_logits, bench.model, images), times)
        row[name] = (_median(partial(ask, images), 1 if way == "captum" else times) - forward) * (
            1000 if images is few else MANY / len(many))
    if way in ("ours", "network"):
        row["beyond (ms)"] = 1000 * _beyond_the_search(ask.__self__, few)  # type: ignore[attr-defined]
    return row


def _beyond_the_search(ebe: EBEClassifier, images: Any) -> float:
    """Seconds of choosing and weighting the examples of one query, without the search for them or for candidates."""
    embeddings, proba, _, features = ebe._query(images)
    count = ebe.candidates if ebe.target == "network" else ebe.k
    search = _median(partial(ebe._index.kneighbors, embeddings, count), REPEATS)
    return _median(partial(ebe._vote, embeddings, proba, features), REPEATS) - search


def _median(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def _ours(bench: Bench, layer: int, train: ImageSet, target: str = "labels") -> Callable[[Any], Any]:
    ebe = EBEClassifier(bench.model, layer=layer, k=K, target=target).fit(train)
    return ebe.explain_batch


def _faiss(bench: Bench, layer: int, train: ImageSet) -> Callable[[Any], Any]:
    import faiss

    def unit(images):
        rows: Any = embed(bench.model, images, layer)
        faiss.normalize_L2(rows)
        return rows

    index: Any = faiss.IndexFlatIP(bench.dimensions[layer])
    index.add(unit(train.images))
    return lambda images: index.search(unit(images), K)


def _captum(bench: Bench, layer: int, train: ImageSet) -> Callable[[Any], Any]:
    def ask(images):
        rows: Any = train.images
        return captum_neighbors(bench.model, layer, rows, images, K, f"{bench.folder}/captum{layer}-{len(rows)}")

    ask(bench.test.images[:1])  # writes the embeddings to the folder
    return ask


def explanations_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of `measure`, in their order."""
    return pd.DataFrame(rows, columns=["way", "layer", "ready (s)", "one (ms)", f"{MANY} (s)", "beyond (ms)", "held",
                                       "peak"])
