"""Votes: how much each neighbour counts, and the share of the votes that each class gets (algorithm 1 of the paper).

`weights` means the same throughout the package: a name of `WEIGHTS`, or a function of the distances, (n, k) → (n, k),
for example `SoftmaxWeights(0.05)`. A function has to be picklable where a search runs in several processes.

uniform   1/k each, the paper's
distance  in proportion to 1/distance (Dudani 1976, as scikit-learn has it)
softmax   `SoftmaxWeights()`: in proportion to exp(-distance / (0.1 * mean distance))
nnk       `nnk_weights`: they follow from the embeddings, not from the distances, and go with cosine distance only
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from .checks import integer, one_of, real, same_shape
from .search.rows import Metric

WEIGHTS = ("uniform", "distance", "softmax", "nnk")
Weights = str | Callable[[np.ndarray], ArrayLike]
_LARGEST = 2**32  # bytes that one_hot takes without having been told the number of classes


def check_weights(name: str, weights: Weights, metric: Metric | None = None) -> Weights:
    """`weights` if they are a name of `WEIGHTS` or a function; ValueError otherwise.

    metric: of the embeddings, since "nnk" goes with "cosine" only; None where nothing but distances is known.
    """
    if callable(weights):
        return weights
    if one_of(name, weights, WEIGHTS) == "nnk" and metric != "cosine":
        raise ValueError(f"{name}='nnk' follow from the embeddings, and here only distances are known; choose uniform, "
                         "distance or softmax here, or use EBEClassifier, layer_sweep or select." if metric is None else
                         f"{name}='nnk' compares examples by their angles; pass metric='cosine' with it, not "
                         f"{metric!r}.")
    return weights


def named_weights(weights: Weights | Iterable[str] | Mapping[str, Weights], metric: Metric | None = "cosine"
                  ) -> dict[str, Weights]:
    """{name: weights} of several weights to compare: from names (one, or any number), or from such a dict.

    metric: see `check_weights`. TypeError for anything else, ValueError for an unknown name or if there is none.
    """
    if isinstance(weights, str):
        weights = [weights]
    if callable(weights) or not isinstance(weights, Iterable):
        raise TypeError(f"weights={weights!r} has no name; pass names ({', '.join(WEIGHTS)}), or {{name: weights}}.")
    if not isinstance(weights, Mapping):
        weights = {one_of("weights", name, WEIGHTS): name for name in weights}
    if not weights:
        raise ValueError("weights is empty; pass at least one to choose from.")
    return {name: check_weights(f"weights[{name!r}]", how, metric) for name, how in weights.items()}


@dataclass(frozen=True)
class SoftmaxWeights:
    """Weights in proportion to exp(-distance / (temperature * mean distance)), a function for `vote_weights`.

    Distances are taken relative to the mean of each row, since their scale differs by orders of magnitude between
    layers. Temperature 0.1: an example farther by a tenth of the mean distance has 1/e of the weight.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        real("temperature", self.temperature)

    def __call__(self, distances: np.ndarray) -> np.ndarray:
        mean = distances.mean(1, keepdims=True)
        return np.exp(-(distances - distances.min(1, keepdims=True)) / np.where(mean > 0, self.temperature * mean, 1))


def vote_weights(distances: ArrayLike, weights: Weights = "uniform") -> np.ndarray:
    """Weights of the neighbours, (n, k) float64, each row non-negative with sum 1.

    distances: (n, k). weights: see the top of this module; with "distance", where some distances are zero, those
    examples share the weight. Raises ValueError for "nnk", which does not follow from distances, and if a function
    returns anything that cannot be weights.
    """
    distances = np.asarray(distances, dtype=float)
    how = SoftmaxWeights() if check_weights("weights", weights) == "softmax" else weights
    if how == "uniform":
        return np.full(distances.shape, 1 / distances.shape[1])
    if not callable(how):
        zero = distances == 0
        nearest = np.where(zero, np.inf, distances).min(1, keepdims=True)  # 1 / a tiny distance would be infinite
        raw = np.where(zero.any(1, keepdims=True), zero, nearest / np.where(zero, 1, distances))
    else:
        raw = np.asarray(how(distances), dtype=float)
        if raw.shape != distances.shape:
            raise ValueError(f"weights returned shape {raw.shape} for distances of shape {distances.shape}; "
                             "return one weight per distance.")
        if not np.isfinite(raw).all() or (raw < 0).any() or (raw.max(1) <= 0).any():
            raise ValueError("weights returned negative, infinite or NaN values, or a row without weight; "
                             "return non-negative weights with a positive sum.")
    raw = raw / raw.max(1, keepdims=True)  # their sum might be more than a float can hold
    return raw / raw.sum(1, keepdims=True)


