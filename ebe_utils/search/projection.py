"""Rows in the leading principal directions of the training rows, with bounds on what the projection leaves out."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from .kernels import CHUNK, EPS, frozen, in_threads, lengths, row_squares, subtract_center, unit_scale
from .rows import check_lengths

SAMPLE = 2**23  # values that the directions are fitted to, at most
_SAMPLE_ROWS = 2**11  # rows that a single search takes for them: its directions need not last
_CELLS = 64  # groups that training rows are sorted into


@dataclass
class Bounds:
    """Rows as the search sees them, and what bounds the products of queries with training rows.

    rows: (n, d) float32; scale: what they are multiplied with, (n,) float64; order: which row stands at each place of
    `coarse` and `fine`, (n,) int32; norm: squared lengths after the centre was taken off, in that order, (n,) float64,
    or for training rows with directions none at all; radius: the largest length. For r directions in the coarse bound
    and R in all: coarse (n, r + 2), for training rows transposed; fine (n, R - r + 2), or no columns if r = R. With
    them coarse·coarse bounds q·x - |x|²/2 from above, and coarse·coarse + fine·fine bounds it closer.
    """

    rows: np.ndarray
    scale: np.ndarray
    order: np.ndarray
    norm: np.ndarray
    radius: float
    coarse: np.ndarray
    fine: np.ndarray

    def __post_init__(self) -> None:
        for name in ("rows", "scale", "order", "fine"):
            setattr(self, name, frozen(getattr(self, name)))


class Projection:
    """Rows (n, d) and their coordinates `low` (n, rank) float32 in the directions of a basis.

    scale: what rows are multiplied with; norm: squared lengths after that and without the centre, (n,) float64.
    """

    def __init__(self, rows: np.ndarray, scale: np.ndarray, low: np.ndarray, norm: np.ndarray):
        self.rows, self.scale, self.low, self.norm = rows, scale, low, norm

    def rest(self, rank: int, loss: float) -> np.ndarray:
        """Upper bound on the length of what the first `rank` directions leave, so wide that rounding is covered."""
        kept = np.einsum("ij,ij->i", self.low[:, :rank], self.low[:, :rank], dtype=np.float64)
        return np.sqrt(np.maximum(self.norm - kept, 0) + 4.4 * loss * self.norm) * (1 + 4 * EPS)

    @np.errstate(invalid="ignore", over="ignore")  # rows far beyond those of the basis, for which no bound is used
    def bounds(self, basis: "Basis", coarse: int, train: bool) -> Bounds:
        """`Bounds` with the directions that `basis` has, `coarse` of them in the coarse bound."""
        n, rank, radius = len(self.rows), basis.rank, float(np.sqrt(self.norm.max()))
        order = np.arange(n, dtype=np.int32)
        if rank == 0:
            nothing = np.empty((n, 0), np.float32)
            return Bounds(self.rows, self.scale, order, self.norm, radius, nothing, nothing)
        if train and coarse:  # side by side what has the same nearest landmark, hence is near each other
            marks = basis.landmarks[:, :rank]
            nearest = [(self.low[i:i + 4096, :rank] @ marks.T - np.einsum("ij,ij->i", marks, marks) / 2).argmax(1)
                       for i in range(0, n, 4096)]
            order = np.concatenate(nearest).argsort(kind="stable").astype(np.int32)
        rest, left = self.rest(coarse, basis.loss)[order], self.rest(rank, basis.loss)[order]
        first = np.empty((coarse + 2, n) if train else (n, coarse + 2), np.float32)
        fine = np.empty((n, rank - coarse + 2 if rank > coarse else 0), np.float32)
        by_row = first.T if train else first
        by_row[:, coarse], by_row[:, -1] = rest, -self.norm[order] / 2 if train else 1
        for i in range(0, n, 4096):  # a part at a time, for want of memory
            part = slice(i, i + 4096)
            low = self.low[order[part], :rank]
            by_row[part, :coarse] = low[:, :coarse]
            if fine.shape[1]:
                fine[part, :-2] = low[:, coarse:]
        if fine.shape[1]:
            fine[:, -2], fine[:, -1] = left, rest if train else -rest
        return Bounds(self.rows, self.scale, order, np.empty(0) if train else self.norm, radius, first, fine)


def spread(n: int, count: int) -> np.ndarray:
    """Positions of `count` of n rows, or all, evenly spread: rows that are sorted by class are all represented."""
    return np.linspace(0, n - 1, min(n, count)).astype(int)


class Basis:
    """Centre and leading principal directions of rows; rank 0 for none, which leaves the bound to d.

    rows: (n, d) float32; rank: directions wanted, of which fewer are found in fewer rows; queries: further rows
    to fit the directions to; of both a sample is then used that is spread evenly. Directions that cannot be found, as
    when all rows are equal, are none. factor: power of two that euclidean rows are multiplied with, so that float32
    squares do not overflow.
    """

    def __init__(self, rows: np.ndarray, metric: str, rank: int, queries: np.ndarray | None = None):
        self.metric, d = metric, rows.shape[1]
        if queries is None:
            rows = rows.copy()
        else:
            most = max(2, min(_SAMPLE_ROWS, SAMPLE // d))
            part = queries[spread(len(queries), max(most // 2, most - len(rows)))]
            rows = np.concatenate([rows[spread(len(rows), most - len(part))], part])
        length = lengths(rows)
        wrong = ~np.isfinite(length)  # refused when they are projected
        rows[wrong], length[wrong] = 0, 0
        self.factor = 1.0 if metric == "cosine" or not length.any() else 2.0 ** -np.frexp(length.max())[1]
        scaled = np.empty(rows.shape, np.float32)
        scale, nothing, drop = frozen(self.scale(length)), np.zeros(d, np.float32), np.zeros(len(rows))
        in_threads(lambda part: subtract_center(rows[part], scale[part], nothing, scaled[part], drop[part]), len(rows))
        self.center = scaled.mean(0, dtype=np.float64).astype(np.float32)
        self.directions = self.landmarks = np.empty((0, 0), np.float32)
        self.rank, self.oblique = min(rank, d, len(rows)), 0.0
        if self.rank:
            scaled -= self.center
            self._fit(torch.from_numpy(scaled))

    def _fit(self, scaled: torch.Tensor) -> None:
        # Random projections and one power iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), then the
        # leading eigenvectors within the space found.
        d = scaled.shape[1]
        found = torch.randn(d, min(self.rank + 32, *scaled.shape), generator=torch.Generator().manual_seed(0))
        found = torch.linalg.qr(scaled.T @ torch.linalg.qr(scaled @ found)[0])[0]
        inside = (scaled @ found).double()
        product = inside.T @ inside
        if not torch.isfinite(product).all() or product.trace() <= 0:
            self.rank = 0
            return
        found = (found.double() @ torch.linalg.eigh(product)[1].flip(1)[:, :self.rank]).float()
        turned = found.double()
        self.oblique = torch.linalg.matrix_norm(turned.T @ turned - torch.eye(self.rank).double()).item()
        if not self.oblique < 1e-3:
            self.rank, self.oblique = 0, 0.0
            return
        self.directions = np.zeros((-(-d // CHUNK) * CHUNK, self.rank), np.float32)
        self.directions[:d] = found.numpy()
        self.landmarks = (scaled[spread(len(scaled), _CELLS)] @ found).numpy()

    @classmethod
    def of(cls, metric: str, center: np.ndarray, directions: np.ndarray, oblique: float, factor: float) -> "Basis":
        """A basis that was fitted before, for projections."""
        basis = object.__new__(cls)
        basis.metric, basis.center, basis.directions = metric, center, directions
        basis.landmarks = np.empty((0, 0), np.float32)
        basis.rank, basis.oblique, basis.factor = directions.shape[1], oblique, factor
        return basis

    @property
    def loss(self) -> float:
        """Largest error of a projection relative to the row: of float32 sums of CHUNK terms, and of directions."""
        return np.sqrt(self.rank) * (CHUNK + 8) * EPS + self.oblique

    def leading(self, rank: int) -> "Basis":
        """The same basis with its first `rank` directions only."""
        if rank == self.rank:
            return self
        found = copy.copy(self)
        found.rank, found.directions = rank, np.ascontiguousarray(self.directions[:, :rank])
        return found

    def scale(self, length: np.ndarray) -> np.ndarray:
        """What rows are multiplied with before the centre is taken off."""
        return unit_scale(length, self.metric) * self.factor

    def project(self, rows: np.ndarray, what: str = "the embeddings", first: int = 0) -> Projection:
        """`Projection` of (n, d) float32. Raises ValueError, naming `what`, for a row that is not finite.

        first: number of the first row.
        """
        n = len(rows)
        length, norm, low = np.empty(n), np.zeros(n), np.empty((n, self.rank), np.float32)
        scale = np.empty(n)

        @np.errstate(invalid="ignore", over="ignore")
        def work(part):
            for i in range(part.start, part.stop, 1024):
                now = slice(i, min(i + 1024, part.stop))
                row_squares(rows[now], length[now])
                np.sqrt(length[now], out=length[now])
                scale[now] = self.scale(length[now])
                self._project(rows[now], frozen(scale[now]), low[now], norm[now])

        in_threads(work, n)
        check_lengths(length, self.metric, what, first)
        return Projection(rows, scale, low, norm)

    def _project(self, rows: np.ndarray, scale: np.ndarray, low: np.ndarray, norm: np.ndarray) -> None:
        held, product = np.zeros((len(rows), CHUNK), np.float32), np.empty((len(rows), self.rank), np.float32)
        total = np.zeros((len(rows), self.rank))
        for c in range(0, rows.shape[1], CHUNK):
            width = min(CHUNK, rows.shape[1] - c)
            subtract_center(rows[:, c:c + width], scale, self.center[c:c + width], held[:, :width], norm)
            held[:, width:] = 0
            if self.rank:
                np.matmul(held, self.directions[c:c + CHUNK], out=product)
                total += product
        low[:] = total
