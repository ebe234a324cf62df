"""Brute force in float64, on any device and for every metric: what every other search is compared with."""

import numpy as np
import torch
from sklearn.metrics import pairwise_distances

from ..checks import one_of
from .kernels import ZERO

BLOCK = 2**24  # distances held at a time
METRICS = ("cosine", "euclidean", "manhattan")


class NormalizedRows:
    """Rows in float64: scaled to length one for cosine, shifted by `center`, squared lengths kept."""

    def __init__(self, rows, metric, center=None):
        self.metric, self.zero, self.center, self.square = one_of("metric", metric, METRICS), None, None, None
        rows = rows.double()
        if metric == "cosine":
            length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            self.zero = (length == 0)[:, 0]
            rows = rows / torch.where(length > 0, length, 1)
        if metric != "manhattan":
            self.center = rows.mean(0) if center is None else center
            rows = rows - self.center
            self.square = torch.linalg.vector_norm(rows, dim=1).square()
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        part = object.__new__(NormalizedRows)
        part.metric, part.center, part.rows = self.metric, self.center, self.rows[rows]
        part.zero, part.square = (None if v is None else v[rows] for v in (self.zero, self.square))
        return part


def distances(queries, train):
    """All distances between two `Prepared` sets of rows, (queries, train) float32."""
    if queries.metric == "manhattan" and queries.rows.device.type == "cpu":  # up to twice as fast as cdist
        both = queries.rows.numpy(), train.rows.numpy()
        return torch.from_numpy(pairwise_distances(*both, metric="manhattan", n_jobs=torch.get_num_threads())).float()
    if queries.metric == "manhattan":
        return torch.cdist(queries.rows, train.rows, p=1).float()
    out = queries.rows @ train.rows.T
    size = queries.square[:, None] + train.square
    out = torch.sub(size, out, alpha=2)
    # What cannot be told from zero is zero, so that an exact copy of a training image is found at distance 0.
    out.masked_fill_(out < ZERO * size, 0)
    if queries.metric == "euclidean":
        return out.sqrt_().float()
    out.mul_(0.5)
    out[queries.zero] = 1
    out[:, train.zero] = 1
    return out.float()


def smallest(values, k):
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


def merge(parts, k):
    """The k nearest from several (distances, indices) of the same queries, each (m, any number), as arrays."""
    found, at = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.lexsort((at, found), axis=1)[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(at, order, 1)


class Exhaustive:
    """What engines share that compute every distance."""

    def notes(self):
        """The share of all distances that were computed."""
        return {"compared": 1.0}


class BruteForce(Exhaustive):
    """Engine "torch": every distance in float64."""

    def __init__(self, queries, k, metric="cosine"):
        self.queries, self.k, self.seen = NormalizedRows(queries, metric), k, 0
        self.distances = torch.empty((len(queries), 0), device=queries.device)
        self.indices = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)

    def add(self, rows):
        """Take in the next training rows, (m, dimension)."""
        shard = NormalizedRows(rows, self.queries.metric, self.queries.center)
        k, step = min(self.k, self.seen + len(shard)), max(1, BLOCK // len(shard))
        merged = [self._merge(slice(i, i + step), shard, k) for i in range(0, len(self.queries), step)]
        self.distances, self.indices = (torch.cat(part) for part in zip(*merged, strict=True))
        self.seen += len(shard)

    def _merge(self, rows, shard, k):
        found, at = smallest(distances(self.queries[rows], shard), min(k, len(shard)))
        # Earlier rows come first and have smaller indices, so a stable sort keeps the rule for equal distances.
        both, order = torch.cat([self.distances[rows], found], 1).sort(dim=1, stable=True)
        return both[:, :k], torch.cat([self.indices[rows], at + self.seen], 1).gather(1, order[:, :k])

    def result(self):
        """(distances float32, indices int64), each (queries, k)."""
        return self.distances.cpu().numpy(), self.indices.cpu().numpy()
