"""Bounded search: exact nearest neighbours on the CPU without most of the arithmetic.

All distances between m queries and n training rows of d dimensions cost 2·m·n·d operations. The outputs of a layer lie
close to a subspace of few dimensions, so most training rows can be ruled out there. For rows z with the common centre
taken off, split by the r leading principal directions into a projection p and a rest, Cauchy and Schwarz give

    q·x  <=  p(q)·p(x) + |rest(q)|·|rest(x)|,

hence a lower bound on |q - x|² = |q|² + |x|² - 2 q·x, and a training row whose bound is above the k-th best distance
so far cannot be among the k nearest. The bound is one matrix product with r + 2 columns. A first product with fewer
directions rules out most rows, the others are looked at with all r, and for what then remains the distance itself
is computed, in float64. Rounding is part of the bound: every float32 result is widened by what it can be wrong. Where
layers are not close to a subspace, r is d: all products in float32, then float64 for what they cannot rule out.

A distance found here is the float64 sum over float32 values in a fixed order, rounded to float32: it depends on the
two rows alone, not on shards, threads or the directions.
"""

from time import perf_counter

import numpy as np
import torch

from .kernels import CHUNK, EPS, float32, in_threads, pair_distances, pair_dots, pick, squares, subtract_center, update
from .projection import _SAMPLE, Basis

_WAITING = 2**19  # pairs that wait at most for their distance to be computed, but for one tile's
_TILE = 128  # queries whose scores are held at a time
_RANKS, _HEADS = (64, 128, 256, 384), (16, 32, 64, 128)  # numbers of directions that are tried
_TINY = 5e9  # multiplications of a brute-force search below which directions do not pay


class NearestLists:
    """The k nearest so far of m queries: distances (m, k) float32, ascending, and row numbers (m, k) int64."""

    def __init__(self, m, k):
        self.distances = np.full((m, k), np.inf, np.float32)
        self.indices = np.full((m, k), np.iinfo(np.int64).max)


