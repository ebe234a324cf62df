"""Beyond the paper: what an explanation by examples is worth, one short function for each metric.

Throughout: indices (n, k), the training images that explain n test images, nearest first; weights (n, k), their
attribution; labels (n_train,), the classes of the training images. A result (n,) has one value per test image;
`interval` says how far its mean would move with other test images. All but the counts are shares from 0 to 1.
"""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap, rankdata
from sklearn.metrics import auc, roc_curve

from .attribution import effective_number as effective_number  # a metric, too
from .attribution import one_hot
from .checks import integer, real

RANDOM, ANOTHER = "random", "another's"  # explanations made wrong on purpose


def with_controls(neighbors, layer, seed=0):
    """`LayerNeighbors` with two further layers that explain nothing, for every metric to fail on.

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


def interval(*samples, statistic=np.mean, level=0.95, resamples=1000):
    """(low, high): percentile bootstrap of statistic(*samples), drawing rows of all samples together (scipy)."""
    found = bootstrap(samples, statistic, paired=True, n_resamples=resamples, confidence_level=level,
                      method="percentile", random_state=0)
    return tuple(float(end) for end in found.confidence_interval)


# --- what the weights say ----------------------------------------------------------------------------------------


def vote_shares(indices, labels, weights=None, classes=None):
    """weights · one_hot(labels), (n, classes); uniform weights if none are given (the paper's section 2).

    Rounded to twelve digits, so that equal shares are equal in whatever order they are added.
    """
    weights = np.full(indices.shape, 1 / indices.shape[1]) if weights is None else np.asarray(weights, float)
    _same_shape("weights", weights, indices)
    return np.einsum("nk,nkc->nc", weights, one_hot(labels, classes)[indices]).round(12)


def log_loss(shares, k, truth):
    """(n,): minus the logarithm of the probability that each vote gives to the true class, in nats; 0 is perfect.

    shares: (n, classes) of the votes of k examples. To them comes one vote divided evenly among the classes, so that no
    class is impossible: probability (k share + 1 / classes) / (k + 1). The proper score of Good (1952).
    """
    shares = np.asarray(shares, float)
    true = shares[np.arange(len(shares)), truth]
    return -np.log((k * true + 1 / shares.shape[1]) / (k + 1))


def completeness_error(indices, labels, weights, proba):
    """(n,): how far the attribution is from adding up: the larger of |Σw - 1| and max |w · one_hot - proba|.

    0 is complete: the weights are the whole prediction `proba` (n, classes), with nothing left over (the paper's
    section 2; the axiom of Sundararajan, Taly and Yan 2017).
    """
    rest = np.abs(vote_shares(indices, labels, weights, proba.shape[1]) - proba).max(1)
    return np.maximum(rest, np.abs(np.sum(weights, 1) - 1))


def examples_needed(weights, mass=0.9):
    """(n,): the smallest number of examples, heaviest first, that have at least `mass` of the weight."""
    real("mass", mass)
    heaviest = -np.sort(-np.asarray(weights, float), 1)
    return (heaviest.cumsum(1) < mass - 1e-12).sum(1) + 1


# --- faithful to the network? --------------------------------------------------------------------------------------


def fidelity(proba, network_proba, truth):
    """Of the vote to the network: agreement, also where the network is right and where it is wrong, and kl.

    proba, network_proba: (n, classes); truth: (n,). kl: mean KL(votes || network's softmax) in nats, 0 for equal
    distributions. A dict; NaN where there is no image to count.
    """
    said = network_proba.argmax(1)
    same, right = proba.argmax(1) == said, said == truth
    ratio = np.log(np.where(proba > 0, proba, 1)) - np.log(np.maximum(network_proba, 1e-12))
    parts = {"agreement": same, "where right": same[right], "where wrong": same[~right]}
    return {name: float(part.mean()) if len(part) else np.nan for name, part in parts.items()} | {
        "kl": float((proba * ratio).sum(1).mean())}


def reinitialised(model, stages, seed=0):
    """A copy of the network whose last `stages` children with parameters are initialised anew, from the top down.

    For the model-randomisation check (Adebayo et al. 2018): what does not change with the network does not explain it.
    """
    net = copy.deepcopy(model)
    parts = [child for child in net.children() if next(child.parameters(), None) is not None]
    stages = integer("stages", stages, 0, len(parts), ", the children of the network that have parameters")
    chance = int(np.random.SeedSequence([seed, stages]).generate_state(1)[0])  # not the weights that seed began with
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(chance)
        for part in parts[len(parts) - stages:]:
            for module in part.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return net.eval()


def rank_correlation(a, b):
    """(n,): Spearman's correlation of each row of a with that of b, distances (n, n_train) say; from -1 to 1.

    NaN where all values of a row are the same, which is no order (the distances from an embedding of zeros).
    """
    _same_shape("b", b, a)
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(spread > 0, (a * b).sum(1), np.nan) / np.where(spread > 0, spread, 1)


def removal_effects(probability, n_train, groups):
    """{name: fall of the predicted class's probability when a group of training images is taken out}.

    probability: function of the indices of the training images that remain, which retrains and returns the
    probability of the class that the full training predicts; groups: {name: indices to remove}. Compare the
    attributed examples with as many random ones (the counterfactual test of Ilyas et al. 2022).
    """
    everything = np.arange(n_train)
    full = probability(everything)
    return {name: full - probability(np.setdiff1d(everything, out)) for name, out in groups.items()}


# --- about the image? ----------------------------------------------------------------------------------------------


def label_purity(indices, labels, truth):
    """(n,): share of the examples that have the class `truth` (n,) of the image explained."""
    return (labels[indices] == truth[:, None]).mean(1)


def identical_class(indices, labels, predicted):
    """(n,) 0 or 1: has the first example the class that is predicted? (identical-class test, Hanawa et al. 2021).

    With the finer labels that a network trained on merged classes never saw, and the true finer labels for
    `predicted`, this is their identical-subclass test.
    """
    return (labels[indices[:, 0]] == predicted).astype(float)


def flip_labels(labels, share, classes, seed=0):
    """(labels, flipped): a `share` of the labels replaced by another class, and which (booleans), drawn by seed."""
    real("share", share)
    rng = np.random.default_rng(seed)
    flipped = np.zeros(len(labels), bool)
    flipped[rng.permutation(len(labels))[:round(share * len(labels))]] = True
    return np.where(flipped, (labels + rng.integers(1, classes, len(labels))) % classes, labels), flipped


def leave_one_out(indices, positions=None, values=None):
    """(n, k) from (n, k + 1): neighbours of training images among all of them, each one's own entry dropped.

    positions: (n,) of these images in the training set, by default 0 to n - 1. values: (n, k + 1), by default the
    indices, of which the entries to keep are returned (the distances, say).
    """
    own = indices == (np.arange(len(indices)) if positions is None else positions)[:, None]
    own[~own.any(1), -1] = True  # crowded out by copies of itself
    return (indices if values is None else values)[~own].reshape(len(indices), -1)


def found_against_checked(flipped, suspicion):
    """(checked, found): what share of the mislabelled is found when a share of all is checked, most suspicious first.

    The curve of Koh & Liang (2017, figure 5); images equally suspicious come in random order, on average. Its area
    (`koh_liang_area`) is p / 2 + (1 - p) · ROC-AUC, with p the share of mislabelled images.
    """
    others, found, _ = roc_curve(flipped, suspicion, drop_intermediate=False)
    p = np.mean(flipped)
    return p * found + (1 - p) * others, found


def koh_liang_area(flipped, suspicion):
    """Area under `found_against_checked`: 0.5 for a random order, 1 - p / 2 if the p mislabelled all come first."""
    return float(auc(*found_against_checked(flipped, suspicion)))


def plant(images, side=5):
    """A copy of the images (n, C, H, W) with a mark: a square as bright as can be in the lower right corner."""
    images = images.clone()
    images[..., -side:, -side:] = 255 if images.dtype == torch.uint8 else 1
    return images


def carrying(indices, marked):
    """(n,): share of the examples that carry a mark; marked: (n_train,) booleans."""
    return marked[indices].mean(1)


# --- stable, and spread? -------------------------------------------------------------------------------------------


def jaccard(a, b):
    """(n,): |A ∩ B| / |A ∪ B| of two explanations (n, k) of each image, regardless of order."""
    _same_shape("b", b, a)
    both = (a[:, :, None] == b[:, None, :]).any(2).sum(1)
    return both / (2 * a.shape[1] - both)


def rank_biased_overlap(a, b, p=0.9):
    """(n,): extrapolated rank-biased overlap of two ranked explanations (n, k): RBO_ext of Webber et al. (2010).

    p: the persistence of a reader who goes on to the next rank with that probability. 1 for equal rankings.
    """
    _same_shape("b", b, a)
    depth = np.arange(1, a.shape[1] + 1)
    # Two items meet at the depth where the later of them has appeared.
    met = np.where(a[:, :, None] == b[:, None, :], np.maximum(depth[:, None], depth), 0)
    overlap = np.stack([((met > 0) & (met <= d)).sum((1, 2)) for d in depth], 1) / depth
    return overlap[:, -1] * p**depth[-1] + (1 - p) / p * (overlap * p**depth).sum(1)


def k_occurrence(indices, n_train):
    """(n_train,): in how many explanations each training image appears.

    Its skewness (`scipy.stats.skew`) is the hubness of Radovanović et al. (2010), about 0 if all are equally popular;
    the share above zero is the top-k cardinality, how much of the training set explanations ever draw on.
    """
    return np.bincount(np.ravel(indices), minlength=n_train)


# --- how sure? -----------------------------------------------------------------------------------------------------


def nonconformity(neighbors, layers, k, classes):
    """(n, classes): neighbours at all `layers` together whose label is not that class (Papernot & McDaniel 2018)."""
    return sum(k - k * vote_shares(neighbors.indices[layer][:, :k], neighbors.train_labels, classes=classes)
               for layer in layers)


def conformal(calibration, labels, scores):
    """(n, classes): p-value of each class, the share of calibration images that conform no better to their own.

    calibration: nonconformity (m, classes) of images that were not trained on, labels: their classes; scores:
    nonconformity (n, classes) of the images in question.
    """
    own = np.sort(calibration[np.arange(len(labels)), labels])
    return 1 - np.searchsorted(own, scores, side="left") / len(own)


def credibility_confidence(p):
    """(credibility, confidence), (n,) each: the largest p-value, and one minus the second largest."""
    second, first = np.sort(p, 1)[:, -2:].T
    return first, 1 - second


def reliability(confidence, right, bins=10):
    """Of the images in each bin of confidence: confidence, accuracy (means), images. A reliability diagram's table.

    Σ |confidence - accuracy| · images / n is the expected calibration error (Guo et al. 2017).
    """
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": at, "confidence": confidence, "accuracy": np.asarray(right, float), "images": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"}).reset_index()


def prediction_depth(votes, network):
    """(n,): layers after which every deeper layer's vote is what the network says (Baldock et al. 2021).

    votes: (n, layers), shallow to deep; network: (n,). 0: so from the first layer on; layers: not even the last.
    """
    same = votes == network[:, None]
    return votes.shape[1] - same[:, ::-1].cumprod(1).sum(1)


def _same_shape(name, value, like):
    if np.shape(value) != np.shape(like):
        raise ValueError(f"{name} has shape {np.shape(value)}; pass one of shape {np.shape(like)}, a row for each "
                         "image explained.")
