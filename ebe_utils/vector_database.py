"""An embedded vector database as the engine of a search: usearch (Apache-2.0), one file, no server; approximate.

`layer_neighbors(..., engine=VectorDatabase)` searches with it in place of the exact engines. It is an example of that
seam: another database takes its place by the same three methods.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checks import integer, one_of
from .search.brute_force import BruteForce, merge
from .search.kernels import exact_distances

_METRICS = {"cosine": "cos", "euclidean": "l2sq"}


class VectorDatabase:
    """A graph of near rows (HNSW, Malkov and Yashunin 2018) that grows as rows come, and is walked for each query.

    Which rows are found is approximate, so that `notes` has the recall, measured on `checked` of the queries by brute
    force; their distances are exact (float64). queries: (m, d); path: a file that `result` saves the graph to, for
    `open_database`; breadth: rows that a walk keeps in view, more for a higher recall; functools.partial sets either.
    Raises ValueError for another metric than cosine and euclidean, ImportError without usearch.
    """

    def __init__(self, queries: torch.Tensor, k: int, metric: str = "cosine", n_train: int | None = None,
                 path: str | Path | None = None, breadth: int = 128, checked: int = 16) -> None:
        self.queries, self.k, self.metric, self.path, self.seen = queries.cpu().contiguous(), k, metric, path, 0
        kind = _METRICS[one_of("metric", metric, tuple(_METRICS))]
        self.index = _usearch().Index(ndim=queries.shape[1], metric=kind, dtype="f32",
                                      expansion_search=max(integer("breadth", breadth, 1), k), expansion_add=128)
        at = np.linspace(0, len(queries) - 1, min(len(queries), integer("checked", checked, 1))).astype(int)
        self.checked, self.truth = at, BruteForce(self.queries[torch.from_numpy(at)], k, metric)
        self.recall = float("nan")

    def add(self, rows: torch.Tensor) -> None:
        """Take in the next training rows, (n, d)."""
        self.truth.add(rows)
        rows = rows.detach().cpu()
        # On one thread: with several, the order in which rows join decides the graph, and it differs from run to run.
        self.index.add(np.arange(self.seen, self.seen + len(rows)), rows.float().numpy(), threads=1)
        self.seen += len(rows)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, k)."""
        if self.path is not None:
            self.index.save(str(self.path))
        found = search_database(self.index, self.queries.numpy(), min(self.k, self.seen), self.metric)
        exact = self.truth.result()[1]
        self.recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found[1][self.checked], strict=True)]))
        return found

    def notes(self) -> dict[str, float]:
        """The share of the true nearest that was found, of the queries that were checked."""
        return {"recall": self.recall}

    @staticmethod
    def bytes_per_training_row(dimension: int) -> int:
        """The row in float32, and its links."""
        return 4 * dimension + 400


def open_database(path: str | Path) -> Any:
    """The graph in a file that a `VectorDatabase` saved, mapped, not read: for `search_database`."""
    found = _usearch().Index.restore(str(path), view=True) if Path(path).is_file() else None
    if found is None:
        raise FileNotFoundError(f"there is no graph in {path}; save one with VectorDatabase(..., path=...).")
    return found


def search_database(index: Any, queries: np.ndarray, k: int, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """(distances float32, indices int64), each (m, k), of the nearest rows that the graph finds, at exact distances."""
    one_of("metric", metric, tuple(_METRICS))
    keys = np.atleast_2d(index.search(np.asarray(queries, np.float32), k).keys).astype(np.int64)
    rows = np.asarray(index.get(keys.ravel()), np.float32)
    distances = exact_distances(np.asarray(queries, np.float32), rows, np.arange(keys.size).reshape(keys.shape), metric)
    return merge([(distances, keys)], k)


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise ImportError("this engine needs the package usearch, which is not installed: `pip install usearch`, or "
                          "pass another engine.") from None
    return usearch.index
