"""Other libraries' searches as engines, to compare with: FAISS's flat index and scikit-learn."""

import numpy as np
import torch

from ..search.brute_force import merge
from ..search.kernels import exact_distances


class FaissFlat:
    """FAISS's flat search in float32, whose 2k + 16 best of each shard are compared again in float64.

    Nothing proves that the k nearest are among these. Rows are scaled, and shifted by the queries' mean: without their
    common part they lose fewer digits.
    """

    def __init__(self, queries: torch.Tensor, k: int, metric: str = "cosine", n_train: int | None = None):
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f"FAISS's flat index takes cosine and euclidean distances here, not metric={metric!r}.")
        self.queries, self.k, self.metric, self.seen = queries.cpu().contiguous(), k, metric, 0
        self.best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scaled = self._scaled(self.queries)
        self.center = scaled.mean(0)
        self.shifted = (scaled - self.center).float().numpy()

    def add(self, rows: torch.Tensor) -> None:
        """Take in the next training rows, (n, d)."""
        import faiss

        rows = rows.cpu().contiguous()
        train = (self._scaled(rows) - self.center).float().numpy()
        at = faiss.knn(self.shifted, train, min(2 * self.k + 16, len(rows)))[1]
        exact = exact_distances(self.queries.numpy(), rows.numpy(), at, self.metric)
        self.best = merge([self.best, (exact, at + self.seen)], self.k)
        self.seen += len(rows)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, k)."""
        return self.best

    def notes(self) -> dict[str, float]:
        """The share of all distances that were computed."""
        return {"exact": 1.0}

    @staticmethod
    def bytes_per_training_row(dimension: int) -> int:
        """Nothing is held but the best."""
        return 0

    def _scaled(self, rows):
        return torch.nn.functional.normalize(rows.double(), eps=1e-300) if self.metric == "cosine" else rows.double()


class ScikitLearn:
    """scikit-learn's brute force on float64 rows, all of which it holds."""

    def __init__(self, queries: torch.Tensor, k: int, metric: str = "cosine", n_train: int | None = None):
        self.queries, self.k, self.metric = queries, k, metric
        self.shards: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Take in the next training rows, (n, d)."""
        self.shards.append(rows.double().cpu().clone())

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64), each (m, k)."""
        from sklearn.neighbors import NearestNeighbors

        train = torch.cat(self.shards).numpy()
        near = NearestNeighbors(n_neighbors=min(self.k, len(train)), metric=self.metric, algorithm="brute").fit(train)
        found, at = near.kneighbors(self.queries.double().cpu().numpy())
        return merge([(found.astype(np.float32), at)], self.k)

    def notes(self) -> dict[str, float]:
        """The share of all distances that were computed."""
        return {"exact": 1.0}

    @staticmethod
    def bytes_per_training_row(dimension: int) -> int:
        """The rows in float64, twice while they are put together."""
        return 16 * dimension


ENGINES = {"faiss": FaissFlat, "sklearn": ScikitLearn}  # by the name of the benchmark's row, engine=faiss
