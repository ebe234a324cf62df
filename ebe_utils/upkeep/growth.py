"""How time and memory grow with the number of embeddings, up to ImageNet's: `python -m ebe_utils.upkeep.growth`.

The embeddings are simulated, with the mean and the spectrum of a real layer (data/reference/growth/spectrum.csv: layer
9 of a ResNet18 trained on CIFAR-10, 2,048 dimensions), in blocks that a seed decides, and written to a file. Every way
runs in a process of its own, on the same file. Its seconds are those of the processor, so that a busy machine does not
change them much; waiting for the disk is in "wall" only. Memory is what the process holds itself ("held") and, beside
it, with the pages of files that it has read, which the system takes back when it needs them ("with pages").
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from ..explainer import EBEClassifier
from ..files import write_text
from ..memory import Plan, peak_memory
from ..search import searcher
from ..search.brute_force import merge
from ..search.index import bytes_of_bounds
from ..study.provenance import processor, versions
from .publishing import CHECKOUT

FOLDER = CHECKOUT / "data" / "reference" / "growth"
SIZES = (20_000, 80_000, 320_000, 1_281_167)  # the last is ImageNet's
WAYS = ("index", "ask", "stream", "flat", "ivf")
K, QUERIES, CLASSES, BLOCK, SHARD = 10, 100, 1000, 8192, 4096
LISTS, PROBED = 256, 16  # of FAISS's inverted file: the lists that it has, and those that a query looks into
FITS = 6 * 2**30  # bytes of embeddings that a way may hold in memory


class Simulation:
    """Embeddings of `CLASSES` classes with the mean, variances and share between classes of a real layer.

    Along each principal direction a class has a normal centre, and its members are normal around that: the real layer's
    variances, between classes and within, without what is not normal about it. The directions are the axes: a rotation
    changes no distance.
    """

    def __init__(self, spectrum: pd.DataFrame, seed: int = 0) -> None:
        self.seed, self.dimension = seed, len(spectrum)
        self.mean = spectrum["mean"].to_numpy(np.float32)
        self.within = np.sqrt((spectrum["variance"] - spectrum["between"]).clip(0)).to_numpy(np.float32)
        centers = np.random.default_rng([seed, 0]).standard_normal((CLASSES, self.dimension), np.float32)
        self.centers = self.mean + centers * np.sqrt(spectrum["between"].to_numpy(np.float32))

    def block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """((BLOCK, d) float32 embeddings, (BLOCK,) classes) of the block of that number; number -1 is for queries."""
        rng = np.random.default_rng([self.seed, number + 2])
        labels = rng.integers(0, CLASSES, BLOCK)
        rows = rng.standard_normal((BLOCK, self.dimension), np.float32)
        rows *= self.within
        rows += self.centers[labels]
        return rows, labels

    def write(self, path: Path, n: int) -> None:
        """The first n embeddings as plain float32 in `path`, their classes in `path`.labels.npy."""
        labels = []
        with path.open("wb") as file:
            for number in range(-(-n // BLOCK)):
                rows, of_it = self.block(number)
                rows[:n - number * BLOCK].tofile(file)
                labels.append(of_it)
        np.save(f"{path}.labels.npy", np.concatenate(labels)[:n])


class Measured:
    """One way on the first n embeddings of the file in `folder`."""

    def __init__(self, folder: Path, n: int, seed: int) -> None:
        self.folder, self.n, self.sim = folder, n, Simulation(pd.read_csv(FOLDER / "spectrum.csv"), seed)
        self.rows = np.memmap(folder / "rows", np.float32, "r", 0, (n, self.sim.dimension))
        self.labels = np.load(folder / "rows.labels.npy")[:n]
        self.queries = self.sim.block(-1)[0][:QUERIES]
        self.before = self.held = _held()
        threading.Thread(target=self._watch, daemon=True).start()
        self.start, self.begun = time.process_time(), time.perf_counter()

    def _watch(self) -> None:
        """The most memory that the process holds and no file keeps: the system takes pages of files back at will."""
        while True:
            self.held = max(self.held, _held())
            time.sleep(0.05)

    def seconds(self) -> float:
        """Of processor time, all threads together, since the last call: other programs do not count."""
        now = time.process_time()
        spent, self.start = now - self.start, now
        return spent

    def blocks(self) -> Any:
        """(number of the first row, rows) for blocks of the file."""
        for i in range(0, self.n, 4 * SHARD):
            size = min(4 * SHARD, self.n - i)
            yield i, np.fromfile(self.folder / "rows", np.float32, size * self.sim.dimension,
                                 offset=4 * i * self.sim.dimension).reshape(size, -1)

    def index(self) -> dict[str, float]:
        """Make the classifier's index ready, and save it."""
        ebe = EBEClassifier.from_embeddings(self.rows, self.labels, k=K)
        build = self.seconds()
        ebe.save(self.folder / f"saved-{self.n}")
        forecast = self.before + bytes_of_bounds(self.n, self.sim.dimension) / 2**30
        return {"build": build, "save": self.seconds(), "forecast": forecast}

    def ask(self) -> dict[str, float]:
        """Load what `index` saved, and answer the queries twice: from the disk, and from what is in memory then."""
        ebe = EBEClassifier.load(self.folder / f"saved-{self.n}")
        load = self.seconds()
        found = ebe.kneighbors(self.queries)
        first = self.seconds()
        ebe.kneighbors(self.queries)
        self.keep("ask", *found)
        shutil.rmtree(self.folder / f"saved-{self.n}")
        return {"load": load, "search": first, "again": self.seconds()}

    def stream(self) -> dict[str, float]:
        """One pass without an index, as a sweep makes it: nothing is held but a shard."""
        plan = Plan.of({9: self.sim.dimension}, self.n, QUERIES, K, batch_size=SHARD, wanted=SHARD)
        found = searcher(torch.from_numpy(self.queries), K, "cosine", "bounded", self.n)
        for _, rows in self.blocks():
            for i in range(0, len(rows), SHARD):
                found.add(torch.from_numpy(rows[i:i + SHARD]))
        self.keep("stream", *found.result())
        return {"search": self.seconds(), "forecast": plan.peak / 2**30}

    def flat(self) -> dict[str, float]:
        """FAISS's exact search in float32: all embeddings in memory where they fit, else a block at a time."""
        import faiss

        queries, whole = self._unit(self.queries.copy()), self.rows.nbytes <= FITS
        index = faiss.IndexFlatIP(self.sim.dimension)
        best = np.empty((QUERIES, 0), np.float32), np.empty((QUERIES, 0), int)
        for first, rows in self.blocks():
            if whole:
                index.add(self._unit(rows))
                continue
            near, at = faiss.knn(queries, self._unit(rows), K, faiss.METRIC_INNER_PRODUCT)
            best = merge([best, (1 - near, at + first)], K)
        build = self.seconds() if whole else float("nan")
        if whole:
            near, at = index.search(queries, K)
            best = 1 - near, at
        self.keep("flat", *best)
        return {"build": build, "search": self.seconds()}

    def ivf(self) -> dict[str, float]:
        """FAISS's inverted file of embeddings in 8 bits a number, all in memory; approximate."""
        import faiss

        index: Any = faiss.index_factory(self.sim.dimension, f"IVF{LISTS},SQ8", faiss.METRIC_INNER_PRODUCT)
        some = np.linspace(0, self.n - 1, min(self.n, 40 * LISTS)).astype(int)
        index.train(self._unit(np.array(self.rows[some])))
        for _, rows in self.blocks():
            index.add(self._unit(rows))
        build, index.nprobe = self.seconds(), PROBED
        near, at = index.search(self._unit(self.queries.copy()), K)
        self.keep("ivf", 1 - near, at)
        return {"build": build, "search": self.seconds()}

    def keep(self, way: str, distances: np.ndarray, indices: np.ndarray) -> None:
        """Leave the neighbours for the comparison."""
        np.savez(self.folder / f"{way}-{self.n}.npz", distances=distances, indices=indices)

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        import faiss

        faiss.normalize_L2(rows)
        return rows


