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
from ..shards import ask_shards, save_shards
from ..study.provenance import processor, versions
from .simulation import FOLDER, Simulation

SIZES = (20_000, 80_000, 320_000, 1_281_167)  # the last is ImageNet's
WAYS = ("index", "ask", "parts", "stream", "flat", "ivf")
K, QUERIES, SHARD, PART = 10, 100, 4096, 2**17
LISTS, PROBED = 256, 16  # of FAISS's inverted file: the lists that it has, and those that a query looks into
FITS = 6 * 2**30  # bytes of embeddings that a way may hold in memory


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

    def parts(self) -> dict[str, float]:
        """The same in parts of `PART` rows, each of which fits into the system's cache of files while it is asked."""
        save_shards(self.rows, self.labels, self.folder / f"parts-{self.n}", PART, k=K)
        build = self.seconds()
        distances, indices, _ = ask_shards(self.folder / f"parts-{self.n}", self.queries, K)
        self.keep("parts", distances, indices)
        shutil.rmtree(self.folder / f"parts-{self.n}")
        return {"build": build, "search": self.seconds(),
                "forecast": self.before + bytes_of_bounds(min(self.n, PART), self.sim.dimension) / 2**30}

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
    """The share of the neighbours found in one pass (exact) that a way found."""
    files = [folder / f"{name}-{n}.npz" for name in (way, "stream")]
    if not all(file.exists() for file in files):
        return float("nan")
    at, truth = (np.load(file)["indices"] for file in files)
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(at.tolist(), truth.tolist(), strict=True)]))


def growth(sizes: Sequence[int], ways: Sequence[str], folder: Path, seed: int = 0) -> pd.DataFrame:
    """Tidy: processor seconds, GiB and recall of each way at each size, from the smallest on.

    The file with the embeddings is made once, and used again if it is there; it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
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
            rows.append({"embeddings": n, "way": way, **json.loads(done.stdout)})
        for row in rows:
            row["recall"] = recall(folder, row["way"], row["embeddings"])
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
        about = {"k": K, "queries": QUERIES, "lists": LISTS, "probed": PROBED, "seed": options.seed,
                 "threads": torch.get_num_threads(), "processor": processor(), "python": platform.python_version(),
                 "versions": versions()}
        write_text(options.save / "about.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
