"""How long the layer sweep takes beside what one would write instead: `make bench`, or `python -m ebe_utils.bench`.

Every way runs in a process of its own, which gives its peak memory, on the embeddings of the same trained network.
Those that would take hours search for a part of the queries, and their search is scaled up to all; embedding is not.
Ratios hold between the rows of one table, measured in one run on one machine.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .claims import KS
from .data import load_dataset
from .embeddings import embed
from .model import conv_layers, load_model, predict_logits, resnet18, save_model
from .runs import peak_memory
from .sweep import layer_neighbors
from .training import train

WAYS = {"paper": "the paper's procedure: for each layer a pass, for each k a scikit-learn classifier",
        "sklearn": "for each layer a pass and one scikit-learn search",
        "faiss-flat": "FAISS IndexFlatIP, all embeddings held",
        "captum": "Captum SimilarityInfluence",
        "engine=faiss": "ours, engine faiss", "engine=torch": "ours, engine torch (float64)",
        "engine=shortlist": "ours, engine shortlist"}
K = 50


def _setup(options):
    """(model, train_set, test_set, layers), the network trained once and kept in the folder of the benchmark."""
    train_set, test_set = load_dataset(options.dataset, None, options.train or None, options.test or None)
    model = resnet18(train_set, options.stem)
    file = Path(options.folder) / "model.safetensors"
    if file.exists():
        load_model(file, model, train_set)
    else:
        part = load_dataset(options.dataset, None, min(10_000, len(train_set)))[0]
        train(model, part, epochs=options.epochs, schedule="linear", progress=False)
        save_model(file, model, train_set)
    layers = options.layers or list(conv_layers(model))
    return model, train_set, test_set, layers


def _some(test_set, queries):
    """(test images for a scaled measurement, how often all of them are so many)."""
    rows = np.linspace(0, len(test_set) - 1, min(queries, len(test_set))).astype(int)
    return rows, len(test_set) / len(rows)


def _by_layer(model, train_set, test_set, layers, queries, search):
    """Seconds of one pass per layer, and of search(train, queries, labels) scaled; {layer: what search returns}."""
    rows, times = _some(test_set, queries)
    spent, found = 0.0, {}
    for layer in layers:
        start = time.perf_counter()
        train_rows, test_rows = (embed(model, part.images, layer) for part in (train_set, test_set))
        middle = time.perf_counter()
        found[layer] = search(train_rows, test_rows[rows], train_set.labels)
        spent += middle - start + (time.perf_counter() - middle) * times
    return spent, found, rows


def _paper(train_rows, queries, labels):
    from sklearn.neighbors import KNeighborsClassifier

    votes = [KNeighborsClassifier(k, metric="cosine").fit(train_rows, labels).predict(queries) for k in KS]
    return {"votes": np.stack(votes, 1)}


def _sklearn(train_rows, queries, labels):
    from sklearn.neighbors import NearestNeighbors

    return {"indices": NearestNeighbors(n_neighbors=K, metric="cosine").fit(train_rows).kneighbors(queries)[1]}


def _faiss_flat(model, train_set, test_set, layers, queries):
    import faiss

    rows, times = _some(test_set, queries)
    start = time.perf_counter()
    held, wanted = (embed(model, part.images, layers) for part in (train_set, test_set))
    spent, found = time.perf_counter() - start, {}
    for layer in layers:
        start = time.perf_counter()
        for part in (held[layer], wanted[layer]):
            faiss.normalize_L2(part)
        index = faiss.IndexFlatIP(held[layer].shape[1])
        index.add(held.pop(layer))
        middle = time.perf_counter()
        found[layer] = {"indices": index.search(wanted[layer][rows], K)[1]}
        spent += middle - start + (time.perf_counter() - middle) * times
    return spent, found, rows


def _captum(model, train_set, test_set, layers, queries):
    from captum.influence import SimilarityInfluence
    from captum.influence._core.similarity_influence import cosine_similarity
    from torch.utils.data import TensorDataset

    from .model import scale

    names, (rows, times) = conv_layers(model), _some(test_set, min(queries, 16))
    images = TensorDataset(scale(train_set.images))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        method = SimilarityInfluence(model, [names[layer] for layer in layers], images, folder, "bench", batch_size=256,
                                     similarity_metric=cosine_similarity, similarity_direction="max")
        built = time.perf_counter() - start
        start = time.perf_counter()
        got = method.influence(scale(test_set.images[torch.from_numpy(rows)]), top_k=K)
        searched = time.perf_counter() - start
    found = {layer: {"indices": got[names[layer]][0].numpy()} for layer in layers}
    return built + searched * times, found, rows


def _measure(options):
    """One way: its seconds, peak memory and what it found, as JSON and arrays in the folder."""
    model, train_set, test_set, layers = _setup(options)
    data, way = (model, train_set, test_set, layers), options.way
    if way == "limits":
        _limits(options, *data)
        return
    if way.startswith("engine="):
        start = time.perf_counter()
        got = layer_neighbors(*data[:3], layers, min(K, len(train_set)), pixels=False, progress=False,
                              memory_budget=options.memory, engine=way.removeprefix("engine="))
        spent, rows = time.perf_counter() - start, np.arange(len(test_set))
        found = {layer: {"indices": got.indices[layer], "votes": got.votes(layer)[:, [k - 1 for k in KS]]}
                 for layer in layers}
        notes = {str(layer): note for layer, note in got.notes.items()}
    else:
        call = {"paper": lambda: _by_layer(*data, options.queries, _paper), "captum": lambda: _captum(*data, 16),
                "sklearn": lambda: _by_layer(*data, options.queries, _sklearn),
                "faiss-flat": lambda: _faiss_flat(*data, options.queries)}[way]
        (spent, found, rows), notes = call(), {}
    arrays = {f"{what}.{layer}": v for layer, one in found.items() for what, v in one.items()}
    np.savez(Path(options.folder) / f"{way}.npz", rows=rows, **arrays)
    _leave(options, seconds=spent, searched=len(rows), notes=notes)


def _leave(options, **what):
    what["GiB"] = peak_memory() / 2**10
    (Path(options.folder) / f"{options.way}.json").write_text(json.dumps(what))


def _limits(options, model, train_set, test_set, layers):
    """The bare forward pass, and the matrix products of brute force at the rate that they reach here."""
    start = time.perf_counter()
    for part in (train_set, test_set):
        predict_logits(model, part.images)
    forward = time.perf_counter() - start
    dimensions = sum(embed(model, train_set.images[:1], layers)[layer].shape[1] for layer in layers)
    a, b = torch.randn(2048, 4096), torch.randn(4096, 4096)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        rates.append(2 * a.numel() * b.shape[1] / (time.perf_counter() - start))
    products = 2 * len(train_set) * len(test_set) * dimensions / max(rates)
    _leave(options, seconds=forward, products=products, gflops=max(rates) / 1e9)


def table(options):
    """Run every way asked for; a DataFrame with a row for each, and the notes of the shortlist."""
    results = {}
    for way in ["limits", *options.ways]:
        command = [sys.executable, "-m", "ebe_utils.bench", "--way", way, *options.passed]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{way}: failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        results[way] = json.loads((Path(options.folder) / f"{way}.json").read_text())
        print(f"{way}: {results[way]['seconds']:.1f} s", file=sys.stderr, flush=True)
    limits = results.pop("limits")
    forward, brute = limits["seconds"], limits["seconds"] + limits["products"]
    ours = results.get("engine=shortlist", {"seconds": float("nan")})["seconds"]
    rows = [("bare forward pass", forward, limits["GiB"], "", "", ""),
            (f"and brute force's products, {limits['gflops']:.0f} GFLOP/s", brute, None, "", "", "")]
    for way, result in results.items():
        part = f", {result['searched']:,} queries, scaled" if result["searched"] < options.n_test else ""
        rows.append((WAYS[way] + part, result["seconds"], result["GiB"], *_agreement(options, way)))
    found = pd.DataFrame(rows, columns=["way", "seconds", "peak GiB", "other votes than the paper's procedure",
                                        "other neighbours than the shortlist", "queries compared"])
    found.insert(2, "× forward", found["seconds"] / forward)
    found.insert(3, "× brute force", found["seconds"] / brute)
    found.insert(4, "× ours", found["seconds"] / ours)
    return found, results.get("engine=shortlist", {}).get("notes", {})


def _agreement(options, way):
    """(votes that differ from the paper's procedure, neighbours that differ from the shortlist's, of how many)."""
    def load(name):
        file = Path(options.folder) / f"{name}.npz"
        return np.load(file) if file.exists() else None

    mine, out, queries = load(way), [], 0
    for what, other in (("votes", load("paper")), ("indices", load("engine=shortlist"))):
        if mine is None or other is None or not any(key.startswith(what) for key in mine):
            out.append("")
            continue
        _, here, there = np.intersect1d(mine["rows"], other["rows"], return_indices=True)
        pairs = [(mine[key][here], other[key][there]) for key in mine if key.startswith(what) and key in other]
        queries = len(here)
        out.append(f"{sum((a != b).sum() for a, b in pairs):,} of {sum(a.size for a, _ in pairs):,}" if pairs else "")
    return *out, f"{queries:,}" if queries else ""


def main(argv=None):
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m ebe_utils.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion_mnist, cifar10 (default: digits)")
    parser.add_argument("--train", type=int, default=0, help="training images (default: all)")
    parser.add_argument("--test", type=int, default=0, help="test images (default: all)")
    parser.add_argument("--stem", default="imagenet")
    parser.add_argument("--epochs", type=int, default=3, help="of the network that embeds")
    parser.add_argument("--layers", type=int, nargs="+", help="layers to search (default: all 20)")
    parser.add_argument("--queries", type=int, default=500, help="queries of the ways that are scaled (default: 500)")
    parser.add_argument("--memory", type=float, help="memory budget of ours, in GiB")
    ways = [way for way in WAYS if way != "captum" or importlib.util.find_spec("captum")]
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=ways, help="(default: all that are installed)")
    parser.add_argument("--folder", help="where results go (default: a temporary folder)")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    argv = [re.sub(r"^([A-Z]+)=", lambda m: f"--{m[1].lower()}=", word)  # as make passes them on
            for word in (sys.argv[1:] if argv is None else argv)]
    options = parser.parse_args(argv)
    if options.way:
        return _measure(options)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or folder
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        options.passed = [*argv, "--folder", options.folder]
        options.n_test = len(_setup(options)[2])
        found, notes = table(options)
    print(found.to_string(index=False, float_format=lambda v: f"{v:.2f}", na_rep=""))
    for layer, note in notes.items():
        if "rank" in note:
            print(f"layer {layer}: {note['rank']} directions, first bound {note['head']}; "
                  f"{note['compared']:.2%} of all distances computed")
    return None


if __name__ == "__main__":
    main()