class _Search:
    """One block of training rows against all queries."""

    def __init__(self, basis, queries, train, rank, lists, offset):
        self.basis, self.queries, self.train, self.lists, self.offset = basis, queries, train, lists, offset
        self.dense = basis.rank == 0
        if not self.dense:
            self.head, self.tail = queries.split(rank, True)
            self.train_head, self.train_tail = train.split(rank, False)
        else:
            self.tail, self.train_tail = (np.empty((len(r.rows), 0), np.float32) for r in (queries, train))
        terms = basis.rank + 8 if not self.dense else CHUNK + 8 + queries.rows.shape[1] / CHUNK
        self.slack, self.radius = 5 * terms * EPS, np.sqrt(train.norm.max())

    def scores(self, part, out):
        """Bounds from above on q·x - |x|²/2, (queries, train) float32, but for `slack`."""
        if not self.dense:
            return np.matmul(self.head[part], self.train_head, out=out)
        a, b, d = self.queries, self.train, self.queries.rows.shape[1]
        out[:] = (-b.norm / 2).astype(np.float32)
        product, drop = np.empty_like(out), np.zeros(max(len(b.rows), len(out)))
        for c in range(0, d, CHUNK):
            center = self.basis.center[c:c + CHUNK]
            query, train = (np.empty((n, len(center)), np.float32) for n in (len(out), len(b.rows)))
            subtract_center(a.rows[part, c:c + CHUNK], a.scale[part], center, query, drop)
            subtract_center(b.rows[b.order, c:c + CHUNK], b.scale, center, train, drop)
            out += np.matmul(query, train.T, out=product)
        return out

    def limits(self, part):
        """Scores below these, (queries,) float32, belong to rows that cannot be among the nearest."""
        worst, norm = self.lists.distances[part, -1].astype(float) * (1 + 4 * EPS), self.queries.norm[part]
        length = np.sqrt(norm)
        reach = np.sqrt(2 * worst) if self.basis.cosine else worst
        reach = reach + (8 * EPS if self.basis.cosine else 4 * EPS * (length + self.radius))
        limit = (norm - reach**2) / 2 - self.slack * (length * self.radius + self.radius**2)
        if self.basis.cosine:  # the bound is about angles, which a zero vector has not
            limit[self.queries.square[part] == 0] = -np.inf
        return np.nextafter(limit.astype(np.float32), np.float32(-np.inf))

    def run(self, part, first=0, measure=True):
        """Search for the queries in `part`; (pairs whose tail was looked at, pairs whose distance was computed).

        first: only so many rows with the best scores, to begin the lists with. measure: whether to compute distances.
        """
        n, tile = len(self.train.rows), _TILE if not self.dense else 4 * _TILE
        scores = np.empty((min(tile, part.stop - part.start), n), np.float32)
        column = np.empty(_WAITING + len(scores) * n + 1, np.int32)
        start, since = np.zeros(part.stop - part.start + 1, np.int64), part.start
        none = np.empty((max(n, len(scores)), 0), np.float32)
        looked = exact = 0
        for t in range(part.start, part.stop, tile):
            now = slice(t, min(t + tile, part.stop))
            found = self.scores(now, scores[:now.stop - t])
            if first:
                limit, tails = np.partition(found, n - first, axis=1)[:, n - first], (none, none)
            else:
                limit, tails = self.limits(now), (self.tail[now], self.train_tail)
            looked += pick(found, limit, *tails, start[t - since:now.stop - since + 1], column)
            if start[now.stop - since] > _WAITING or now.stop == part.stop:
                exact += start[now.stop - since]
                if measure:
                    self._measure(slice(since, now.stop), start[:now.stop - since + 1], column)
                since, start[0] = now.stop, 0
        return looked, exact

    def _measure(self, part, start, column):
        dots, lists = np.empty(start[-1]), self.lists
        pair_dots(self.queries.rows[part], self.train.rows, self.train.order, start, column, dots)
        update(dots, start, column, self.train.order, self.queries.square[part], self.train.square,
                self.basis.cosine, self.offset, lists.distances[part], lists.indices[part])

    def everywhere(self, **options):
        """Search for all queries, on all threads; the sums of what `run` returns."""
        return np.sum(in_threads(lambda part: self.run(part, **options), len(self.queries.rows)), axis=0)


def search(basis, queries, train, head, lists, offset=0):
    """Bring `lists` of the nearest up to date with one block of training rows, numbered from `offset`.

    queries, train: `Rows` of the basis; head: directions in the first bound. Returns (pairs whose tail was looked
    at, pairs whose distance was computed).
    """
    k = lists.distances.shape[1]
    if np.isinf(lists.distances[0, -1]) and k < len(train.rows):
        # Rows that look nearest with all directions come first, so that there is something to beat.
        _Search(basis, queries, train, basis.rank, lists, offset).everywhere(first=k)
    return _Search(basis, queries, train, head, lists, offset).everywhere()


def exact_distances(queries, train, at, metric):
    """Distances (m, j) float32 of each query, (m, d), to the rows at[q] of `train`, (n, d), as the search has them."""
    order = at.argsort(1)
    column, start = np.take_along_axis(at, order, 1).astype(np.int32).ravel(), np.arange(len(at) + 1) * at.shape[1]
    dots, far, found = np.empty(at.size), np.empty(at.size, np.float32), np.empty(at.shape, np.float32)
    pair_dots(queries, train, np.arange(len(train)), start, column, dots)
    pair_distances(dots, np.repeat(squares(queries), at.shape[1]), squares(train)[column], metric == "cosine", far)
    np.put_along_axis(found, order, far.reshape(at.shape), 1)
    return found


