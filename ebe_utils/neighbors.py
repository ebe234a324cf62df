"""Step 4, neighbours: the k nearest training embeddings, exactly (KNN in the paper's algorithm 1).

Cosine distance is 1 - cos, euclidean and manhattan are the usual ones: scikit-learn's definitions. A zero vector
has cosine distance 1 to everything. Neighbours are sorted by distance, equal distances by training index.

Deep layers give embeddings that nearly point the same way (a mean cosine of 0.99), and 1 - cos in float32 then
loses the digits that the order hangs on. So vectors are shifted by a common centre first, which leaves their
differences as they are, and distances come from |a - b|^2 = |a|^2 + |b|^2 - 2ab of the short, shifted vectors.
Where training has drawn each class together, a neighbour is much nearer than the centre and that is not enough: up to
1,024 dimensions (layers 11 to 20 of ResNet18 on small images) the search is in float64, which is cheap there.
"""

import torch

from .checks import integer, one_of
from .data import as_tensor, check_values

METRICS = ("cosine", "euclidean", "manhattan")
_BLOCK = 2**25  # distances held at a time
_DOUBLE = 1024  # largest dimension that is searched in float64
_ZERO = {torch.float32: 5e-7, torch.float64: 1e-13}  # squared distance, relative to the squares, that is rounding


def check_k(k, n_train):
    """`k` if it is an integer from 1 to the number of training images."""
    return integer("k", k, 1, n_train, f" (there are {n_train} training images)")


def _vectors(x, what):
    x = as_tensor(x)
    if x.ndim != 2:
        raise ValueError(f"{what} have shape {tuple(x.shape)}; pass one row per image, (n, dimension).")
    check_values(x, what)
    return x.float()


class Prepared:
    """Rows made ready for the search: scaled to length one for cosine, shifted by `center`, squared lengths kept."""

    def __init__(self, rows, metric, center=None):
        self.metric = one_of("metric", metric, METRICS)
        self.zero = None
        rows = rows.double() if rows.shape[1] <= _DOUBLE else rows
        if metric == "cosine":
            length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
            self.zero = (length == 0)[:, 0]
            rows = rows / torch.where(length > 0, length, 1).to(rows.dtype)
        if metric != "manhattan":
            self.center = rows.mean(0, dtype=torch.float64).to(rows.dtype) if center is None else center
            rows = rows - self.center
            self.square = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().to(rows.dtype)
        else:
            self.center = None
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        part = object.__new__(Prepared)
        part.metric, part.center, part.rows = self.metric, self.center, self.rows[rows]
        part.zero = None if self.zero is None else self.zero[rows]
        if self.metric != "manhattan":
            part.square = self.square[rows]
        return part


def distances(queries, train):
    """All distances between two `Prepared` sets of rows, (queries, train) float32.

    Rounded to float32 even where they were found in float64, so that what is equal but for rounding is a tie.
    """
    if queries.metric == "manhattan":
        return torch.cdist(queries.rows, train.rows, p=1).float()
    out = queries.rows @ train.rows.T
    size = queries.square[:, None] + train.square
    out = torch.sub(size, out, alpha=2)
    # What cannot be told from zero is zero, so that an exact copy of a training image is found at distance 0.
    out.masked_fill_(out < _ZERO[out.dtype] * size, 0)
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


class TopK:
    """The k nearest training rows of fixed queries, kept up to date while training rows arrive in shards."""

    def __init__(self, queries, k, metric="cosine"):
        self.queries, self.k, self.seen = Prepared(queries, metric), k, 0
        self.distances = torch.empty((len(queries), 0), device=queries.device)
        self.indices = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)

    def add(self, rows):
        """Take in the next training rows, (m, dimension)."""
        shard = Prepared(rows, self.queries.metric, self.queries.center)
        k, step = min(self.k, self.seen + len(shard)), max(1, _BLOCK // len(shard))
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


class Index:
    """Training embeddings held in memory and made ready once, for queries that come later."""

    def __init__(self, train, metric="cosine", device="cpu"):
        one_of("metric", metric, METRICS)
        self.train = Prepared(_vectors(train, "the training embeddings").to(device), metric)

    def kneighbors(self, queries, k):
        """(distances float32, indices int64) of the k nearest training rows, each (queries, k)."""
        check_k(k, len(self.train))
        queries = _vectors(queries, "the queries").to(self.train.rows.device)
        if queries.shape[1] != self.train.rows.shape[1]:
            raise ValueError(f"the queries have {queries.shape[1]} dimensions, the training embeddings "
                             f"{self.train.rows.shape[1]}; embed both with the same layer and pooling.")
        queries = Prepared(queries, self.train.metric, self.train.center)
        step = max(1, _BLOCK // len(self.train))
        parts = [smallest(distances(queries[i:i + step], self.train), k) for i in range(0, len(queries), step)]
        return tuple(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))


def kneighbors(train, queries, k, metric="cosine"):
    """(distances, indices) of the k nearest rows of `train` for each row of `queries`, each (queries, k).

    train: (n, dimension); queries: (m, dimension). Same neighbours as scikit-learn's `NearestNeighbors`, up to
    distances that are equal within rounding. Raises ValueError for k outside 1..n or shapes that do not match.
    """
    return Index(train, metric).kneighbors(queries, k)
