"""Rows in the leading principal directions of the training rows, with bounds on what the projection leaves out."""

import copy

import numpy as np
import torch

from .kernels import CHUNK, EPS, in_threads, squares, subtract_center

_CELLS = 64  # groups that training rows are sorted into
_SAMPLE = 2**23  # values, of the first training rows, that the directions are fitted to


class ProjectedRows:
    """ProjectedRows as the search sees them: themselves, squared lengths, and projections with what bounds the rest.

    rows: (n, d) float32. In the order `order`, which puts rows side by side that are near each other: square, their
    squared lengths (n,); low, (n, rank) float32; norm, squared lengths after the centre was taken off (n,).
    """

    def __init__(self, rows, order, square, scale, low, norm, loss):
        self.rows, self.order, self.square, self.scale = rows, order, square, scale
        self.low, self.norm, self.loss, self._split = low, norm, loss, {}
        self.keep = False  # every split made, which costs memory, or the last one only

    def leading(self, basis):
        """The same rows with the directions that `basis` has kept."""
        low = np.ascontiguousarray(self.low[:, :basis.rank])
        return ProjectedRows(self.rows, self.order, self.square, self.scale, low, self.norm, basis.loss)

    def sorted(self, landmarks):
        """The same rows, those side by side that have the same nearest of some rows of projections."""
        score = self.low @ landmarks.T - np.einsum("ij,ij->i", landmarks, landmarks) / 2
        order = score.argmax(1).argsort(kind="stable")
        sorted_rows = (v[order] for v in (self.square, self.scale, self.low, self.norm))
        return ProjectedRows(self.rows, order, *sorted_rows, self.loss)

    def __len__(self):
        return len(self.rows)

    def rest(self, rank):
        """Upper bound on the length of what the first `rank` directions leave, so wide that rounding is covered."""
        kept = np.einsum("ij,ij->i", self.low[:, :rank], self.low[:, :rank], dtype=np.float64)
        return np.sqrt(np.maximum(self.norm - kept, 0) + 4.4 * self.loss * self.norm) * (1 + 4 * EPS)

    def split(self, rank, query):
        """(head, tail): head·head bounds q·x - |x|²/2 with `rank` directions, adding tail·tail with all of them.

        For training rows the head is transposed.
        """
        if (rank, query) not in self._split:
            head, tail = self._make(rank, query)
            if not self.keep:
                self._split.clear()
            self._split[rank, query] = head if query else np.ascontiguousarray(head.T), tail
        return self._split[rank, query]

    def _make(self, rank, query):
        n, full = self.low.shape
        head = np.empty((n, rank + 2), np.float32)
        head[:, :rank], head[:, rank] = self.low[:, :rank], self.rest(rank)
        head[:, -1] = 1 if query else -self.norm / 2
        if rank == full:
            return head, np.empty((n, 0), np.float32)
        tail = np.empty((n, full - rank + 2), np.float32)
        tail[:, :-2], tail[:, -2] = self.low[:, rank:], self.rest(full)
        tail[:, -1] = -head[:, rank] if query else head[:, rank]
        return head, tail


class Basis:
    """Centre and leading principal directions of training rows; rank 0 for none, which leaves the bound to d."""

    def __init__(self, rows, metric, rank):
        self.cosine, d = metric == "cosine", rows.shape[1]
        rows = rows[:max(2, _SAMPLE // d)]
        scaled = torch.from_numpy(rows) * torch.from_numpy(self.scale(squares(rows)))[:, None]
        self.center = scaled.mean(0).numpy()
        self.directions, self.landmarks, self.rank, self._oblique = None, None, min(rank, d, len(rows)), 0.0
        if self.rank == 0:
            return
        scaled -= torch.from_numpy(self.center)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            found = torch.randn(d, min(self.rank + 32, *scaled.shape))
        # Random projections and one power iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), then the
        # leading eigenvectors within the space found.
        found = torch.linalg.qr(scaled.T @ torch.linalg.qr(scaled @ found)[0])[0]
        inside = scaled @ found
        found = found @ torch.linalg.eigh(inside.T @ inside)[1].flip(1)[:, :self.rank]
        turned = found.double()
        self._oblique = torch.linalg.matrix_norm(turned.T @ turned - torch.eye(self.rank).double()).item()
        self.directions = np.zeros((-(-d // CHUNK) * CHUNK, self.rank), np.float32)
        self.directions[:d] = found.numpy()

    @property
    def loss(self):
        """Largest error of a projection relative to the row: of float32 sums of CHUNK terms, and of directions."""
        return np.sqrt(self.rank) * (CHUNK + 8) * EPS + self._oblique

    def leading(self, rank):
        """The same basis with its first `rank` directions only."""
        if rank == self.rank:
            return self
        found = copy.copy(self)
        found.rank, found.directions = rank, np.ascontiguousarray(self.directions[:, :rank]) if rank else None
        return found

    def scale(self, square):
        """What rows are multiplied with before the centre is taken off: 1 / length for cosine."""
        if not self.cosine:
            return np.ones(len(square), np.float32)
        return np.where(square > 0, 1 / np.sqrt(np.where(square > 0, square, 1)), 0).astype(np.float32)

    def project(self, rows, train=False):
        """`ProjectedRows` of (n, d) float32; training rows are sorted by what is nearest of some of the first."""
        square, norm, low = np.empty(len(rows)), np.zeros(len(rows)), np.empty((len(rows), self.rank), np.float32)
        scale = np.empty(len(rows), np.float32)

        def work(part):
            square[part] = squares(rows[part])
            scale[part] = self.scale(square[part])
            for i in range(part.start, part.stop, 1024):
                self._project(rows, slice(i, min(i + 1024, part.stop)), scale, low, norm)

        in_threads(work, len(rows))
        found = ProjectedRows(rows, np.arange(len(rows)), square, scale, low, norm, self.loss)
        if not train or self.rank == 0:
            return found
        if self.landmarks is None:
            self.landmarks = low[::-(-len(low) // _CELLS)].copy()
        return found.sorted(self.landmarks[:, :self.rank])

    def _project(self, rows, part, scale, low, norm):
        rows, scale, norm = rows[part], scale[part], norm[part]
        held, product = np.zeros((len(rows), CHUNK), np.float32), np.empty((len(rows), self.rank), np.float32)
        total = np.zeros((len(rows), self.rank))
        for c in range(0, rows.shape[1], CHUNK):
            width = min(CHUNK, rows.shape[1] - c)
            subtract_center(rows[:, c:c + width], scale, self.center[c:c + width], held[:, :width], norm)
            held[:, width:] = 0
            if self.rank:
                np.matmul(held, self.directions[c:c + CHUNK], out=product)
                total += product
        low[part] = total
