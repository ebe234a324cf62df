"""The compiled inner loops of the bounded search."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from ..places import cached_compilation

EPS = 2.0**-24  # largest relative rounding error of float32
CHUNK = 256  # columns that are summed in float32
_DOT = 1024  # columns that are summed before the next ones are read: rows stay in the cache that long
_NEAR = 1024  # training rows among which exact distances are computed at a time
_jit = cached_compilation(numba.njit(nogil=True, cache=True, error_model="numpy",
                                     fastmath={"reassoc", "contract", "nsz"}))


@_jit
def pair_dots(a, b, order, start, column, out):
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
def subtract_center(rows, scale, center, out, square):
    """out = rows · scale - center for some columns; the squares of the result are added to `square`."""
    for i in range(len(rows)):
        row, to, total = rows[i], out[i], 0.0
        for j in range(len(row)):
            value = row[j] * scale[i] - center[j]
            to[j] = value
            total += np.float64(value) * np.float64(value)
        square[i] += total


@_jit
def pick(scores, limit, query_tail, train_tail, start, column):
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
def pair_distances(dots, query_square, train_square, cosine, out):
    for p in range(len(dots)):
        out[p] = _distance(dots[p], query_square[p], train_square[p], cosine)


@_jit
def update(dots, start, column, order, query_square, train_square, cosine, offset, best, index):
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


def squares(rows):
    """Squared lengths (n,) float64, with the sums of `pair_dots`: a copy of a row is at distance zero of it."""
    out = np.empty(len(rows))
    for i in range(0, len(rows), _NEAR):
        part = rows[i:i + _NEAR]
        each = np.arange(len(part) + 1)
        pair_dots(part, part, each, each, each.astype(np.int32)[:-1], out[i:i + _NEAR])
    return out


def float32(rows):
    return np.ascontiguousarray(rows, np.float32)


_libraries = functools.cache(ThreadpoolController)


def in_threads(work, n, parts=None):
    """Call work(slice) for equal parts of n rows, as many at a time as torch has threads; each uses one thread."""
    parts = parts or max(1, min(torch.get_num_threads(), n // 32))
    edges = np.linspace(0, n, parts + 1).astype(int)
    slices = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    with _libraries().limit(limits=1, user_api="blas"):
        if parts == 1:
            return [work(slices[0])]
        with ThreadPoolExecutor(parts) as pool:
            return list(pool.map(work, slices))


ZERO = 1e-13  # squared distance, relative to the squares, that float64 cannot tell from zero
