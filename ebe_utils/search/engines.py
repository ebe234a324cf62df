"""The front door of the search: which engine finds the k nearest training embeddings, exactly (algorithm 1).

Cosine distance is 1 - cos, euclidean and manhattan are the usual ones: scikit-learn's definitions. A zero vector
has cosine distance 1 to everything. Neighbours are sorted by distance, equal distances by training index.

Distances are computed in float64 and rounded to float32, so that what is equal but for rounding is a tie: deep layers
give embeddings that nearly point the same way (a mean cosine of 0.99), and 1 - cos in float32 then loses the digits
that decide the order. A distance depends on its two rows alone, not on shards, threads or the engine, so that copies
of a row are at equal distances of a query. Different rows whose distances are equal in exact arithmetic (a row and
three times it, by cosine) may differ by the rounding of float64, 1e-15 of the distance, which shows in float32 about
once in ten million times. Other devices than the CPU sum in another order, with the same effect.

auto       bounded where it is much work and can be used, else torch; torch on cards with fast float64
bounded    exact; for cosine and euclidean (see `ebe_utils.search.bounded`); on other devices than the CPU only
           products in float32 are taken there (`ebe_utils.search.on_device`)
torch      exact; brute force in float64, on any device, for every metric

Another library's search takes part as a function that returns a `SearchEngine`; `ebe_utils.upkeep.benchmark_engines`
has FAISS and scikit-learn.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from ..checks import integer, one_of
from ..devices import check_device
from .bounded import BoundedSearch
from .brute_force import BruteForce
from .on_device import DeviceSearch, has_fast_float64
from .rows import Metric, check_lengths, check_metric, same_dimension

ENGINES = ("auto", "bounded", "torch")
SMALL = 5e10  # multiplications up to which brute force is as fast as anything


class SearchEngine(Protocol):
    """A search for the k nearest training rows of fixed queries: `add` for each shard in order, then `result`.

    `searcher` makes one with engine(queries, k, metric, n_train): queries, a (m, d) float32 tensor that must not be
    changed; n_train, the number of training rows to come, or None. A function or class that makes engines may have an
    attribute `bytes_per_training_row`, a function of the dimension: what the engine holds for each row until `result`,
    for the plan of a sweep (default: 16 times the dimension, the rows and a copy in float64).
    """

    def add(self, rows: torch.Tensor) -> None:
        """Take in the next training rows, (n, d) float32; a buffer that is used again afterwards."""

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, min(k, rows so far)), nearest first."""

    def notes(self) -> dict[str, float]:
        """What there is to say of the search, such as the "recall" of an approximate one."""


Engine = str | Callable[[torch.Tensor, int, Metric, int | None], SearchEngine]


def check_k(k: Any, n_train: int) -> int:
    """`k` if it is an integer from 1 to the number of training images."""
    return integer("k", k, 1, n_train, f" (there are {n_train} training images)")


def check_engine(engine: Engine, metric: Metric, device: torch.device | str = "cpu") -> Engine:
    """The engine; ValueError for one that cannot do what is asked."""
    check_metric(metric)
    check_device(device)
    if callable(engine):
        return engine
    one_of("engine", engine, ENGINES)
    if engine == "bounded" and metric not in ("cosine", "euclidean"):
        raise ValueError(f"engine='bounded' knows cosine and euclidean distances; for metric={metric!r} choose "
                         "'auto' or 'torch'.")
    return engine


def bytes_per_training_row(engine: Engine, dimension: int) -> int:
    """Bytes that an engine holds for each training row until its result: none for ours, which only hold a shard."""
    if not callable(engine):
        return 0
    return int(getattr(engine, "bytes_per_training_row", lambda d: 16 * d)(dimension))


def searcher(queries: torch.Tensor, k: int, metric: Metric = "cosine", engine: Engine = "auto",
             n_train: int | None = None) -> SearchEngine:
    """A search for the k nearest of rows to come: `add(rows)` for each shard in order, then `result()`.

    queries: (m, d) tensor; engine: "auto", "bounded", "torch" or a function that makes a `SearchEngine`; n_train: how
    many training rows will come in all, if that is known. Raises ValueError for values that are not finite, in queries
    and in rows.
    """
    check_engine(engine, metric, queries.device)
    integer("k", k, 1)
    if callable(engine):
        return _Checked(engine, queries, k, metric, n_train)
    if engine == "auto":
        much = queries.numel() * (n_train or 0) > SMALL
        here = metric in ("cosine", "euclidean") and not has_fast_float64(queries.device)
        engine = "bounded" if much and here else "torch"
    if engine == "bounded":
        search = BoundedSearch if queries.device.type == "cpu" else DeviceSearch
        return search(queries, k, str(metric), n_train)
    return BruteForce(queries, k, metric, n_train)


class _Checked:
    """An engine of somebody else, with a check of what goes in and comes out."""

    def __init__(self, engine, queries, k, metric, n_train):
        self.shape, self.k, self.metric, self.seen = queries.shape, k, metric, 0
        self._check(queries, "the queries", 0)
        self.engine = engine(queries, k, metric, n_train)

    def _check(self, rows, what, first):
        lengths = torch.linalg.vector_norm(rows.detach().cpu().double(), dim=1)
        check_lengths(lengths.numpy(), self.metric, what, first)

    def add(self, rows):
        same_dimension(self.shape[1], rows.shape[1])
        self._check(rows, "the training embeddings", self.seen)
        self.engine.add(rows)
        self.seen += len(rows)

    def result(self):
        distances, indices = (np.asarray(part) for part in self.engine.result())
        shape = (self.shape[0], min(self.k, self.seen))
        if distances.shape != shape or indices.shape != shape:
            raise ValueError(f"the engine returned distances of shape {distances.shape} and indices of shape "
                             f"{indices.shape}; both must be {shape}.")
        wrong = (indices < 0) | (indices >= self.seen) | ~np.isfinite(distances)
        if wrong.any():
            row = int(wrong.any(1).argmax())
            raise ValueError(f"the engine found fewer than {shape[1]} neighbours for query {row}: index "
                             f"{indices[row][wrong[row]][0]}, distance {distances[row][wrong[row]][0]}. Let it look "
                             "at more rows, or pass a smaller k.")
        return distances.astype(np.float32), indices.astype(np.int64)

    def notes(self):
        return self.engine.notes()
