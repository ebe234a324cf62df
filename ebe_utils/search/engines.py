"""The front door of the search: which engine finds the k nearest training embeddings, exactly (algorithm 1).

Cosine distance is 1 - cos, euclidean and manhattan are the usual ones: scikit-learn's definitions. A zero vector
has cosine distance 1 to everything. Neighbours are sorted by distance, equal distances by training index.

Distances are computed in float64 and rounded to float32, so that what is equal but for rounding is a tie: deep layers
give embeddings that nearly point the same way (a mean cosine of 0.99), and 1 - cos in float32 then loses the digits
that decide the order. Every engine takes training rows in shards and keeps the k nearest so far.

auto       bounded where it is much work and can be used, else torch
bounded    exact; on the CPU, for cosine and euclidean (see `ebe_utils.search.bounded`)
torch      exact; brute force in float64, on any device, for every metric
faiss      flat index: brute force in float32 (FAISS), the 2k + 16 best compared again in float64; not certified
sklearn    scikit-learn's NearestNeighbors, to compare with; holds all training rows
hnsw       approximate: FAISS's graph index; `recall` says what share of the neighbours it found
"""

import importlib.util

import numpy as np
import torch

from ..checks import integer, one_of
from .bounded import BoundedSearch, exact_distances
from .brute_force import METRICS, BruteForce, Exhaustive, NormalizedRows, merge

ENGINES = ("auto", "bounded", "torch", "faiss", "sklearn", "hnsw")
SMALL = 5e10  # multiplications up to which brute force is as fast as anything


def check_k(k, n_train):
    """`k` if it is an integer from 1 to the number of training images."""
    return integer("k", k, 1, n_train, f" (there are {n_train} training images)")


def check_metric(metric):
    return one_of("metric", metric, METRICS)


def check_engine(engine, metric, device="cpu"):
    """The engine's name; ValueError for one that cannot do what is asked."""
    one_of("engine", engine, ENGINES)
    one_of("metric", metric, METRICS)
    if engine == "bounded" and torch.device(device).type != "cpu":
        raise ValueError(f"engine='bounded' works on the CPU, not on {device}; choose 'auto' or 'torch'.")
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
        engine = "bounded" if much and metric != "manhattan" and queries.device.type == "cpu" else "torch"
    if engine == "bounded":
        return BoundedSearch(queries, k, metric, n_train)
    return {"torch": BruteForce, "faiss": Faiss, "sklearn": ScikitLearn, "hnsw": Hnsw}[engine](queries, k, metric)


class _Faiss:
    """What the two FAISS engines share: rows in float32, prepared with the first shard's centre.

    Without their common part they lose fewer digits.
    """

    def __init__(self, queries, k, metric="cosine"):
        self.queries, self.k, self.metric, self.seen = queries.cpu().contiguous(), k, metric, 0
        self.center = None

    def _shifted(self, rows):
        prepared = NormalizedRows(rows, self.metric, self.center)
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
        rows, k = torch.cat(self.shards).numpy(), min(self.k, self.seen)
        at = self.index.search(self._shifted(self.queries), k)[1]
        found = exact_distances(self.queries.numpy(), rows, np.where(at < 0, 0, at), self.metric)
        found[at < 0] = np.inf
        best = merge([(found, at)], k)
        some = np.linspace(0, len(at) - 1, min(200, len(at))).astype(int)
        oracle = BoundedSearch(self.queries[some], k, self.metric)
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
