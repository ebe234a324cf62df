"""Bounded search: exact nearest neighbours on the CPU without most of the arithmetic.

All distances between m queries and n training rows of d dimensions cost 2·m·n·d operations. The outputs of a layer lie
close to a subspace of few dimensions, so most training rows can be ruled out there. For rows z without their common
centre, split by the R leading principal directions into a projection p and a rest, Cauchy and Schwarz give

    q·x  <=  p(q)·p(x) + |rest(q)|·|rest(x)|,

hence a lower bound on |q - x|² = |q|² + |x|² - 2 q·x, and a training row whose bound is above the k-th best distance
so far cannot be among the k nearest. The coarse bound, with r of the R directions, is one matrix product with r + 2
columns, and rules out most rows. The candidates that it leaves are looked at with the fine bound, which has all R, and
for what then remains the exact distance is computed, in float64. Rounding is part of the bound: every float32 result is
widened by its largest error. Where layers are not close to a subspace, R is 0: all products are taken in d dimensions
and float32, and exact distances are computed for what they cannot rule out.

Which directions are used changes the time, never the result: exact distances depend on the two rows alone (`kernels`).
"""

from time import perf_counter
from typing import Any

import numpy as np
import torch

from .kernels import CHUNK, EPS, in_threads, lengths, pair_squares, pick, subtract_center, update
from .projection import SAMPLE, Basis, Bounds, Projection, spread
from .rows import as_rows, check_lengths, same_dimension

_WAITING = 2**19  # pairs that wait at most for their distance to be computed, but for one tile's
_TILE = 128  # queries whose scores are held at a time
_RANKS, _COARSE = (64, 128, 256, 384), (16, 32, 64, 128)  # numbers of directions that are tried
_TINY = 5e9  # multiplications of a brute-force search below which directions do not pay
_REFINED = 2**22  # values of the fine bound that are gathered at a time to begin the lists
_FAR = 2.0**60  # length, in units of the basis, from which float32 scores may overflow


class NearestLists:
    """The k nearest so far of m queries: distances (m, k) float32, ascending, and row numbers (m, k) int64."""

    def __init__(self, m: int, k: int):
        self.distances = np.full((m, k), np.inf, np.float32)
        self.indices = np.full((m, k), np.iinfo(np.int64).max)


