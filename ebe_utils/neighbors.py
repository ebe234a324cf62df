"""Step 4, neighbours: the k nearest training embeddings, exactly (KNN in the paper's algorithm 1).

Cosine distance is 1 - cos, euclidean and manhattan are the usual ones: scikit-learn's definitions. A zero vector
has cosine distance 1 to everything. Neighbours are sorted by distance, equal distances by training index.

Distances are computed in float64 and rounded to float32, so that what is equal but for rounding is a tie: deep layers
give embeddings that nearly point the same way (a mean cosine of 0.99), and 1 - cos in float32 then loses the digits
that the order hangs on. Every engine takes training rows in shards and keeps the k nearest so far.

auto       shortlist where it is much work and can be used, else torch
shortlist  exact; on the CPU, for cosine and euclidean (see `ebe_utils.shortlist`)
torch      exact; brute force in float64, on any device, for every metric
faiss      flat index: brute force in float32 (FAISS), the 2k + 16 best compared again in float64; not certified
sklearn    scikit-learn's NearestNeighbors, to compare with; holds all training rows
hnsw       approximate: FAISS's graph index; `recall` says what share of the neighbours it found
"""

import importlib.util

import numpy as np
import torch
from sklearn.metrics import pairwise_distances

from .checks import integer, one_of
from .data import as_tensor, check_values

METRICS = ("cosine", "euclidean", "manhattan")
ENGINES = ("auto", "shortlist", "torch", "faiss", "sklearn", "hnsw")
_BLOCK = 2**24  # distances held at a time
SMALL = 5e10  # multiplications up to which brute force is as fast as anything
ZERO = 1e-13  # squared distance, relative to the squares, that float64 cannot tell from zero


def check_k(k, n_train):
    """`k` if it is an integer from 1 to the number of training images."""
    return integer("k", k, 1, n_train, f" (there are {n_train} training images)")


def check_engine(engine, metric, device="cpu"):
    """The engine's name; ValueError for one that cannot do what is asked."""
    one_of("engine", engine, ENGINES)
    one_of("metric", metric, METRICS)
    if engine == "shortlist" and torch.device(device).type != "cpu":
        raise ValueError(f"engine='shortlist' works on the CPU, not on {device}; choose 'auto' or 'torch'.")
    if metric == "manhattan" and engine not in ("auto", "torch", "sklearn"):
        raise ValueError(f"engine={engine!r} knows cosine and euclidean distances; for metric='manhattan' choose "
                         "'auto', 'torch' or 'sklearn'.")
    if engine in ("faiss", "hnsw") and importlib.util.find_spec("faiss") is None:
        raise ValueError(f"engine={engine!r} needs FAISS, which is not installed: pip install faiss-cpu")
    return engine


def searcher(queries, k, metric="cosine", engine="auto", n_train=None):
    """A search for the k nearest of rows to come: `add(rows)` for each shard in order, then `result()`.

    queries: (m, dimension) tensor; n_train: how many training rows will come in all, if that is known.
    """
    check_engine(engine, metric, queries.device)
    if engine == "auto":
        much = queries.numel() * (n_train or 0) > SMALL
        engine = "shortlist" if much and metric != "manhattan" and queries.device.type == "cpu" else "torch"
    if engine == "shortlist":
        from .shortlist import Shortlist

        return Shortlist(queries, k, metric, n_train)
    return {"torch": BruteForce, "faiss": Faiss, "sklearn": ScikitLearn, "hnsw": Hnsw}[engine](queries, k, metric)


def _vectors(x, what):
    x = as_tensor(x)
    if x.ndim != 2:
        raise ValueError(f"{what} have shape {tuple(x.shape)}; pass one row per image, (n, dimension).")
    check_values(x, what)
    return x.float()


# --- brute force -------------------------------------------------------------------------------------------------


class Prepared:
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
        part = object.__new__(Prepared)
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


# --- other libraries' searches -----------------------------------------------------------------------------------


class _Faiss:
    """What the two FAISS engines share: rows in float32, prepared with the first shard's centre.

    Without their common part they lose fewer digits.
    """

    def __init__(self, queries, k, metric="cosine"):
        self.queries, self.k, self.metric, self.seen = queries.cpu().contiguous(), k, metric, 0
        self.center = None

    def _shifted(self, rows):
        prepared = Prepared(rows, self.metric, self.center)
        self.center = prepared.center
        return prepared.rows.float().contiguous().numpy()


class Faiss(_Faiss, Exhaustive):
    """Engine "faiss": FAISS's flat search in float32, its 2k + 16 best of each shard compared again in float64."""

    def __init__(self, queries, k, metric="cosine"):
        super().__init__(queries, k, metric)
        self.best, self.shifted = (np.empty((len(queries), 0), t) for t in (np.float32, np.int64)), None

    def add(self, rows):
        """Take in the next training rows, (m, dimension)."""
        import faiss

        rows = rows.cpu()
        train = self._shifted(rows)
        if self.shifted is None:
            self.shifted = self._shifted(self.queries)
        from .shortlist import exact_distances

        at = faiss.knn(self.shifted, train, min(2 * self.k + 16, len(rows)))[1]
        exact = exact_distances(self.queries.numpy(), rows.contiguous().numpy(), at, self.metric)
        self.best = merge([tuple(self.best), (exact, at + self.seen)], self.k)
        self.seen += len(rows)

    def result(self):
        """(distances float32, indices int64), each (queries, k)."""
        return self.best


