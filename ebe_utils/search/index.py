"""Training embeddings that are held and made ready once, for queries that come later."""

from typing import Any

import numpy as np
import psutil
import torch

from ..checks import real
from ..devices import float64_device
from ..files import forget_pages
from .bounded import NearestLists, search
from .brute_force import BruteForce
from .engines import check_engine, check_k
from .kernels import lengths
from .projection import SAMPLE, Basis, Bounds, Projection, spread
from .rows import Metric, as_rows, check_lengths, same_dimension

BLOCK = 2**21  # values of the training rows that brute force takes at a time
_SMALL = 2**18  # values of training rows up to which directions do not pay
_SAMPLE = 4096  # rows that the directions are fitted to, or one in 16
_DIRECTIONS, _COARSE = 128, 32  # of the fine and of the coarse bound, at most
_WIDE = 2**13  # dimensions from which twice as many directions cost little beside the embeddings
_PROBES = 16  # rows whose lengths a saved state keeps, to know its embeddings again
_STATE = ("about", "center", "directions", "numbers", "scale", "order", "coarse", "fine", "probe")


class Index:
    """Training embeddings made ready once, for queries that come later; exact, as all searches.

    train: (n, d); a float32 array is not copied, and a memory-mapped one is never read whole into memory. metric:
    a name or a function (`check_metric`). device: where brute force is done; on the CPU the bounds of
    `ebe_utils.search.bounded` are made ready in place of it, which take at most 0.3 times the embeddings.
    memory_budget: GiB that the process may take in all. Where the bounds do not fit, queries are answered by brute
    force, a block of rows at a time.

    Raises ValueError for embeddings that are not finite, and if not even a block fits.
    """

    def __init__(self, train: Any, metric: Metric = "cosine", device: torch.device | str = "cpu",
                 memory_budget: float | None = None):
        check_engine("auto", metric, device)
        self.metric, self.device = metric, float64_device(torch.device(device))
        self.train = as_rows(train, "the training embeddings")
        self.shape = self.train.shape
        self.basis: Basis | None = None
        n, d = self.shape
        rank = _rank(n, d)
        rank *= metric in ("cosine", "euclidean") and self.device.type == "cpu" and n * d > _SMALL and rank >= 16
        rank *= self._fits(rank, memory_budget)
        if rank:
            self._prepare(train, rank)
        if self.basis is None:
            for i in range(0, n, self._step):
                check_lengths(lengths(self.train[i:i + self._step]), metric, "the training embeddings", i)
                forget_pages(train)
        self._moved = None  # the rows on another device
        if self.device.type != "cpu":
            self._moved = torch.from_numpy(np.array(self.train)).to(self.device)
            self.train = np.empty((0, self.shape[1]), np.float32)

    def kneighbors(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64) of the k nearest training rows, each (queries, k)."""
        check_k(k, self.shape[0])
        queries = as_rows(queries, "the queries")
        same_dimension(queries.shape[1], self.shape[1])
        if self.basis is not None:
            here = self.basis.project(queries, "the queries").bounds(self.basis, self._coarse, False)
            lists = NearestLists(len(queries), k)
            search(self.basis, here, self.bounds, lists)
            forget_pages(self.train)
            return lists.distances, lists.indices
        found = BruteForce(torch.from_numpy(np.array(queries)).to(self.device), k, self.metric)
        found.block = BLOCK
        for i in range(0, self.shape[0], self._step):
            part = slice(i, i + self._step)
            found.add(torch.from_numpy(np.array(self.train[part])) if self._moved is None else self._moved[part])
            forget_pages(self.train)
        return found.result()

    def state(self) -> dict[str, np.ndarray]:
        """What was made ready, without the embeddings, for `from_state`: arrays of numbers by name.

        Raises ValueError where nothing was made ready: few rows or dimensions, another device than the CPU, a metric
        other than cosine and euclidean, or a small memory budget. `Index(train, metric)` is then as good.
        """
        if self.basis is None:
            raise ValueError("this index searches by brute force and has no state to save; make it again from its "
                             "embeddings with Index(train, metric).")
        basis, bounds = self.basis, self.bounds
        return {"about": np.array([*self.shape, self.metric == "cosine", self._coarse]),
                "center": basis.center, "directions": basis.directions,
                "numbers": np.array([basis.oblique, basis.factor, bounds.radius]), "scale": bounds.scale,
                "order": bounds.order, "coarse": bounds.coarse, "fine": bounds.fine, "probe": _probe(self.train)}

    @classmethod
    def from_state(cls, rows: Any, state: dict[str, np.ndarray], metric: str = "cosine") -> "Index":
        """The index that `state` was taken from, with its embeddings `rows`, which may be memory-mapped.

        Raises ValueError for a state that is incomplete, or of other embeddings or another metric.
        """
        if missing := [name for name in _STATE if name not in state]:
            raise ValueError(f"the state of the index has no {', '.join(missing)}; pass what Index.state() returned.")
        state = {name: np.asarray(state[name]) for name in _STATE}
        *shape, cosine, coarse = state["about"].tolist()
        found = object.__new__(cls)
        found.metric, found.device, found.shape = metric, torch.device("cpu"), tuple(shape)
        found.train = as_rows(rows, "the training embeddings")
        if metric != ("cosine" if cosine else "euclidean"):
            raise ValueError(f"the state is of an index for {'cosine' if cosine else 'euclidean'} distances, not for "
                             f"metric={metric!r}; pass that metric, or make the index again.")
        if found.train.shape != found.shape or not np.array_equal(_probe(found.train), state["probe"]):
            raise ValueError(f"the state is of other embeddings, of shape {found.shape}; these have shape "
                             f"{found.train.shape}. Pass those that it was made from, or make the index again.")
        oblique, factor, radius = state["numbers"].tolist()
        found._coarse, found._moved = coarse, None
        found.basis = Basis.of(metric, state["center"], state["directions"], oblique, factor)
        found.bounds = Bounds(found.train, state["scale"], state["order"], np.empty(0), radius, state["coarse"],
                              state["fine"])
        return found

    @property
    def _step(self) -> int:
        return max(1, BLOCK // self.shape[1])

    def _prepare(self, train: Any, rank: int) -> None:
        """Directions and bounds, from a part of the rows at a time."""
        n, d = self.shape
        at = spread(n, min(max(_SAMPLE, n // 16), max(8 * rank, SAMPLE // d)))
        some = np.empty((len(at), d), np.float32)
        for i in range(0, len(at), 256):
            some[i:i + 256] = self.train[at[i:i + 256]]
            forget_pages(train)
        basis = Basis(some, str(self.metric), rank)
        del some
        if basis.rank == 0:
            return
        scale, low, norm = np.empty(n), np.empty((n, basis.rank), np.float32), np.empty(n)
        step = max(256, SAMPLE // d)
        for i in range(0, n, step):
            part = basis.project(self.train[i:i + step], "the training embeddings", i)
            for held, new in ((scale, part.scale), (low, part.low), (norm, part.norm)):
                held[i:i + step] = new
            forget_pages(train)
        self.basis, self._coarse = basis, min(_COARSE, basis.rank)
        self.bounds = Projection(self.train, scale, low, norm).bounds(basis, self._coarse, True)

    def _fits(self, rank: int, memory_budget: float | None) -> bool:
        """Whether the bounds fit into memory_budget (GiB); ValueError if not even brute force does."""
        if memory_budget is None:
            return True
        budget, (n, d) = real("memory_budget", memory_budget) * 2**30, self.shape
        have = psutil.Process().memory_info().rss
        bounds = have + bytes_of_bounds(n, d, rank)
        least = have + 6 * 8 * max(BLOCK, d) + 4 * n * d * (self.device.type != "cpu")
        if rank and bounds <= budget:
            return True
        if least > budget:
            least = min(least, bounds) if rank else least
            raise ValueError(f"memory_budget={memory_budget:.2f} GiB is too small for an index of {n:,} embeddings of "
                             f"{d:,} dimensions: the least is {least / 2**30:.2f} GiB, with {have / 2**30:.2f} that "
                             "the process has already. Allow more, memory-map the embeddings, or pass pooling='avg'.")
        return False


def bytes_of_bounds(n: int, d: int, rank: int | None = None) -> int:
    """Bytes that an `Index` of n embeddings of d dimensions takes at most beside them, while it is made.

    rank: of the fine bound; None for that which an index has by itself. 0 where nothing is made ready.
    """
    rank = _rank(n, d) * (n * d > _SMALL) if rank is None else rank
    return (n * (8 * (rank + 4) + 48) + 5 * 4 * min(n * d, max(8 * rank * d, SAMPLE))) if rank else 0


def _rank(n: int, d: int) -> int:
    return min(_DIRECTIONS * (1 + (d >= _WIDE)), d // 6, n // 4)


def _probe(rows: np.ndarray) -> np.ndarray:
    """Lengths of a few rows, which know the embeddings again."""
    return lengths(np.array(rows[spread(len(rows), _PROBES)]))


def kneighbors(train: Any, queries: Any, k: int, metric: Metric = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """(distances, indices) of the k nearest rows of `train` for each row of `queries`, each (queries, k).

    train: (n, dimension); queries: (m, dimension); metric: a name or a function (`check_metric`). Same neighbours as
    scikit-learn's `NearestNeighbors`, up to distances that are equal within rounding. Raises ValueError for k outside
    1..n, shapes that do not match and values that are not finite.
    """
    return Index(train, metric).kneighbors(queries, k)
