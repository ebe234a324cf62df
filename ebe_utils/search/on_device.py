"""The bounded search with its products on another device than the CPU.

The device takes the products of queries and training rows in float32, whose largest error is part of the bound, and
says which pairs cannot be ruled out. The distances of those are computed on the CPU in float64, by the same kernels as
everywhere, so that neighbours and distances are those of the CPU's search to the last bit. Nothing here needs float64
on the device, where it is slow on all but data-centre cards, or missing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .bounded import Block, BoundedSearch, NearestLists
from .kernels import CHUNK, EPS, in_threads
from .projection import Basis, Bounds, Projection

_HELD = 2**26  # scores that the device holds at a time
_PAIRS = 2**24  # pairs that wait at most for their distance to be computed, but for one query's
# Compute capabilities of NVIDIA's cards whose float64 is half as fast as float32: brute force in float64 pays there.
_FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}


def has_fast_float64(device: torch.device) -> bool:
    """Whether a device multiplies in float64 about as fast as in float32; only known of CUDA's."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in _FAST_FLOAT64


class DeviceBlock(Block):
    """A block of training rows against all queries, whose products are taken where `there` are.

    there: queries (m, d) and training rows (n, d), float32 tensors on one device, as they are before scale and centre.
    """

    def __init__(self, basis: Basis, queries: Bounds, train: Bounds, lists: NearestLists, offset: int,
                 there: tuple[torch.Tensor, torch.Tensor]):
        super().__init__(basis, queries, train, lists, offset)
        device = there[0].device
        self.center = torch.from_numpy(basis.center).to(device)
        self.there = [(rows, *_factors(bounds.scale, device))
                      for rows, bounds in zip(there, (queries, train), strict=True)]
        self.half = torch.from_numpy((train.norm / 2).astype(np.float32)).to(device)

    def limits(self, part: slice) -> np.ndarray:
        """As everywhere; lower by what is lost where rows are scaled and centred in float32, not in float64.

        The centre c has the length 1 at most. A row x that is scaled and centred loses three roundings of |x| + |c| at
        most, and a product of two rows that, times the length of the other one, for either.
        """
        length, radius = np.sqrt(self.queries.norm[part]), self.train.radius
        lost = 4 * EPS * ((1 + length) * radius + (1 + radius) * (length + radius))
        found = super().limits(part).astype(float) - lost
        return np.nextafter(found.astype(np.float32), np.float32(-np.inf))

    def everywhere(self, **options: Any) -> np.ndarray:
        """Search for all queries; the sums of what `run` returns."""
        if self.far:  # float32 may overflow: nothing is ruled out
            return super().everywhere(**options)
        pairs, m, first = 0, len(self.queries.rows), options.get("first", 0)
        with _whole_float32():
            for start in range(0, m, step := max(1, _HELD // len(self.train.rows))):
                part = slice(start, min(start + step, m))
                scores = self._products(part)
                for now, count, column in self._left(part, scores, first):
                    self._measure_all(now, count, column)
                    pairs += len(column)
        return np.array([pairs, pairs])

    def _measure_all(self, part: slice, count: np.ndarray, column: np.ndarray) -> None:
        """Distances of the pairs of the queries in `part`, on all threads."""
        start = np.concatenate([[0], count.cumsum()])

        def work(rows: slice) -> None:
            a, b = start[rows.start], start[rows.stop]
            self._measure(slice(part.start + rows.start, part.start + rows.stop),
                          start[rows.start:rows.stop + 1] - a, column[a:b])

        in_threads(work, part.stop - part.start)

    def _products(self, part: slice) -> torch.Tensor:
        """q·x - |x|²/2, but for the slack, (queries, train), in sums of CHUNK columns."""
        out = -self.half.expand(part.stop - part.start, -1)
        for c in range(0, len(self.center), CHUNK):
            columns = slice(c, min(c + CHUNK, len(self.center)))
            queries, train = (rows[which, columns] * power[which] * rest[which] - self.center[columns]
                              for (rows, power, rest), which in zip(self.there, (part, slice(None)), strict=True))
            out = out + queries @ train.T
        return out

    def _left(self, part: slice, scores: torch.Tensor, first: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(queries, pairs of each, columns ascending): the best `first` of each, or all that are not ruled out."""
        if first:
            best = scores.topk(first, dim=1).indices.sort(dim=1).values
            yield part, np.full(len(best), first), best.flatten().int().cpu().numpy()
            return
        near = scores >= torch.from_numpy(self.limits(part)).to(scores.device)[:, None]
        count = near.sum(1).cpu().numpy()
        edges = [0]
        for q, total in enumerate(count.cumsum()):  # parts of queries whose pairs are not too many at once
            if total - count[:edges[-1]].sum() > _PAIRS and q > edges[-1]:
                edges.append(q)
        for a, b in zip(edges, [*edges[1:], len(count)], strict=True):
            column = near[a:b].nonzero(as_tuple=True)[1].int().cpu().numpy()
            yield slice(part.start + a, part.start + b), count[a:b], column


def _factors(scale: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors of each scale, (n, 1) float32, of which the first is a power of two: as one it may overflow."""
    power = 2.0 ** (np.frexp(scale)[1] // 2)
    first, second = (torch.from_numpy(part.astype(np.float32)).to(device)[:, None] for part in (power, scale / power))
    return first, second


class DeviceSearch(BoundedSearch):
    """Engine "bounded" for embeddings on another device than the CPU; without directions, as products are cheap there.

    queries: a (m, d) tensor there, where the rows that are added are as well.
    """

    def __init__(self, queries: torch.Tensor, k: int, metric: str = "cosine", n_train: int | None = None):
        super().__init__(queries, k, metric, n_train)
        self.there = queries.detach().float()

    def _choose(self, rows: np.ndarray) -> tuple[Basis, int, Projection]:
        basis = Basis(rows, self.metric, 0, self.rows)
        return basis, 0, basis.project(rows, "the training embeddings")

    def _block(self, train: Bounds, given: Any) -> Block:
        assert self.basis is not None
        rows = given.detach().float() if isinstance(given, torch.Tensor) else torch.tensor(train.rows)
        return DeviceBlock(self.basis, self.queries, train, self.lists, self.seen,
                           (self.there, rows.to(self.there.device)))


class _whole_float32:
    """A context in which matrix products of float32 are not rounded to TF32 or bfloat16."""

    def __enter__(self):
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")

    def __exit__(self, *error):
        torch.set_float32_matmul_precision(self.before)