class Hnsw(_Faiss):
    """Engine "hnsw": FAISS's graph of neighbours (Malkov and Yashunin 2018). Holds all training rows.

    After `result`, `recall` is the share of the k nearest that was found, on at most 200 of the queries.
    """

    links, breadth = 32, 128  # edges per row, and rows looked at on the way

    def __init__(self, queries, k, metric="cosine"):
        super().__init__(queries, k, metric)
        self.shards, self.index = [], None

    def add(self, rows):
        """Take in the next training rows, (m, dimension)."""
        import faiss

        rows = rows.cpu().clone()
        train = self._shifted(rows)
        if self.index is None:
            self.index = faiss.IndexHNSWFlat(rows.shape[1], self.links)
            self.index.hnsw.efSearch = max(self.breadth, 2 * self.k)
        self.index.add(train)
        self.shards.append(rows)
        self.seen += len(rows)

    def result(self):
        """(distances float32, indices int64), each (queries, k)."""
        from .shortlist import Shortlist, exact_distances

        rows, k = torch.cat(self.shards).numpy(), min(self.k, self.seen)
        at = self.index.search(self._shifted(self.queries), k)[1]
        found = exact_distances(self.queries.numpy(), rows, np.where(at < 0, 0, at), self.metric)
        found[at < 0] = np.inf
        best = merge([(found, at)], k)
        some = np.linspace(0, len(at) - 1, min(200, len(at))).astype(int)
        oracle = Shortlist(self.queries[some], k, self.metric)
        oracle.add(rows)
        truth = oracle.result()[1]
        self.recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, best[1][some], strict=True)]))
        return best

    def notes(self):
        """The share of the true neighbours that was found."""
        return {"recall": self.recall}


class ScikitLearn(Exhaustive):
    """Engine "sklearn": scikit-learn's brute force on float64 rows. Holds all training rows."""

    def __init__(self, queries, k, metric="cosine"):
        self.queries, self.k, self.metric, self.shards = queries, k, metric, []

    def add(self, rows):
        """Take in the next training rows, (m, dimension)."""
        self.shards.append(rows.double().cpu().clone())

    def result(self):
        """(distances float32, indices int64), each (queries, k)."""
        from sklearn.neighbors import NearestNeighbors

        train = torch.cat(self.shards).numpy()
        near = NearestNeighbors(n_neighbors=min(self.k, len(train)), metric=self.metric, algorithm="brute").fit(train)
        found, at = near.kneighbors(self.queries.double().cpu().numpy())
        return merge([(found.astype(np.float32), at)], self.k)


# --- an index for queries that come later ------------------------------------------------------------------------


class Index:
    """Training embeddings held in memory and made ready once, for queries that come later."""

    def __init__(self, train, metric="cosine", device="cpu"):
        train = _vectors(train, "the training embeddings").to(device)
        check_engine("auto", metric, device)
        self.basis, self.shape = None, train.shape
        if train.numel() > _BLOCK and metric != "manhattan" and train.device.type == "cpu":
            from .shortlist import Basis

            rows = np.ascontiguousarray(train.numpy())
            self.basis = Basis(rows, metric, min(128, train.shape[1] // 2))
            self.train = self.basis.project(rows, train=True)
            self.train.keep = True
        else:
            self.train = Prepared(train, metric)

    def kneighbors(self, queries, k):
        """(distances float32, indices int64) of the k nearest training rows, each (queries, k)."""
        check_k(k, self.shape[0])
        queries = _vectors(queries, "the queries")
        if queries.shape[1] != self.shape[1]:
            raise ValueError(f"the queries have {queries.shape[1]} dimensions, the training embeddings "
                             f"{self.shape[1]}; embed both with the same layer and pooling.")
        if self.basis is not None:
            from .shortlist import Lists, search

            lists = Lists(len(queries), k)
            rows = self.basis.project(np.ascontiguousarray(queries.cpu().numpy()))
            search(self.basis, rows, self.train, min(32, self.basis.rank), lists)
            return lists.distances, lists.indices
        queries = Prepared(queries.to(self.train.rows.device), self.train.metric, self.train.center)
        step = max(1, _BLOCK // len(self.train))
        parts = [smallest(distances(queries[i:i + step], self.train), k) for i in range(0, len(queries), step)]
        return tuple(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))


def kneighbors(train, queries, k, metric="cosine"):
    """(distances, indices) of the k nearest rows of `train` for each row of `queries`, each (queries, k).

    train: (n, dimension); queries: (m, dimension). Same neighbours as scikit-learn's `NearestNeighbors`, up to
    distances that are equal within rounding. Raises ValueError for k outside 1..n or shapes that do not match.
    """
    return Index(train, metric).kneighbors(queries, k)
