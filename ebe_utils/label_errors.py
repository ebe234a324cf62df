"""Wrong labels in the training set: planting them, suspecting them, and how soon a suspicion finds them."""

import numpy as np
from sklearn.metrics import auc, roc_curve

from .checks import real


def flip_labels(labels: np.ndarray, share: float, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(labels, flipped): a `share` of the labels replaced by another class, and which (booleans), drawn by seed."""
    real("share", share)
    rng = np.random.default_rng(seed)
    flipped = np.zeros(len(labels), bool)
    flipped[rng.permutation(len(labels))[:round(share * len(labels))]] = True
    return np.where(flipped, (labels + rng.integers(1, classes, len(labels))) % classes, labels), flipped


def leave_one_out(indices: np.ndarray, positions: np.ndarray | None = None, values: np.ndarray | None = None
                  ) -> np.ndarray:
    """(n, k) from (n, k + 1): neighbours of training images among all of them, each one's own entry dropped.

    positions: (n,) of these images in the training set, by default 0 to n - 1. values: (n, k + 1), by default the
    indices, of which the entries to keep are returned (the distances, say).
    """
    own = indices == (np.arange(len(indices)) if positions is None else positions)[:, None]
    own[~own.any(1), -1] = True  # crowded out by copies of itself
    return (indices if values is None else values)[~own].reshape(len(indices), -1)


def suspicion(indices: np.ndarray, distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) from 0 to 1: how little its neighbours support each label.

    indices, distances: (n, k), the nearest *other* training images (`leave_one_out`); labels: (n,). The share of
    neighbours with another label, the usual k-NN score; equal shares are ordered by the distance to the nearest image
    of the same label over that plus the distance to the nearest of another one, as SelfClean has it (Gröger et al.
    2024, arXiv:2305.17048). Of labels that are not among the k, the distance is taken to be that of the k-th.
    """
    k = indices.shape[1]
    other = labels[indices] != labels[:, None]
    nearest = [np.where(side, distances, distances[:, -1:]).min(1).astype(float) for side in (~other, other)]
    total = nearest[0] + nearest[1]
    ratio = np.divide(nearest[0], total, out=np.full(len(labels), 0.5), where=total > 0)
    return (k * other.mean(1) + ratio) / (k + 1)


def confident_errors(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) booleans: labels that confident learning counts as wrong (Northcutt et al. 2021, arXiv:1911.00068).

    shares: (n, classes), out-of-sample probabilities; labels: (n,). Of the classes that are at least as probable as
    they are, on average, for images labelled so, the most probable one is another than the label.
    """
    given = np.eye(shares.shape[1], dtype=bool)[labels]
    usual = np.divide((shares * given).sum(0), given.sum(0), out=np.full(shares.shape[1], np.inf),
                      where=given.any(0))
    sure = np.where(shares >= usual - 1e-9, shares, -1)
    return (sure.max(1) > 0) & (sure.argmax(1) != labels)


def detection_curve(flipped: np.ndarray, suspicion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(checked, found): what share of the mislabelled is found when a share of all is checked, most suspicious first.

    The curve of Koh & Liang (2017, figure 5); images equally suspicious come in random order, on average. Its area
    (`koh_liang_area`) is p / 2 + (1 - p) · ROC-AUC, with p the share of mislabelled images.
    """
    others, found, _ = roc_curve(flipped, suspicion, drop_intermediate=False)
    p = np.mean(flipped)
    return p * found + (1 - p) * others, found


def koh_liang_area(flipped: np.ndarray, suspicion: np.ndarray) -> float:
    """Area under `detection_curve`: 0.5 for a random order, 1 - p / 2 if the p mislabelled all come first."""
    return float(auc(*detection_curve(flipped, suspicion)))