class BoundedSearch:
    """The k nearest training rows of fixed queries, kept up to date while training rows arrive in shards.

    queries: (m, d) float32; n_train: how many training rows will come, if known, which decides what pays. `rank` and
    `head` are the numbers of directions chosen at the first shard, by the cost measured on some queries; rank 0 is
    brute force. `looked` and `exact` count pairs of a query and a training row, `pairs` all of them.
    """

    def __init__(self, queries, k, metric="cosine", n_train=None):
        self.rows, self.metric, self.n_train = float32(queries), metric, n_train
        self.lists, self.seen, self.basis = NearestLists(len(self.rows), k), 0, None
        self.looked = self.exact = self.pairs = 0

    def add(self, rows):
        """Take in the next training rows, (n, d)."""
        rows = float32(rows)
        train = self._choose(rows) if self.basis is None else self.basis.project(rows, train=True)
        looked, exact = search(self.basis, self.queries, train, self.head, self.lists, self.seen)
        self.looked, self.exact = self.looked + int(looked), self.exact + int(exact)
        self.seen, self.pairs = self.seen + len(rows), self.pairs + len(rows) * len(self.rows)

    def result(self):
        """(distances float32, indices int64), each (m, k)."""
        k = min(self.lists.distances.shape[1], self.seen)
        return self.lists.distances[:, :k].copy(), self.lists.indices[:, :k].copy()

    def notes(self):
        """Directions chosen, and the share of all pairs whose distance was computed."""
        return {"rank": self.basis.rank, "head": self.head, "looked": self.looked / self.pairs,
                "compared": self.exact / self.pairs}

    def _choose(self, rows):
        """Fix centre, directions and their number; the first shard's `Rows`."""
        (n, d), m = rows.shape, len(self.rows)
        total = max(self.n_train or n, n)
        self.head = 0
        ranks = [r for r in _RANKS if r <= min(d / 4, n / 2, _SAMPLE // d)] if total * m * d > _TINY else []
        self.basis = Basis(rows, self.metric, max(ranks, default=0))
        began = perf_counter()
        train = self.basis.project(rows, train=True)
        if ranks:
            project = (perf_counter() - began) * torch.get_num_threads() * (total + m) / n / self.basis.rank
            some = self.basis.project(self.rows[np.linspace(0, m - 1, min(m, 256)).astype(int)])
            choose = lambda _: self._cheapest(some, train, ranks, project, total / n, m / len(some.rows))  # noqa: E731
            [(self.basis, self.head)] = in_threads(choose, m, parts=1)
            train = train.leading(self.basis)
        self.queries = self.basis.project(self.rows)
        return train

    def _cheapest(self, some, train, ranks, project, shards, share):
        """(basis, head) with the lowest expected cost, in seconds on one thread, from a trial with `some` queries.

        project: seconds to project everything, per direction; shards: how many will come; share: queries per trial's.
        """
        k = self.lists.distances.shape[1]
        if k >= len(train.rows):
            return self.basis, min(32, self.basis.rank)
        lists = NearestLists(len(some.rows), k)
        growth = 1 + np.log(shards)  # of n rows about k / n beat the k best before
        began = perf_counter()
        dot = _Search(self.basis, some, train, self.basis.rank, lists, 0).run(slice(0, len(some.rows)), first=k)[1]
        dot = (perf_counter() - began) / dot  # seconds per exact distance
        costs, few = {}, self.basis.leading(0).project(some.rows[:64])
        for rank in [0, *ranks]:
            basis = self.basis.leading(rank)
            here, there = few if rank == 0 else some.leading(basis), train.leading(basis)
            for head in [r for r in _HEADS if r < rank] + [rank]:
                search = _Search(basis, here, there, head, lists, 0)
                began = perf_counter()
                pairs = search.run(slice(0, len(here.rows)), measure=False)[1]
                trial = (perf_counter() - began) * shards + pairs * dot * growth
                costs[basis, head] = project * rank + trial * share * len(some.rows) / len(here.rows)
        return min(costs, key=costs.get)
