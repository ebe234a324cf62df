"""Training embeddings that are held and made ready once, for queries that come later."""

import numpy as np
import torch

from ..data import as_tensor, check_values
from .bounded import NearestLists, search
from .brute_force import BLOCK, NormalizedRows, distances, smallest
from .engines import check_engine, check_k
from .projection import Basis


def _vectors(x, what):
    x = as_tensor(x)
    if x.ndim != 2:
        raise ValueError(f"{what} have shape {tuple(x.shape)}; pass one row per image, (n, dimension).")
    check_values(x, what)
    return x.float()


class Index:
    """Training embeddings held in memory and made ready once, for queries that come later."""

    def __init__(self, train, metric="cosine", device="cpu", memory_budget=None):
        train = _vectors(train, "the training embeddings").to(device)
        check_engine("auto", metric, device)
        self.basis, self.shape = None, train.shape
        if train.numel() > BLOCK and metric != "manhattan" and train.device.type == "cpu":
            rows = np.ascontiguousarray(train.numpy())
            self.basis = Basis(rows, metric, min(128, train.shape[1] // 2))
            self.train = self.basis.project(rows, train=True)
            self.train.keep = True
        else:
            self.train = NormalizedRows(train, metric)

    def kneighbors(self, queries, k):
        """(distances float32, indices int64) of the k nearest training rows, each (queries, k)."""
        check_k(k, self.shape[0])
        queries = _vectors(queries, "the queries")
        if queries.shape[1] != self.shape[1]:
            raise ValueError(f"the queries have {queries.shape[1]} dimensions, the training embeddings "
                             f"{self.shape[1]}; embed both with the same layer and pooling.")
        if self.basis is not None:
            lists = NearestLists(len(queries), k)
            rows = self.basis.project(np.ascontiguousarray(queries.cpu().numpy()))
            search(self.basis, rows, self.train, min(32, self.basis.rank), lists)
            return lists.distances, lists.indices
        queries = NormalizedRows(queries.to(self.train.rows.device), self.train.metric, self.train.center)
        step = max(1, BLOCK // len(self.train))
        parts = [smallest(distances(queries[i:i + step], self.train), k) for i in range(0, len(queries), step)]
        return tuple(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))


def kneighbors(train, queries, k, metric="cosine"):
    """(distances, indices) of the k nearest rows of `train` for each row of `queries`, each (queries, k).

    train: (n, dimension); queries: (m, dimension). Same neighbours as scikit-learn's `NearestNeighbors`, up to
    distances that are equal within rounding. Raises ValueError for k outside 1..n or shapes that do not match.
    """
    return Index(train, metric).kneighbors(queries, k)
