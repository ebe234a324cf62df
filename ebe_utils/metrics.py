"""Metrics of explanations by examples, and explanations made wrong on purpose that each metric has to rank lower.

Every metric gives a value for each image explained, (n,), so that means, intervals and comparisons come out of
`ebe_utils.statistics`. indices: (n, k), the training images of each explanation, nearest first.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from .checks import real, same_shape
from .layer_neighbors import LayerNeighbors
from .votes import vote_shares

RANDOM, ANOTHER = "random", "another's"  # explanations made wrong on purpose


def with_controls(neighbors: LayerNeighbors, layer: int | str, seed: int = 0) -> LayerNeighbors:
    """`LayerNeighbors` with two further layers that explain nothing: negative controls for every metric.

    "random": random training images. "another's": those that `layer` found for another test image.
    """
    if layer not in neighbors.names:
        raise ValueError(f"layer={layer!r} was not searched; choose one of {', '.join(map(repr, neighbors.names))}.")
    near, rng = neighbors.indices[layer], np.random.default_rng(seed)
    chance = [rng.choice(len(neighbors.train_labels), near.shape[1], replace=False) for _ in near]
    order, other = rng.permutation(len(near)), np.empty_like(near)
    other[order] = near[np.roll(order, 1)]  # no image keeps its own, even in a test set sorted by class
    found = {RANDOM: np.array(chance, near.dtype), ANOTHER: other}
    same = dict.fromkeys(found, neighbors.distances[layer])
    return replace(neighbors, names=neighbors.names | {name: name for name in found},
                   indices=neighbors.indices | found, distances=neighbors.distances | same,
                   dimensions=neighbors.dimensions | dict.fromkeys(found, 0))


def log_loss(shares: ArrayLike, k: int, truth: np.ndarray) -> np.ndarray:
    """(n,): minus the logarithm of the probability that each vote gives to the true class, in nats; 0 is perfect.

    shares: (n, classes) of the votes of k examples. To them comes one vote divided evenly among the classes, so that no
    class is impossible: probability (k share + 1 / classes) / (k + 1). The proper score of Good (1952).
    """
    shares = np.asarray(shares, float)
    true = shares[np.arange(len(shares)), truth]
    return -np.log((k * true + 1 / shares.shape[1]) / (k + 1))


def completeness_error(indices: np.ndarray, labels: np.ndarray, weights: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """(n,): how far the attribution is from adding up: the larger of |Σw - 1| and max |w · one_hot - proba|.

    0 is complete: the weights are the whole prediction `proba` (n, classes), with nothing left over (the paper's
    section 2; the axiom of Sundararajan, Taly and Yan 2017).
    """
    rest = np.abs(vote_shares(indices, labels, weights, proba.shape[1]) - proba).max(1)
    return np.maximum(rest, np.abs(np.sum(weights, 1) - 1))


def examples_needed(weights: ArrayLike, mass: float = 0.9) -> np.ndarray:
    """(n,): the smallest number of examples, heaviest first, that have at least `mass` of the weight."""
    real("mass", mass)
    heaviest = -np.sort(-np.asarray(weights, float), 1)
    return (heaviest.cumsum(1) < mass - 1e-12).sum(1) + 1


def label_purity(indices: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,): share of the examples that have the class `truth` (n,) of the image explained."""
    return (labels[indices] == truth[:, None]).mean(1)


def identical_class(indices: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(n,) 0 or 1: has the first example the class that is predicted? (identical-class test, Hanawa et al. 2021).

    With the finer labels that a network trained on merged classes never saw, and the true finer labels for
    `predicted`, this is their identical-subclass test.
    """
    return (labels[indices[:, 0]] == predicted).astype(float)


def plant_shortcut(images: torch.Tensor, side: int = 5) -> torch.Tensor:
    """A copy of the images (n, C, H, W) with a shortcut: a square of the largest value in the lower right corner.

    The patch trigger of Gu et al. (2017, "BadNets"). uint8, or floats from 0 to 1.
    """
    images = images.clone()
    images[..., -side:, -side:] = 255 if images.dtype == torch.uint8 else 1
    return images


def shortcut_share(indices: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """(n,): share of the examples that carry the shortcut; marked: (n_train,) booleans."""
    return marked[indices].mean(1)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,): |A ∩ B| / |A ∪ B| of two explanations (n, k) of each image, regardless of order."""
    same_shape("b", b, a)
    both = (a[:, :, None] == b[:, None, :]).any(2).sum(1)
    return both / (2 * a.shape[1] - both)


def rank_biased_overlap(a: np.ndarray, b: np.ndarray, p: float = 0.9) -> np.ndarray:
    """(n,): extrapolated rank-biased overlap of two ranked explanations (n, k): RBO_ext of Webber et al. (2010).

    p: the persistence of a reader who goes on to the next rank with that probability. 1 for equal rankings.
    """
    same_shape("b", b, a)
    depth = np.arange(1, a.shape[1] + 1)
    # Two items meet at the depth where the later of them has appeared.
    met = np.where(a[:, :, None] == b[:, None, :], np.maximum(depth[:, None], depth), 0)
    overlap = np.stack([((met > 0) & (met <= d)).sum((1, 2)) for d in depth], 1) / depth
    return overlap[:, -1] * p**depth[-1] + (1 - p) / p * (overlap * p**depth).sum(1)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,): Spearman's correlation of each row of a with that of b, distances (n, n_train) say; from -1 to 1.

    NaN where all values of a row are the same, which is no order (the distances from an embedding of zeros).
    """
    same_shape("b", b, a)
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(spread > 0, (a * b).sum(1), np.nan) / np.where(spread > 0, spread, 1)


def k_occurrence(indices: ArrayLike, n_train: int) -> np.ndarray:
    """(n_train,): in how many explanations each training image appears.

    Its skewness (`scipy.stats.skew`) is the hubness of Radovanović et al. (2010), about 0 if all are equally popular;
    the share above zero is the top-k cardinality, how much of the training set explanations ever draw on.
    """
    return np.bincount(np.ravel(indices), minlength=n_train)
