"""Step 4, continued: exact nearest neighbours on the CPU without most of the arithmetic.

All distances between m queries and n training rows of d dimensions cost 2·m·n·d operations. What layers put out lies
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

import copy
import functools
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from .neighbors import ZERO

_EPS = 2.0**-24  # largest relative rounding error of float32
_CHUNK = 256  # columns that are summed in float32
_DOT = 1024  # columns that are summed before the next ones are read: rows stay in the cache that long
_CELLS = 64  # groups that training rows are sorted into
_NEAR = 1024  # training rows among which exact distances are computed at a time
_WAITING = 2**19  # pairs that wait at most for their distance to be computed, but for one tile's
_TILE = 128  # queries whose scores are held at a time
_SAMPLE = 2**23  # values, of the first training rows, that the directions are fitted to
_RANKS, _HEADS = (64, 128, 256, 384), (16, 32, 64, 128)  # numbers of directions that are tried
_TINY = 5e9  # multiplications of a brute-force search below which directions do not pay
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


# --- kernels -----------------------------------------------------------------------------------------------------


@_jit
def _pair_dots(a, b, order, start, column, out):
    """out[p] = a[q] · b[order[column[p]]] for start[q] <= p < start[q + 1], in float64; columns ascend for each q."""
    m, d = a.shape
    part = np.empty(_DOT)
    at, end = start[:m].copy(), start[:m].copy()
    out[start[0]:start[m]] = 0
    for near in range(_NEAR, len(b) + _NEAR, _NEAR):
        for q in range(m):
            at[q] = end[q]
            while end[q] < start[q + 1] and column[end[q]] < near:
                end[q] += 1
        for c in range(0, d, _DOT):
            width = min(_DOT, d - c)
            for q in range(m):
                if at[q] == end[q]:
                    continue
                query = a[q, c:c + width]
                for j in range(width):
                    part[j] = query[j]
                last = end[q] - 1
                for p in range(at[q], end[q], 4):  # four rows at a time; what is left over is filled up with the last
                    row0 = b[order[column[p]], c:c + width]
                    row1 = b[order[column[min(p + 1, last)]], c:c + width]
                    row2 = b[order[column[min(p + 2, last)]], c:c + width]
                    row3 = b[order[column[min(p + 3, last)]], c:c + width]
                    sum0 = sum1 = sum2 = sum3 = 0.0
                    for j in range(width):
                        value = part[j]
                        sum0 += value * row0[j]
                        sum1 += value * row1[j]
                        sum2 += value * row2[j]
                        sum3 += value * row3[j]
                    out[p] += sum0
                    if p + 1 <= last:
                        out[p + 1] += sum1
                    if p + 2 <= last:
                        out[p + 2] += sum2
                    if p + 3 <= last:
                        out[p + 3] += sum3


@_jit
def _center(rows, scale, center, out, square):
    """out = rows · scale - center for some columns; the squares of the result are added to `square`."""
    for i in range(len(rows)):
        row, to, total = rows[i], out[i], 0.0
        for j in range(len(row)):
            value = row[j] * scale[i] - center[j]
            to[j] = value
            total += np.float64(value) * np.float64(value)
        square[i] += total


@_jit
def _pick(scores, limit, query_tail, train_tail, start, column):
    """Append the training rows that may be near each query to `column`; the number whose tail was looked at."""
    m, n = scores.shape
    used, looked, width = start[0], 0, query_tail.shape[1]
    for q in range(m):
        row, low, query, begin = scores[q], limit[q], query_tail[q], used
        for block in range(0, n, 16):
            part = row[block:block + 16]
            hits = 0
            for x in range(len(part)):
                hits += part[x] >= low
            if hits == 0:
                continue
            for x in range(len(part)):  # written always, kept if it counts: no branch to mispredict
                column[used] = block + x
                used += part[x] >= low
        looked += used - begin
        if width:
            end, used = used, begin
            for p in range(begin, end):
                score, train = row[column[p]], train_tail[column[p]]
                for j in range(width):
                    score += query[j] * train[j]
                column[used] = column[p]
                used += score >= low
        start[q + 1] = used
    return looked


@_jit
def _distance(dot, query_square, train_square, cosine):
    """Distance of two rows, rounded to float32, from their product and squared lengths; zero if it is rounding."""
    if cosine:
        size = query_square * train_square
        far = 1 - dot / np.sqrt(size) if size > 0 else 1.0
        return np.float32(far if far > ZERO else 0.0)
    size = query_square + train_square
    far = size - 2 * dot
    return np.float32(np.sqrt(far) if far > ZERO * size else 0.0)


@_jit
def _distances(dots, query_square, train_square, cosine, out):
    for p in range(len(dots)):
        out[p] = _distance(dots[p], query_square[p], train_square[p], cosine)


@_jit
def _update(dots, start, column, order, query_square, train_square, cosine, offset, best, index):
    """Put the pairs' distances into the sorted lists of the nearest: the smaller distance first, then index."""
    k = best.shape[1]
    for q in range(len(query_square)):
        for p in range(start[q], start[q + 1]):
            x = column[p]
            value, at, row = _distance(dots[p], query_square[q], train_square[x], cosine), k, offset + order[x]
            while at > 0 and (best[q, at - 1] > value or (best[q, at - 1] == value and index[q, at - 1] > row)):
                at -= 1
            if at == k or (at > 0 and best[q, at - 1] == value and index[q, at - 1] == row):
                continue
            for j in range(k - 1, at, -1):
                best[q, j] = best[q, j - 1]
                index[q, j] = index[q, j - 1]
            best[q, at] = value
            index[q, at] = row