def nnk_weights(train: np.ndarray, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Votes by non-negative kernel regression, (m, k) with rows that sum to 1.

    Of Shekkizhar & Ortega (arXiv:1910.09383); in the embedding of a network it is their DeepNNK (arXiv:2007.10505).
    train: (n, d); queries: (m, d); indices: (m, k), the candidates of each query. A query is written as a non-negative
    combination of its candidates in the space of the kernel (1 + cos) / 2, as well as that is possible: a candidate
    behind another one, seen from the query, gets weight 0. The weights are those numbers divided by their sum.
    """
    weights, points = np.zeros(indices.shape), np.empty((indices.shape[1] + 1, train.shape[1]))
    ridge = 1e-10 * np.eye(indices.shape[1])  # above what rounding can take off, so that equal candidates have a root
    for query, row, out in zip(queries, indices, weights, strict=True):
        points[0], points[1:] = query, train[row]
        gram = points @ points.T
        length = np.sqrt(gram.diagonal()).clip(1e-12)
        gram = (1 + gram / length / length[:, None]) / 2
        # min 1/2 w' K w - w' q over w >= 0 is non-negative least squares with K = L L', A = L' and L b = q.
        root = np.linalg.cholesky(gram[1:, 1:] + ridge)
        found = nnls(root.T, solve_triangular(root, gram[1:, 0], lower=True))[0]
        out[:] = found / found.sum() if found.sum() > 0 else 1 / len(row)
    return weights


def _classes(labels: ArrayLike, classes: int | None) -> tuple[np.ndarray, int]:
    """(labels, number of classes); TypeError or ValueError for what cannot be labels of so many classes."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels of type {labels.dtype} are no class indices; pass integers from 0.")
    least, most = (int(labels.min()), int(labels.max())) if labels.size else (0, -1)
    classes = most + 1 if classes is None else integer("classes", classes, 1)
    if least < 0 or most >= classes:
        raise ValueError(f"labels run from {least} to {most}; pass integers from 0 to {classes - 1}, one for "
                         f"each of {classes} classes.")
    return labels, classes


def one_hot(labels: ArrayLike, n_classes: int | None = None) -> np.ndarray:
    """(..., classes) float64 with a one at each label; labels: (...), integers from 0.

    n_classes: by default the largest label and one. TypeError for labels that are no integers, ValueError for labels
    outside the classes, and for such large ones that they cannot be meant to number classes.
    """
    labels, classes = _classes(labels, n_classes)
    if n_classes is None and labels.size * classes * 8 > _LARGEST:
        raise ValueError(f"labels go up to {classes - 1}, which makes {classes} columns for {labels.size} labels; "
                         "number the classes from 0, or pass n_classes if there are so many.")
    found = np.zeros((*labels.shape, classes))
    np.put_along_axis(found, labels[..., None], 1, -1)
    return found


def vote_shares(indices: np.ndarray, labels: ArrayLike, weights: ArrayLike | None = None, classes: int | None = None
                ) -> np.ndarray:
    """weights · one_hot(labels), (n, classes); uniform weights if none are given (the paper's section 2).

    indices: (n, k); labels: (n_train,); weights: (n, k). Rounded to twelve digits, so that equal shares are equal in
    whatever order they are added.
    """
    labels, classes = _classes(labels, classes)
    n, k = indices.shape
    weights = np.full((n, k), 1 / k) if weights is None else np.asarray(weights, float)
    same_shape("weights", weights, indices)
    cells = labels[indices] + classes * np.arange(n)[:, None]  # adding up in place of an (n, k, classes) product
    return np.bincount(cells.ravel(), weights.ravel(), n * classes).reshape(n, classes).round(12)


def effective_number(weights: ArrayLike) -> np.ndarray:
    """(n,): 1 / Σw², how many examples with equal weights would be as concentrated (Kish 1965); from 1 to k."""
    return 1 / np.square(weights).sum(1)
