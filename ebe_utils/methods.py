"""Beyond EBE: what other example-based methods need and no library has, for notebook 10.

Every example method comes down to weights over the training images, (n, n_train), as `EBEClassifier.attributions`
gives them, so that all can be compared by the same measures.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from .checks import integer
from .data import as_tensor, scale
from .layer_neighbors import LayerNeighbors
from .layers import layer_name
from .model import on_device
from .search.index import kneighbors


def forest_attributions(forest: BaseEstimator, X_train: np.ndarray, X: np.ndarray) -> sp.csr_array:
    """The weight of every training object in a random forest's predictions: scipy CSR (n, n_train), rows with sum 1.

    An object's weight is the mean over the trees of (times drawn for the tree) / (size of the leaf, drawn objects
    counted as often as drawn) if it shares the leaf of the object explained, else 0 (Boström 2024, "Example-based
    explanations of random forest predictions"). `forest_attributions(...) @ one_hot(y)` is `forest.predict_proba(X)`.

    forest: a fitted forest of scikit-learn; X_train: (n_train, d), what it was fitted on, in that order; X: (n, d).
    Raises ValueError if X_train is something else, or if weights of objects or classes went into the leaves.
    """
    check_is_fitted(forest)
    leaves, at = forest.apply(X_train), forest.apply(X)  # (n_train, trees), (n, trees)
    trees = [estimator.tree_ for estimator in forest.estimators_]
    first = np.cumsum([0, *(tree.node_count for tree in trees)])  # number of each tree's first node
    shares = np.empty(leaves.shape)
    for t, (tree, drawn) in enumerate(zip(trees, forest.estimators_samples_, strict=True)):
        times, size = np.bincount(drawn, minlength=len(leaves)), tree.weighted_n_node_samples
        here = np.unique(leaves[:, t])
        if len(times) != len(leaves) or not np.allclose(
                np.bincount(leaves[:, t], times, tree.node_count)[here], size[here]):
            raise ValueError(f"the leaves of tree {t} do not hold the rows of X_train ({len(leaves)}) that were drawn "
                             "for it; pass the rows that the forest was fitted on, in that order, and fit it without "
                             "sample_weight and class_weight.")
        shares[:, t] = times / size[leaves[:, t]]

    def by_leaf(values, nodes):
        rows, columns = len(nodes), (nodes + first[:-1]).ravel()
        return sp.csr_array((values.ravel(), columns, np.arange(rows + 1) * len(trees)), shape=(rows, first[-1]))

    weights = (by_leaf(np.full(at.shape, 1 / len(trees)), at) @ by_leaf(shares, leaves).T).tocsr()
    weights.eliminate_zeros()
    return weights


def layer_attributions(neighbors: LayerNeighbors, layers: Iterable[int | str], k: int) -> sp.csr_array:
    """Weights when the k nearest of several layers vote together (Papernot and McDaniel 2018, "Deep k-nearest
    neighbors"): scipy CSR (n_test, n_train), rows with sum 1.

    neighbors: `LayerNeighbors`; layers: those that vote, all of which were searched. Raises ValueError for a layer or k
    that was not searched.
    """
    layers = list(layers)
    if not layers or any(layer not in neighbors.names for layer in layers):
        raise ValueError(f"layers={layers!r} is empty or not all searched; choose some of "
                         f"{', '.join(map(repr, neighbors.names))}.")
    integer("k", k, 1, neighbors.indices[layers[0]].shape[1], " (so many neighbours were searched)")
    indices = np.concatenate([neighbors.indices[layer][:, :k] for layer in layers], axis=1)  # (n_test, layers * k)
    n, votes = indices.shape
    weights = sp.csr_array((np.full(n * votes, 1 / votes), indices.ravel(), np.arange(n + 1) * votes),
                           shape=(n, len(neighbors.train_labels)))
    weights.sum_duplicates()
    return weights


def _kernel(kernel, m):
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or len(kernel) != kernel.shape[1]:
        raise ValueError(f"kernel has shape {kernel.shape}; pass the similarity of all pairs of objects, (n, n).")
    return kernel, integer("m", m, 1, len(kernel), f" (there are {len(kernel)} objects)")


def prototypes(kernel: np.ndarray, m: int) -> np.ndarray:
    """The m objects that together stand best for all: indices (m,), in the order in which they were chosen.

    Greedy choice that maximises 2 mean k(x, z) - mean k(z, z') over all objects x and prototypes z, z', that is, which
    brings the maximum mean discrepancy between the two down fastest (Kim, Khanna and Koyejo 2016, "Examples are not
    enough, learn to criticize!"). kernel: (n, n), symmetric and positive semi-definite.
    """
    kernel, m = _kernel(kernel, m)
    mean, own = kernel.mean(1), np.diag(kernel)
    chosen: list[int] = []
    inside = np.zeros(len(kernel))  # inside: similarity to the chosen, summed
    for size in range(1, m + 1):
        value = 2 * size * mean - 2 * inside - own  # what depends on the next one, times size²
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        inside = inside + kernel[chosen[-1]]
    return np.array(chosen)


def criticisms(kernel: np.ndarray, chosen: np.ndarray, m: int) -> np.ndarray:
    """The m objects that the prototypes `chosen` stand for least, yet differ from each other: indices (m,).

    Greedy choice that maximises the sum of |mean k(x, c) - mean k(z, c)| over the criticisms c (x: all objects, z:
    prototypes) plus log det of the criticisms' kernel, which keeps them apart (Kim, Khanna and Koyejo 2016).
    """
    kernel, m = _kernel(kernel, m)
    integer("m", m, 1, len(kernel) - len(chosen), f" (all {len(kernel)} objects but {len(chosen)} prototypes)")
    witness = np.abs(kernel.mean(1) - kernel[:, chosen].mean(1))
    # What is left of each k(c, c) after the criticisms found: log det grows by its logarithm (Cholesky).
    left, factors = np.diag(kernel).astype(float), np.empty((0, len(kernel)))
    found: list[int] = []
    for _ in range(m):
        value = witness + np.log(np.maximum(left, 1e-12))
        value[[*chosen, *found]] = -np.inf
        best = int(value.argmax())
        factor = (kernel[best] - factors[:, best] @ factors) / np.sqrt(max(left[best], 1e-12))
        found, factors, left = [*found, best], np.vstack([factors, factor]), left - factor**2
    return np.array(found)


def counterfactuals(X_train: np.ndarray, train_predictions: np.ndarray, X: np.ndarray, predictions: np.ndarray,
                    k: int = 1, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training objects that are predicted otherwise: (distances, indices), each (n, k), nearest first.

    They are real objects of the data where others synthesise one ("native" counterfactuals, Keane and Smyth 2020).
    X_train: (n_train, d), with the model's classes train_predictions (n_train,); X: (n, d), with predictions (n,).
    Raises ValueError if fewer than k training objects have another class.
    """
    train_predictions, predictions = np.asarray(train_predictions), np.asarray(predictions)
    distances, indices = np.empty((len(X), k), np.float32), np.empty((len(X), k), np.int64)
    for label in np.unique(predictions):
        rows, others = predictions == label, np.flatnonzero(train_predictions != label)
        integer("k", k, 1, len(others), f" ({len(others)} training objects are not predicted as class {label})")
        distances[rows], at = kneighbors(X_train[others], X[rows], k, metric)
        indices[rows] = others[at]
    return distances, indices


def captum_neighbors(model: torch.nn.Module, layer: int | str, train_images: np.ndarray, images: np.ndarray, k: int,
                     folder: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k training images most similar at a layer by Captum's `SimilarityInfluence`: (cosines, indices), (n, k).

    On the CPU. folder: where Captum keeps the training embeddings and finds them again in later calls, which must be
    for the same network and images and the same k (default: a temporary one). Raises ImportError if Captum is
    not installed.
    """
    try:
        from captum.influence import SimilarityInfluence
        from captum.influence._core.similarity_influence import cosine_similarity
    except ImportError:
        raise ImportError("captum_neighbors needs Captum, which is not installed: pip install ebe-utils[methods], or "
                          "pip install captum") from None
    name, (model, _) = layer_name(model, layer), on_device(model, "cpu")
    n = len(train_images)
    integer("k", k, 1, n, f" (there are {n} training images)")

    def cosine(queries, rows):
        # With a single layer Captum 0.9 passes a list; and its view() refuses channels-last embeddings.
        queries = queries[0] if isinstance(queries, list) else queries
        return cosine_similarity(queries.flatten(1), rows.flatten(1))

    # Captum takes the k best of each batch: none, not even the last, may have fewer than k.
    size = next(size for size in range(min(n, max(k, 256)), n + 1) if n % size == 0 or n % size >= k)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        train = torch.utils.data.TensorDataset(scale(as_tensor(train_images)))
        method = SimilarityInfluence(model, name, train, str(folder or temporary), "network",
                                     similarity_metric=cosine, batch_size=size)
        indices, cosines = method.influence(scale(as_tensor(images)), top_k=k)[name]
    return cosines.numpy(), indices.numpy()