def _squares(rows):
    """Squared lengths (n,) float64, with the sums of `_pair_dots`: a copy of a row is at distance zero of it."""
    out = np.empty(len(rows))
    for i in range(0, len(rows), _NEAR):
        part = rows[i:i + _NEAR]
        each = np.arange(len(part) + 1)
        _pair_dots(part, part, each, each, each.astype(np.int32)[:-1], out[i:i + _NEAR])
    return out


def _float32(rows):
    return np.ascontiguousarray(rows, np.float32)


_libraries = functools.cache(ThreadpoolController)


def _in_threads(work, n, parts=None):
    """Call work(slice) for equal parts of n rows, as many at a time as torch has threads; each uses one thread."""
    parts = parts or max(1, min(torch.get_num_threads(), n // 32))
    edges = np.linspace(0, n, parts + 1).astype(int)
    slices = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    with _libraries().limit(limits=1, user_api="blas"):
        if parts == 1:
            return [work(slices[0])]
        with ThreadPoolExecutor(parts) as pool:
            return list(pool.map(work, slices))


# --- projections -------------------------------------------------------------------------------------------------


class Rows:
    """Rows as the search sees them: themselves, squared lengths, and projections with what bounds the rest.

    rows: (n, d) float32. In the order `order`, which puts rows side by side that are near each other: square, their
    squared lengths (n,); low, (n, rank) float32; norm, squared lengths after the centre was taken off (n,).
    """

    def __init__(self, rows, order, square, scale, low, norm, loss):
        self.rows, self.order, self.square, self.scale = rows, order, square, scale
        self.low, self.norm, self.loss, self._split = low, norm, loss, {}
        self.keep = False  # every split made, which costs memory, or the last one only

    def leading(self, basis):
        """The same rows with the directions that `basis` has kept."""
        low = np.ascontiguousarray(self.low[:, :basis.rank])
        return Rows(self.rows, self.order, self.square, self.scale, low, self.norm, basis.loss)

    def sorted(self, landmarks):
        """The same rows, those side by side that have the same nearest of some rows of projections."""
        score = self.low @ landmarks.T - np.einsum("ij,ij->i", landmarks, landmarks) / 2
        order = score.argmax(1).argsort(kind="stable")
        return Rows(self.rows, order, *(v[order] for v in (self.square, self.scale, self.low, self.norm)), self.loss)

    def __len__(self):
        return len(self.rows)

    def rest(self, rank):
        """Upper bound on the length of what the first `rank` directions leave, so wide that rounding is covered."""
        kept = np.einsum("ij,ij->i", self.low[:, :rank], self.low[:, :rank], dtype=np.float64)
        return np.sqrt(np.maximum(self.norm - kept, 0) + 4.4 * self.loss * self.norm) * (1 + 4 * _EPS)

    def split(self, rank, query):
        """(head, tail): head·head bounds q·x - |x|²/2 with `rank` directions, adding tail·tail with all of them.

        For training rows the head is transposed.
        """
        if (rank, query) not in self._split:
            head, tail = self._make(rank, query)
            if not self.keep:
                self._split.clear()
            self._split[rank, query] = head if query else np.ascontiguousarray(head.T), tail
        return self._split[rank, query]

    def _make(self, rank, query):
        n, full = self.low.shape
        head = np.empty((n, rank + 2), np.float32)
        head[:, :rank], head[:, rank] = self.low[:, :rank], self.rest(rank)
        head[:, -1] = 1 if query else -self.norm / 2
        if rank == full:
            return head, np.empty((n, 0), np.float32)
        tail = np.empty((n, full - rank + 2), np.float32)
        tail[:, :-2], tail[:, -2] = self.low[:, rank:], self.rest(full)
        tail[:, -1] = -head[:, rank] if query else head[:, rank]
        return head, tail


class Basis:
    """Centre and leading principal directions of training rows; rank 0 for none, which leaves the bound to d."""

    def __init__(self, rows, metric, rank):
        self.cosine, d = metric == "cosine", rows.shape[1]
        rows = rows[:max(2, _SAMPLE // d)]
        scaled = torch.from_numpy(rows) * torch.from_numpy(self.scale(_squares(rows)))[:, None]
        self.center = scaled.mean(0).numpy()
        self.directions, self.landmarks, self.rank, self._oblique = None, None, min(rank, d, len(rows)), 0.0
        if self.rank == 0:
            return
        scaled -= torch.from_numpy(self.center)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            found = torch.randn(d, min(self.rank + 32, *scaled.shape))
        # Random projections and one power iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), then the
        # leading eigenvectors within the space found.
        found = torch.linalg.qr(scaled.T @ torch.linalg.qr(scaled @ found)[0])[0]
        inside = scaled @ found
        found = found @ torch.linalg.eigh(inside.T @ inside)[1].flip(1)[:, :self.rank]
        turned = found.double()
        self._oblique = torch.linalg.matrix_norm(turned.T @ turned - torch.eye(self.rank).double()).item()
        self.directions = np.zeros((-(-d // _CHUNK) * _CHUNK, self.rank), np.float32)
        self.directions[:d] = found.numpy()

    @property
    def loss(self):
        """Largest error of a projection relative to the row: of float32 sums of _CHUNK terms, and of directions."""
        return np.sqrt(self.rank) * (_CHUNK + 8) * _EPS + self._oblique

    def leading(self, rank):
        """The same basis with its first `rank` directions only."""
        if rank == self.rank:
            return self
        found = copy.copy(self)
        found.rank, found.directions = rank, np.ascontiguousarray(self.directions[:, :rank]) if rank else None
        return found

    def scale(self, square):
        """What rows are multiplied with before the centre is taken off: 1 / length for cosine."""
        if not self.cosine:
            return np.ones(len(square), np.float32)
        return np.where(square > 0, 1 / np.sqrt(np.where(square > 0, square, 1)), 0).astype(np.float32)

    def project(self, rows, train=False):
        """The `Rows` of (n, d) float32; training rows are sorted, by what is nearest of some of the first ones."""
        square, norm, low = np.empty(len(rows)), np.zeros(len(rows)), np.empty((len(rows), self.rank), np.float32)
        scale = np.empty(len(rows), np.float32)

        def work(part):
            square[part] = _squares(rows[part])
            scale[part] = self.scale(square[part])
            for i in range(part.start, part.stop, 1024):
                self._project(rows, slice(i, min(i + 1024, part.stop)), scale, low, norm)

        _in_threads(work, len(rows))
        found = Rows(rows, np.arange(len(rows)), square, scale, low, norm, self.loss)
        if not train or self.rank == 0:
            return found
        if self.landmarks is None:
            self.landmarks = low[::-(-len(low) // _CELLS)].copy()
        return found.sorted(self.landmarks[:, :self.rank])

    def _project(self, rows, part, scale, low, norm):
        rows, scale, norm = rows[part], scale[part], norm[part]
        held, product = np.zeros((len(rows), _CHUNK), np.float32), np.empty((len(rows), self.rank), np.float32)
        total = np.zeros((len(rows), self.rank))
        for c in range(0, rows.shape[1], _CHUNK):
            width = min(_CHUNK, rows.shape[1] - c)
            _center(rows[:, c:c + width], scale, self.center[c:c + width], held[:, :width], norm)
            held[:, width:] = 0
            if self.rank:
                np.matmul(held, self.directions[c:c + _CHUNK], out=product)
                total += product
        low[part] = total


# --- search ------------------------------------------------------------------------------------------------------


class Lists:
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
        terms = basis.rank + 8 if not self.dense else _CHUNK + 8 + queries.rows.shape[1] / _CHUNK
        self.slack, self.radius = 5 * terms * _EPS, np.sqrt(train.norm.max())

    def scores(self, part, out):
        """Bounds from above on q·x - |x|²/2, (queries, train) float32, but for `slack`."""
        if not self.dense:
            return np.matmul(self.head[part], self.train_head, out=out)
        a, b, d = self.queries, self.train, self.queries.rows.shape[1]
        out[:] = (-b.norm / 2).astype(np.float32)
        product, drop = np.empty_like(out), np.zeros(max(len(b.rows), len(out)))
        for c in range(0, d, _CHUNK):
            center = self.basis.center[c:c + _CHUNK]
            query, train = (np.empty((n, len(center)), np.float32) for n in (len(out), len(b.rows)))
            _center(a.rows[part, c:c + _CHUNK], a.scale[part], center, query, drop)
            _center(b.rows[b.order, c:c + _CHUNK], b.scale, center, train, drop)
            out += np.matmul(query, train.T, out=product)
        return out

    def limits(self, part):
        """Scores below these, (queries,) float32, belong to rows that cannot be among the nearest."""
        worst, norm = self.lists.distances[part, -1].astype(float) * (1 + 4 * _EPS), self.queries.norm[part]
        length = np.sqrt(norm)
        reach = np.sqrt(2 * worst) if self.basis.cosine else worst
        reach = reach + (8 * _EPS if self.basis.cosine else 4 * _EPS * (length + self.radius))
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
            looked += _pick(found, limit, *tails, start[t - since:now.stop - since + 1], column)
            if start[now.stop - since] > _WAITING or now.stop == part.stop:
                exact += start[now.stop - since]
                if measure:
                    self._measure(slice(since, now.stop), start[:now.stop - since + 1], column)
                since, start[0] = now.stop, 0
        return looked, exact

    def _measure(self, part, start, column):
        dots, lists = np.empty(start[-1]), self.lists
        _pair_dots(self.queries.rows[part], self.train.rows, self.train.order, start, column, dots)
        _update(dots, start, column, self.train.order, self.queries.square[part], self.train.square,
                self.basis.cosine, self.offset, lists.distances[part], lists.indices[part])

    def everywhere(self, **options):
        """Search for all queries, on all threads; the sums of what `run` returns."""
        return np.sum(_in_threads(lambda part: self.run(part, **options), len(self.queries.rows)), axis=0)


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
    _pair_dots(queries, train, np.arange(len(train)), start, column, dots)
    _distances(dots, np.repeat(_squares(queries), at.shape[1]), _squares(train)[column], metric == "cosine", far)
    np.put_along_axis(found, order, far.reshape(at.shape), 1)
    return found


class Shortlist:
    """The k nearest training rows of fixed queries, kept up to date while training rows arrive in shards.

    queries: (m, d) float32; n_train: how many training rows will come, if known, which decides what pays. `rank` and
    `head` are the numbers of directions chosen at the first shard, by the cost measured on some queries; rank 0 is
    brute force. `looked` and `exact` count pairs of a query and a training row, `pairs` all of them.
    """

    def __init__(self, queries, k, metric="cosine", n_train=None):
        self.rows, self.metric, self.n_train = _float32(queries), metric, n_train
        self.lists, self.seen, self.basis = Lists(len(self.rows), k), 0, None
        self.looked = self.exact = self.pairs = 0

    def add(self, rows):
        """Take in the next training rows, (n, d)."""
        rows = _float32(rows)
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
            [(self.basis, self.head)] = _in_threads(choose, m, parts=1)
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
        lists, growth = Lists(len(some.rows), k), 1 + np.log(shards)  # of n rows about k / n beat the k best before
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
