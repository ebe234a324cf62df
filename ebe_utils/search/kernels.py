"""The compiled inner loops of the search.

The distance of two rows is that of their float64 differences: sqrt(sum of (q - x)²) for euclidean, and half the sum of
(q / |q| - x / |x|)² for cosine, which is 1 - cos without its loss of digits where the angle is small. A sum is always
taken in the same order, so that it depends on the two rows alone, and neither squares of float32 values nor their sums
overflow or underflow in float64.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from ..paths import cached_compilation
from .rows import Metric

EPS = 2.0**-24  # largest relative rounding error of float32
CHUNK = 256  # columns that are summed in float32
PARALLEL = 1e-26  # squared difference of two unit vectors that float64 cannot tell from zero
_COLUMNS = 1024  # columns that are summed before the next ones are read: rows stay in the cache that long
_NEAR = 1024  # training rows among which exact distances are computed at a time
_jit = cached_compilation(numba.njit(nogil=True, cache=True, error_model="numpy",
                                     fastmath={"reassoc", "contract", "nsz"}))


@_jit
def pair_squares(a: np.ndarray, a_scale: np.ndarray, b: np.ndarray, b_scale: np.ndarray, order: np.ndarray,
                 start: np.ndarray, column: np.ndarray, out: np.ndarray) -> None:
    """out[p] = |a[q]·a_scale[q] - b[x]·b_scale[x]|² in float64, x = order[column[p]], for start[q] <= p < start[q + 1].

    Columns ascend for each q.
    """
    m, d = a.shape
    part = np.empty(_COLUMNS)
    at, end = start[:m].copy(), start[:m].copy()
    out[start[0]:start[m]] = 0
    for near in range(_NEAR, len(b) + _NEAR, _NEAR):
        for q in range(m):
            at[q] = end[q]
            while end[q] < start[q + 1] and column[end[q]] < near:
                end[q] += 1
        for c in range(0, d, _COLUMNS):
            width = min(_COLUMNS, d - c)
            for q in range(m):
                if at[q] == end[q]:
                    continue
                query = a[q, c:c + width]
                for j in range(width):
                    part[j] = query[j] * a_scale[q]
                last = end[q] - 1
                for p in range(at[q], end[q], 4):  # four rows at a time; what is left over is filled up with the last
                    x0, x1 = order[column[p]], order[column[min(p + 1, last)]]
                    x2, x3 = order[column[min(p + 2, last)]], order[column[min(p + 3, last)]]
                    row0, row1 = b[x0, c:c + width], b[x1, c:c + width]
                    row2, row3 = b[x2, c:c + width], b[x3, c:c + width]
                    scale0, scale1, scale2, scale3 = b_scale[x0], b_scale[x1], b_scale[x2], b_scale[x3]
                    sum0 = sum1 = sum2 = sum3 = 0.0
                    for j in range(width):
                        value = part[j]
                        far0, far1 = value - row0[j] * scale0, value - row1[j] * scale1
                        far2, far3 = value - row2[j] * scale2, value - row3[j] * scale3
                        sum0 += far0 * far0
                        sum1 += far1 * far1
                        sum2 += far2 * far2
                        sum3 += far3 * far3
                    out[p] += sum0
                    if p + 1 <= last:
                        out[p + 1] += sum1
                    if p + 2 <= last:
                        out[p + 2] += sum2
                    if p + 3 <= last:
                        out[p + 3] += sum3


@_jit
def distance(square: float, zero: bool, cosine: bool, factor: float) -> np.float32:
    """The float32 distance of two rows from their squared difference; zero: whether one of them is a zero vector."""
    if not cosine:
        return np.float32(np.sqrt(square) / factor)
    if zero:
        return np.float32(1)
    return np.float32(square / 2 if square > PARALLEL else 0.0)


@_jit
def pair_distances(squares: np.ndarray, start: np.ndarray, column: np.ndarray, a_scale: np.ndarray,
                   b_scale: np.ndarray, cosine: bool, out: np.ndarray) -> None:
    """out[p] = the float32 distance of each pair of `pair_squares` with a factor of 1."""
    for q in range(len(a_scale)):
        for p in range(start[q], start[q + 1]):
            out[p] = distance(squares[p], a_scale[q] == 0 or b_scale[column[p]] == 0, cosine, 1.0)


@_jit
def update(squares: np.ndarray, start: np.ndarray, column: np.ndarray, order: np.ndarray, a_scale: np.ndarray,
           b_scale: np.ndarray, cosine: bool, factor: float, offset: int, best: np.ndarray, index: np.ndarray) -> None:
    """Put the pairs' distances into the sorted lists of the nearest: the smaller distance first, then index."""
    k = best.shape[1]
    for q in range(len(a_scale)):
        for p in range(start[q], start[q + 1]):
            x = order[column[p]]
            value, at, row = distance(squares[p], a_scale[q] == 0 or b_scale[x] == 0, cosine, factor), k, offset + x
            while at > 0 and (best[q, at - 1] > value or (best[q, at - 1] == value and index[q, at - 1] > row)):
                at -= 1
            if at == k or (at > 0 and best[q, at - 1] == value and index[q, at - 1] == row):
                continue
            for j in range(k - 1, at, -1):
                best[q, j] = best[q, j - 1]
                index[q, j] = index[q, j - 1]
            best[q, at] = value
            index[q, at] = row


