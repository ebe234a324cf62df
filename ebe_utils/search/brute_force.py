"""Brute force in float64, on any device and for every metric: what every other search is compared with.

For cosine and euclidean a matrix product finds the rows that can be among the nearest, but for its rounding, and the
distances of those are computed from the two rows alone (`kernels`).
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import pairwise_distances

from ..devices import float64_device
from .kernels import PARALLEL, flat_distances, lengths, unit_scale
from .rows import Metric, check_lengths, check_metric, same_dimension

BLOCK = 2**24  # values held at a time
_UNIT = 2.0**-53  # largest relative rounding error of float64


class _Rows:
    """Rows float32 on a device and, in float64, as the matrix product takes them: scaled, and without the centre."""

    def __init__(self, rows: torch.Tensor, metric: Metric, what: str, first: int = 0,
                 center: torch.Tensor | None = None):
        self.rows, self.center, self.scale, self.square = rows, center, torch.empty(0), torch.empty(0)
        self.wide = rows.double()
        if metric == "manhattan" or rows.device.type != "cpu":
            length = torch.linalg.vector_norm(self.wide, ord=1 if metric == "manhattan" else 2, dim=1).cpu().numpy()
        else:
            length = lengths(rows.numpy())  # to the last bit those of the bounded search
        check_lengths(length, metric, what, first)
        if metric in ("cosine", "euclidean"):
            self.scale = torch.from_numpy(unit_scale(length, metric)).to(rows.device)
            self.wide *= self.scale[:, None]
            self.center = self.wide.mean(0) if center is None else center
            self.wide -= self.center
            self.square = torch.linalg.vector_norm(self.wide, dim=1).square()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> "_Rows":
        found = object.__new__(_Rows)
        found.center = self.center
        for name in ("rows", "wide", "scale", "square"):
            setattr(found, name, getattr(self, name)[part])
        return found


def _sum_halves(values: torch.Tensor) -> torch.Tensor:
    """Sums over the last dimension, which elementwise operations take in the same order on every device."""
    while values.shape[-1] > 1:
        half = -(-values.shape[-1] // 2)
        left, right = values[..., :half].clone(), values[..., half:]
        left[..., :right.shape[-1]] += right
        values = left
    return values[..., 0]


def _pairs_elsewhere(queries: _Rows, train: _Rows, q: torch.Tensor, x: torch.Tensor, metric: str) -> torch.Tensor:
    """Distances (p,) float32 of the pairs of queries q and training rows x, on a device other than the CPU."""
    step, found = max(1, BLOCK // queries.rows.shape[1]), []
    for i in range(0, len(q), step):
        a, b = q[i:i + step], x[i:i + step]
        far = (queries.rows[a].double() * queries.scale[a, None] - train.rows[b].double() * train.scale[b, None])
        far = _sum_halves(far.square())
        if metric == "euclidean":
            found.append(far.sqrt().float())
        else:
            far = torch.where(far > PARALLEL, far / 2, 0)
            found.append(torch.where((queries.scale[a] == 0) | (train.scale[b] == 0), 1, far).float())
    return torch.cat(found)


def _pairs_here(queries: _Rows, train: _Rows, q: torch.Tensor, x: torch.Tensor, metric: str) -> torch.Tensor:
    """The same on the CPU, by the kernels of the bounded search."""
    start = np.searchsorted(q.numpy(), np.arange(len(queries.rows) + 1))
    return torch.from_numpy(flat_distances(queries.rows.numpy(), queries.scale.numpy(), train.rows.numpy(),
                                           train.scale.numpy(), start, x.numpy().astype(np.int32), metric))


def smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, positions) of the k smallest of each row, sorted, equal values by position."""
    found, at = values.topk(k, dim=1, largest=False)
    # topk picks any of several values equal to the last one: rows where that happened are sorted whole.
    tied = ((values <= found.amax(1, keepdim=True)).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        order = values[tied].argsort(dim=1, stable=True)[:, :k]
        found[tied], at[tied] = values[tied].gather(1, order), order
    at, order = at.sort(dim=1)
    found, order = found.gather(1, order).sort(dim=1, stable=True)
    return found, at.gather(1, order)


def merge(parts: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest from several (distances, indices) of the same queries, each (m, any number), as arrays."""
    found, at = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.lexsort((at, found), axis=1)[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(at, order, 1)


class BruteForce:
    """Engine "torch": every distance in float64.

    queries: (m, d) tensor, on whose device the work is done, unless that has no float64; metric: a name, or a function
    as in `check_metric`.
    """

    def __init__(self, queries: torch.Tensor, k: int, metric: Metric = "cosine", n_train: int | None = None):
        self.metric, self.k, self.seen, self.device = check_metric(metric), k, 0, float64_device(queries.device)
        self.block = BLOCK  # distances held at a time
        self.queries = _Rows(self._values(queries), metric, "the queries")
        self.distances = torch.empty((len(queries), 0), device=self.device)
        self.indices = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device)

    def add(self, rows: torch.Tensor) -> None:
        """Take in the next training rows, (n, d). Raises ValueError for a row that is not finite."""
        same_dimension(self.queries.rows.shape[1], rows.shape[1])
        train = _Rows(self._values(rows), self.metric, "the training embeddings", self.seen, self.queries.center)
        step = max(1, self.block // len(train))
        merged = [self._merge(slice(i, i + step), train) for i in range(0, len(self.queries), step)]
        self.distances, self.indices = (torch.cat(part) for part in zip(*merged, strict=True))
        self.seen += len(train)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, k), or with all rows where there are fewer than k."""
        return self.distances.cpu().numpy(), self.indices.cpu().numpy()

    def notes(self) -> dict[str, float]:
        """The share of all distances that were computed."""
        return {"exact": 1.0}

    def _values(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.detach().to(self.device)
        return rows.float().contiguous()

    def _merge(self, part, train):
        find = self._candidates if self.metric in ("cosine", "euclidean") else self._all
        found, at = find(self.queries[part], train, self.distances[part])
        # Earlier rows come first and have smaller indices, so a stable sort keeps the rule for equal distances.
        both, order = torch.cat([self.distances[part], found], 1).sort(dim=1, stable=True)
        k = min(self.k, self.seen + len(train))
        return both[:, :k], torch.cat([self.indices[part], at + self.seen], 1).gather(1, order[:, :k])

    def _all(self, queries, train, _):
        """(distances, positions) of the k nearest rows by a metric without a shortcut."""
        values: Any
        if self.metric == "manhattan" and self.device.type != "cpu":
            values = torch.cdist(queries.wide, train.wide, p=1)
        else:
            both = queries.wide.cpu().numpy(), train.wide.cpu().numpy()
            if callable(self.metric):
                values = np.asarray(self.metric(*both))
                if values.shape != (len(queries), len(train)) or not np.isfinite(values).all():
                    raise ValueError(f"the metric returned {'NaN, infinity or ' * (values.ndim == 2)}an array of shape "
                                     f"{values.shape}; it takes arrays (m, d) and (n, d) and must return their finite "
                                     f"distances, here {(len(queries), len(train))}.")
            else:  # up to twice as fast as cdist
                values = pairwise_distances(*both, metric=self.metric, n_jobs=torch.get_num_threads())
            values = torch.from_numpy(values).to(self.device)
        return smallest(values.float(), min(self.k, len(train)))

    def _candidates(self, queries, train, best):
        """(distances, positions), ascending positions, of the rows that can be among the nearest; inf for no row."""
        values = queries.square[:, None] + train.square
        values.addmm_(queries.wide, train.wide.T, alpha=-2).clamp_(min=0)
        if self.metric == "cosine":  # a zero vector is at distance 1 of everything
            values[queries.scale == 0] = 2
            values[:, train.scale == 0] = 2
        # The k-th best distance so far, widened by what float32 and the product can be wrong.
        if best.shape[1] == self.k:
            worst = best[:, -1].double()
            worst = (2 * worst).sqrt() if self.metric == "cosine" else worst
        elif self.k < len(train):
            worst = values.kthvalue(self.k, dim=1).values.sqrt()
        else:
            worst = torch.full_like(queries.square, torch.inf)
        slack = 8 * (queries.wide.shape[1] + 16) * _UNIT * (queries.square + train.square.max() + 1e-300)
        slack = slack + 64 * _UNIT if self.metric == "cosine" else slack
        limit = (worst * (1 + 2.0**-20) + 1e-44).square() + 2 * slack
        q, x = (values <= limit[:, None]).nonzero(as_tuple=True)
        count = torch.bincount(q, minlength=len(queries))
        place = torch.arange(len(q), device=q.device) - (count.cumsum(0) - count)[q]
        found = torch.full((len(queries), int(count.max())), torch.inf, device=q.device)
        at = torch.zeros(found.shape, dtype=torch.int64, device=q.device)
        pairs: Any = _pairs_here if self.device.type == "cpu" else _pairs_elsewhere
        found[q, place], at[q, place] = pairs(queries, train, q, x, self.metric), x
        return found, at
