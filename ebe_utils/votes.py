"""Votes: how much each neighbour counts, and what the votes add up to (algorithm 1 of the paper)."""

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from .checks import one_of, real, same_shape

WEIGHTS = ("uniform", "distance")  # that follow from the distances
NNK = "nnk"  # weights that follow from the embeddings


def one_hot(labels, n_classes=None):
    """(n, classes) float64 with a one at each row's label (integers from 0)."""
    labels = np.asarray(labels)
    return np.eye(int(labels.max()) + 1 if n_classes is None else n_classes)[labels]


def vote_weights(distances, weights="uniform"):
    """Weights of the neighbours, (n, k) float64, each row non-negative with sum 1.

    distances: (n, k). weights: "uniform" (1/k each, the paper's), "distance" (1/distance; where some distances are
    zero, those examples share the weight), or a function of the distances that returns as many weights:
    scikit-learn's meaning of the word. Raises ValueError if the function returns anything that cannot be weights.
    """
    distances = np.asarray(distances, dtype=float)
    if callable(weights):
        raw = np.asarray(weights(distances), dtype=float)
        if raw.shape != distances.shape:
            raise ValueError(f"weights returned shape {raw.shape} for distances of shape {distances.shape}; "
                             "return one weight per distance.")
        if not np.isfinite(raw).all() or (raw < 0).any() or (raw.sum(1) <= 0).any():
            raise ValueError("weights returned negative, infinite or NaN values, or a row without weight; "
                             "return non-negative weights with a positive sum.")
    elif check_weights("weights", weights) == "uniform":
        return np.full(distances.shape, 1 / distances.shape[1])
    else:
        zero = distances == 0
        raw = np.where(zero.any(1, keepdims=True), zero, 1 / np.where(zero, 1, distances))
    return raw / raw.sum(1, keepdims=True)


def softmax_weights(temperature=0.1):
    """A function for `vote_weights`: weights in proportion to exp(-distance / (temperature * mean distance)).

    Distances are taken relative to the mean of each row, since their scale differs by orders of magnitude between
    layers. Temperature 0.1: an example farther by a tenth of the mean distance has 1/e of the weight.
    """
    real("temperature", temperature)

    def weights(distances):
        mean = distances.mean(1, keepdims=True)
        return np.exp(-(distances - distances.min(1, keepdims=True)) / np.where(mean > 0, temperature * mean, 1))

    return weights


def nnk_weights(train, queries, indices):
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


def is_nnk(weights):
    """Whether these are the weights that need embeddings; anything may be asked, a function too."""
    return isinstance(weights, str) and weights == NNK


def check_weights(name, weights, metric=None):
    """`weights` if they are "uniform", "distance", a function, or, with cosine distance, "nnk"; else ValueError.

    metric: of the embeddings, or None where only distances are known.
    """
    if is_nnk(weights) and metric != "cosine":
        raise ValueError(f"{name}='nnk' follow from the embeddings, and here only distances are known; choose uniform "
                         "or distance here, or use EBEClassifier or select." if metric is None else
                         f"{name}='nnk' compares examples by their angles; pass metric='cosine' with it, not "
                         f"{metric!r}.")
    return weights if callable(weights) else one_of(name, weights, WEIGHTS if metric is None else (*WEIGHTS, NNK))


def effective_number(weights):
    """(n,): 1 / Σw², how many examples with equal weights would be as concentrated (Kish 1965); from 1 to k."""
    return 1 / np.square(weights).sum(1)


def vote_shares(indices, labels, weights=None, classes=None):
    """weights · one_hot(labels), (n, classes); uniform weights if none are given (the paper's section 2).

    Rounded to twelve digits, so that equal shares are equal in whatever order they are added.
    """
    weights = np.full(indices.shape, 1 / indices.shape[1]) if weights is None else np.asarray(weights, float)
    same_shape("weights", weights, indices)
    return np.einsum("nk,nkc->nc", weights, one_hot(labels, classes)[indices]).round(12)