def _held() -> float:
    """GiB of this process that are no pages of files."""
    found = psutil.Process().memory_info()
    return (found.rss - getattr(found, "shared", 0)) / 2**30


def recall(folder: Path, way: str, n: int) -> float:
    """The share of the index's neighbours that a way found."""
    files = [folder / f"{name}-{n}.npz" for name in (way, "ask")]
    if not all(file.exists() for file in files):
        return float("nan")
    at, truth = (np.load(file)["indices"] for file in files)
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(at.tolist(), truth.tolist(), strict=True)]))


def growth(sizes: Sequence[int], ways: Sequence[str], folder: Path, seed: int = 0) -> pd.DataFrame:
    """Tidy: processor seconds, GiB and recall of each way at each size, from the smallest on.

    The file with the embeddings is made once, and used again if it is there; it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    sim = Simulation(pd.read_csv(FOLDER / "spectrum.csv"), seed)
    if not (folder / "rows.labels.npy").exists() or len(np.load(folder / "rows.labels.npy")) < max(sizes):
        sim.write(folder / "rows", max(sizes))
    for n in sorted(sizes):
        for way in ways:
            done = subprocess.run([sys.executable, "-m", "ebe_utils.upkeep.growth", "--folder", str(folder), "--sizes",
                                   str(n), "--way", way, "--seed", str(seed)], capture_output=True, text=True)
            if done.returncode:
                print(f"{way} at {n}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
                continue
            print(n, way, done.stdout.strip(), file=sys.stderr, flush=True)
            rows.append({"embeddings": n, "way": way, **json.loads(done.stdout), "recall": recall(folder, way, n)})
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep it."""
    parser = argparse.ArgumentParser(prog="python -m ebe_utils.upkeep.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of embeddings (%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="(default: all)")
    parser.add_argument("--folder", type=Path, required=True, help="for the files, 20 GB at ImageNet's size")
    parser.add_argument("--save", type=Path, help="folder to write the table to, as CSV")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.way:
        measured = Measured(options.folder, options.sizes[0], options.seed)
        found = getattr(measured, options.way)()
        print(json.dumps({**found, "held": measured.held, "before": measured.before,
                          "with pages": (peak_memory() or 0) / 2**10,
                          "wall": time.perf_counter() - measured.begun}))
        return
    table = growth(options.sizes, options.ways, options.folder, options.seed)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep=""))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        write_text(options.save / "growth.csv", table.to_csv(index=False, float_format="%.4g"))
        about = {"k": K, "queries": QUERIES, "classes": CLASSES, "lists": LISTS, "probed": PROBED, "seed": options.seed,
                 "threads": torch.get_num_threads(), "processor": processor(), "python": platform.python_version(),
                 "versions": versions()}
        write_text(options.save / "about.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