@_jit
def row_squares(rows: np.ndarray, out: np.ndarray) -> None:
    """out = squared lengths of the rows, float64; not finite where a value is not."""
    for i in range(len(rows)):
        row, total = rows[i], 0.0
        for j in range(len(row)):
            total += np.float64(row[j]) * np.float64(row[j])
        out[i] = total


@_jit
def subtract_center(rows: np.ndarray, scale: np.ndarray, center: np.ndarray, out: np.ndarray, square: np.ndarray,
                    ) -> None:
    """out = rows · scale - center for some columns; the squares of the result are added to `square`."""
    for i in range(len(rows)):
        row, to, times, total = rows[i], out[i], scale[i], 0.0
        for j in range(len(row)):
            value = row[j] * times - center[j]
            to[j] = value
            total += value * value
        square[i] += total


@_jit
def pick(scores: np.ndarray, limit: np.ndarray, query_fine: np.ndarray, train_fine: np.ndarray, start: np.ndarray,
         column: np.ndarray) -> int:
    """Append the training rows that may be near each query to `column`; the number that passed the coarse bound."""
    m, n = scores.shape
    used, passed, width = start[0], 0, query_fine.shape[1]
    for q in range(m):
        row, low, query, begin = scores[q], limit[q], query_fine[q], used
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
        passed += used - begin
        if width:
            end, used = used, begin
            for p in range(begin, end):
                score, train = row[column[p]], train_fine[column[p]]
                for j in range(width):
                    score += query[j] * train[j]
                column[used] = column[p]
                used += score >= low
        start[q + 1] = used
    return passed


_libraries = functools.cache(ThreadpoolController)


def in_threads(work: Callable[[slice], Any], n: int, parts: int | None = None) -> list:
    """Call work(slice) for equal parts of n rows, as many at a time as torch has threads; each uses one thread."""
    parts = parts or max(1, min(torch.get_num_threads(), n // 32))
    edges = np.linspace(0, n, parts + 1).astype(int)
    slices = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    with _libraries().limit(limits=1, user_api="blas"):
        if parts == 1:
            return [work(slices[0])]
        with ThreadPoolExecutor(parts) as pool:
            return list(pool.map(work, slices))


def frozen(array: np.ndarray) -> np.ndarray:
    """A read-only view: the kernels are compiled for one type of array, be it held, memory-mapped or loaded."""
    array = array.view()
    array.flags.writeable = False
    return array


def lengths(rows: np.ndarray) -> np.ndarray:
    """Lengths (n,) float64 of float32 rows."""
    out, rows = np.empty(len(rows)), frozen(rows)
    in_threads(lambda part: row_squares(rows[part], out[part]), len(rows))
    return np.sqrt(out)


def exact_distances(queries: np.ndarray, train: np.ndarray, at: np.ndarray, metric: str) -> np.ndarray:
    """Distances (m, j) float32 of each query, (m, d), to the rows at[q] of `train`, (n, d), as the search has them."""
    order = at.argsort(1)
    column, start = np.take_along_axis(at, order, 1).astype(np.int32).ravel(), np.arange(len(at) + 1) * at.shape[1]
    found = np.empty(at.shape, np.float32)
    far = flat_distances(queries, unit_scale(lengths(queries), metric), train, unit_scale(lengths(train), metric),
                         start, column, metric)
    np.put_along_axis(found, order, far.reshape(at.shape), 1)
    return found


def unit_scale(length: np.ndarray, metric: Metric) -> np.ndarray:
    """What rows are multiplied with, (n,) float64: 1 / length for cosine, 0 for a zero vector; 1 for euclidean."""
    if metric != "cosine":
        return np.ones(len(length))
    return np.divide(1, length, out=np.zeros(len(length)), where=length > 0)


def flat_distances(queries: np.ndarray, query_scale: np.ndarray, train: np.ndarray, train_scale: np.ndarray,
                   start: np.ndarray, column: np.ndarray, metric: Metric) -> np.ndarray:
    """Distances (p,) float32 of queries to the training rows column[start[q]:start[q + 1]], ascending, for each q."""
    squares, far = np.empty(len(column)), np.empty(len(column), np.float32)

    def work(part):
        here = start[part.start:part.stop + 1]
        pair_squares(queries[part], query_scale[part], train, train_scale, identity, here, column, squares)
        pair_distances(squares, here, column, query_scale[part], train_scale, metric == "cosine", far)

    queries, query_scale, train, train_scale, identity = map(frozen, (
        queries, query_scale, train, train_scale, np.arange(len(train), dtype=np.int32)))
    in_threads(work, len(queries))
    return far