class Block:
    """One block of training rows against all queries."""

    def __init__(self, basis: Basis, queries: Bounds, train: Bounds, lists: NearestLists, offset: int):
        self.basis, self.queries, self.train, self.lists, self.offset = basis, queries, train, lists, offset
        self.dense = basis.rank == 0
        terms = basis.rank + 8 if not self.dense else CHUNK + 8 + queries.rows.shape[1] / CHUNK
        self.slack = 5 * terms * EPS
        self.far = max(train.radius, queries.radius) > _FAR  # nothing is ruled out
        self.fine = (queries.fine, train.fine) if not self.far else (queries.fine[:, :0], train.fine[:, :0])

    def scores(self, part: slice, out: np.ndarray) -> np.ndarray:
        """Coarse bounds from above on q·x - |x|²/2, (queries, train) float32, but for `slack`."""
        if self.far:
            out[:] = 0
            return out
        if not self.dense:
            return np.matmul(self.queries.coarse[part], self.train.coarse, out=out)
        a, b, d = self.queries, self.train, self.queries.rows.shape[1]
        out[:] = (-b.norm / 2).astype(np.float32)
        product, drop = np.empty_like(out), np.zeros(max(len(b.rows), len(out)))
        for c in range(0, d, CHUNK):
            center = self.basis.center[c:c + CHUNK]
            query, train = (np.empty((n, len(center)), np.float32) for n in (len(out), len(b.rows)))
            subtract_center(a.rows[part, c:c + CHUNK], a.scale[part], center, query, drop)
            subtract_center(b.rows[:, c:c + CHUNK], b.scale, center, train, drop)
            out += np.matmul(query, train.T, out=product)
        return out

    def limits(self, part: slice) -> np.ndarray:
        """Scores below these, (queries,) float32, belong to rows that cannot be among the nearest."""
        norm, radius, cosine = self.queries.norm[part], self.train.radius, self.basis.metric == "cosine"
        if self.far:
            return np.full(len(norm), -np.inf, np.float32)
        worst = self.lists.distances[part, -1].astype(float) * (1 + 4 * EPS) + 1e-44  # float32 rounds both ways
        length = np.sqrt(norm)
        reach = np.sqrt(2 * worst) if cosine else worst * self.basis.factor
        reach = reach + (8 * EPS if cosine else 4 * EPS * (length + radius)) + 1e-36  # where float32 underflows
        limit = (norm - reach**2) / 2 - self.slack * (length * radius + radius**2) - 1e-36
        if cosine:  # the bound is about angles, which a zero vector has not
            limit[self.queries.scale[part] == 0] = -np.inf
        return np.nextafter(limit.astype(np.float32), np.float32(-np.inf))

    def run(self, part: slice, first: int = 0, measure: bool = True) -> tuple[int, int]:
        """Search for the queries in `part`; (candidates of the coarse bound, pairs whose distance was computed).

        first: only so many rows with the best scores, to begin the lists with. measure: whether to compute distances.
        """
        n, tile = len(self.train.rows), _TILE if not self.dense else 4 * _TILE
        scores = np.empty((min(tile, part.stop - part.start), n), np.float32)
        column = np.empty(_WAITING + len(scores) * (first or n) + 1, np.int32)
        start, since = np.zeros(part.stop - part.start + 1, np.int64), part.start
        candidates = exact = 0
        for t in range(part.start, part.stop, tile):
            now = slice(t, min(t + tile, part.stop))
            found, begin = self.scores(now, scores[:now.stop - t]), start[t - since:now.stop - since + 1]
            if first:
                best = self._best(found, now, first)
                begin[1:] = begin[0] + first * np.arange(1, len(begin))
                column[begin[0]:begin[-1]] = best.ravel()
                candidates += best.size
            else:
                candidates += pick(found, self.limits(now), self.fine[0][now], self.fine[1], begin, column)
            if start[now.stop - since] > _WAITING or now.stop == part.stop:
                exact += start[now.stop - since]
                if measure:
                    self._measure(slice(since, now.stop), start[:now.stop - since + 1], column)
                since, start[0] = now.stop, 0
        return candidates, exact

    def _best(self, found, now, first):
        """Columns (queries, first), ascending, of rows that look nearest; with the fine bound where that is little."""
        n, fine = found.shape[1], self.fine[0][now]
        some = min(n, max(first, min(4 * first, _REFINED // fine.size))) if fine.size else first
        best = np.argpartition(found, n - some, axis=1)[:, n - some:]
        if some > first:
            score = np.take_along_axis(found, best, 1) + np.einsum("qj,qcj->qc", fine, self.fine[1][best])
            best = np.take_along_axis(best, np.argpartition(score, some - first, axis=1)[:, some - first:], 1)
        return np.sort(best, axis=1)

    def _measure(self, part, start, column):
        a, b, lists = self.queries, self.train, self.lists
        squares = np.empty(start[-1])
        pair_squares(a.rows[part], a.scale[part], b.rows, b.scale, b.order, start, column, squares)
        update(squares, start, column, b.order, a.scale[part], b.scale, self.basis.metric == "cosine",
               self.basis.factor, self.offset, lists.distances[part], lists.indices[part])

    def everywhere(self, **options: Any) -> np.ndarray:
        """Search for all queries, on all threads; the sums of what `run` returns."""
        return np.sum(in_threads(lambda part: self.run(part, **options), len(self.queries.rows)), axis=0)


def search(basis: Basis, queries: Bounds, train: Bounds, lists: NearestLists, offset: int = 0) -> np.ndarray:
    """Bring `lists` of the nearest up to date with one block of training rows, numbered from `offset`.

    Returns (pairs that the coarse bound left, pairs whose distance was computed).
    """
    return search_block(Block(basis, queries, train, lists, offset))


def search_block(block: Block) -> np.ndarray:
    """The same for a block that is made."""
    lists = block.lists
    if np.isinf(lists.distances[:, -1]).any() and lists.distances.shape[1] < len(block.train.rows):
        # Rows that look nearest come first, so that there is something to beat.
        return block.everywhere(first=lists.distances.shape[1]) + block.everywhere()
    return block.everywhere()


class BoundedSearch:
    """Engine "bounded": the k nearest training rows of fixed queries, kept up to date while rows arrive in shards.

    queries: (m, d); n_train: how many training rows will come, if known, which decides what pays. The numbers of
    directions are chosen at the first shard, by the cost measured on some queries; none is brute force.
    """

    def __init__(self, queries: Any, k: int, metric: str = "cosine", n_train: int | None = None):
        self.rows, self.k, self.metric, self.n_train = as_rows(queries, "the queries"), k, metric, n_train
        check_lengths(lengths(self.rows), metric, "the queries")
        self.lists, self.seen = NearestLists(len(self.rows), k), 0
        self.basis: Basis | None = None
        self.coarse = 0
        self.counts, self.pairs = np.zeros(2), 0

    def add(self, rows: Any) -> None:
        """Take in the next training rows, (n, d). Raises ValueError for a row that is not finite."""
        given, rows = rows, as_rows(rows, "the training embeddings")
        same_dimension(self.rows.shape[1], rows.shape[1])
        if self.basis is None:
            self.basis, self.coarse, train = self._choose(rows)
            self.queries = self.basis.project(self.rows, "the queries").bounds(self.basis, self.coarse, False)
        else:
            train = self.basis.project(rows, "the training embeddings", self.seen)
        here = train.bounds(self.basis, self.coarse, True)
        self.counts += search_block(self._block(here, given))
        self.seen, self.pairs = self.seen + len(rows), self.pairs + len(rows) * len(self.rows)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, k), or with all rows where there are fewer than k."""
        k = min(self.k, self.seen)
        return self.lists.distances[:, :k].copy(), self.lists.indices[:, :k].copy()

    def notes(self) -> dict[str, float]:
        """Directions of the fine and of the coarse bound; of all pairs, the share that was a candidate after the
        coarse bound, and the share whose exact distance was computed."""
        candidates, exact = self.counts / max(1, self.pairs)
        return {"directions": self.basis.rank if self.basis else 0, "coarse": self.coarse,
                "candidates": float(candidates), "exact": float(exact)}

    def _block(self, train: Bounds, given: Any) -> Block:
        """The next rows, as the bounds have them and as they were given, against all queries."""
        assert self.basis is not None
        return Block(self.basis, self.queries, train, self.lists, self.seen)

    def _choose(self, rows: np.ndarray) -> tuple[Basis, int, Projection]:
        """(centre and directions, how many of them are in the coarse bound, the first shard's projection)."""
        (n, d), m = rows.shape, len(self.rows)
        total = max(self.n_train or n, n)
        ranks = [r for r in _RANKS if r <= min(d / 4, n / 2, SAMPLE // d)] if total * m * d > _TINY else []
        # The queries, too, since the first shard may hold one class alone.
        basis = Basis(rows, self.metric, max(ranks, default=0), self.rows)
        ranks = [r for r in ranks if r <= basis.rank]
        began = perf_counter()
        train = basis.project(rows, "the training embeddings")
        if ranks:
            project = (perf_counter() - began) * torch.get_num_threads() * (total + m) / n / basis.rank
            some = basis.project(self.rows[spread(m, 256)], "the queries")
            choose = lambda _: self._cheapest(basis, some, train, ranks, project, total / n, m / len(some.rows))  # noqa: E731
            [(basis, coarse)] = in_threads(choose, m, parts=1)
            return basis, coarse, train
        return basis, 0, train

    def _cheapest(self, whole, some, train, ranks, project, shards, share):
        """(basis, directions of the coarse bound) with the lowest expected cost, from a trial with `some` queries.

        project: seconds to project everything, per direction; shards: how many will come; share: queries per trial's.
        """
        if self.k >= len(train.rows):
            return whole, min(32, whole.rank)
        lists, coarse = NearestLists(len(some.rows), self.k), min(32, whole.rank)
        begin = Block(whole, some.bounds(whole, coarse, False), train.bounds(whole, coarse, True), lists, 0)
        began = perf_counter()
        exact = begin.run(slice(0, len(some.rows)), first=self.k)[1]
        dot = (perf_counter() - began) / exact  # seconds per exact distance
        growth = 1 + np.log(shards)  # of n rows about k / n beat the k best before
        costs, few = {}, whole.leading(0).project(some.rows[:64], "the queries")
        for rank in [0, *ranks]:
            basis, queries = whole.leading(rank), few if rank == 0 else some
            for coarse in [r for r in _COARSE if r < rank] + [rank]:
                block = Block(basis, queries.bounds(basis, coarse, False), train.bounds(basis, coarse, True), lists, 0)
                began = perf_counter()
                pairs = block.run(slice(0, len(queries.rows)), measure=False)[1]
                trial = (perf_counter() - began) * shards + pairs * dot * growth
                costs[basis, coarse] = project * rank + trial * share * len(some.rows) / len(queries.rows)
        return min(costs, key=costs.__getitem__)
