"""Linear maps of embeddings after which cosine and Euclidean distance mean something else."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from .checks import real

Transform = Callable[[np.ndarray], np.ndarray]  # of rows (m, d)


def zca(train: ArrayLike, shrinkage: float | str = "auto") -> Transform:
    """Whitening by ZCA (Bell & Sejnowski 1997): a function from rows (m, d) to whitened rows (m, d).

    train: (n, d) embeddings with covariance C. Whitened by the inverse root of
    (1 - shrinkage) C + shrinkage trace(C)/d I. shrinkage: from 0, which needs n > d, to 1 (centring alone), or "auto",
    that of Ledoit & Wolf (2004). Of n and d, the smaller one is cubed in its cost.
    """
    train = np.asarray(train, dtype=float)
    mean, (n, d) = train.mean(0), train.shape
    centred = train - mean
    values, vectors = np.linalg.eigh((centred @ centred.T if n < d else centred.T @ centred) / n)
    keep = values > values[-1] * 1e-10
    values, vectors = values[keep], vectors[:, keep]
    scale, square = values.sum() / d, (values**2).sum()
    if n < d:
        vectors = centred.T @ vectors / np.sqrt(n * values)
    if shrinkage == "auto":
        noise = ((centred**2).sum(1) ** 2).sum() / n - square  # of the entries of C, times n
        spread = square - d * scale**2
        amount = min(noise / n / spread, 1.0) if spread > 0 else 1.0
    elif not 0 <= (amount := 0.0 if shrinkage == 0 else real("shrinkage", shrinkage)) <= 1:
        raise ValueError(f"shrinkage={shrinkage} is out of range; pass a number from 0 to 1, or 'auto'.")
    if amount == 0 and len(values) < d:
        raise ValueError(f"shrinkage=0 cannot whiten {n} rows of rank {len(values)} in {d} dimensions; pass a larger "
                         "one, or 'auto'.")
    rest = (amount * scale) ** -0.5 if len(values) < d else 0.0  # of the directions without variance
    factors = ((1 - amount) * values + amount * scale) ** -0.5 - rest
    return lambda rows: ((rows - mean) @ vectors * factors) @ vectors.T + rest * (rows - mean)


def lda(train: np.ndarray, labels: np.ndarray, directions: int = 256) -> Transform:
    """Linear discriminant analysis: a function from rows (m, d) to discriminants (m, at most classes - 1).

    Within-class covariance becomes the identity, up to shrinkage (Ledoit & Wolf's), so Euclidean distance is the
    natural one after it. scikit-learn's, after a cut to as many principal directions as asked for.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    directions = min(directions, train.shape[1], len(train) - 1)
    return make_pipeline(PCA(directions, svd_solver="randomized", random_state=0),
                         LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")).fit(train, labels).transform


def concatenated(embeddings: Iterable[np.ndarray]) -> np.ndarray:
    """Several layers as one, (n, sum of d): rows of length one side by side; its cosine is the mean of theirs."""
    return np.concatenate([e / np.linalg.norm(e, axis=1, keepdims=True).clip(1e-12) for e in embeddings], axis=1)
