"""How sure? Credibility and confidence from the neighbours, prediction sets, calibration, and prediction depth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .checks import real
from .votes import vote_shares

if TYPE_CHECKING:
    from .layer_neighbors import LayerNeighbors


def nonconformity(neighbors: LayerNeighbors, layers: Iterable[int | str], k: int, classes: int) -> np.ndarray:
    """(n, classes): neighbours at all `layers` together whose label is not that class (Papernot & McDaniel 2018)."""
    return np.sum([k - k * vote_shares(neighbors.indices[layer][:, :k], neighbors.train_labels, classes=classes)
                   for layer in layers], axis=0)


def conformal(calibration: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n, classes): p-value of each class, the share of calibration images that conform no better to their own.

    calibration: nonconformity (m, classes) of images that were not trained on, labels: their classes; scores:
    nonconformity (n, classes) of the images in question. The empirical p-value of Papernot and McDaniel; for sets
    with a guaranteed coverage take `p_values`, which counts the image in question as well.
    """
    own = np.sort(calibration[np.arange(len(labels)), labels])
    return 1 - np.searchsorted(own, scores, side="left") / len(own)


def p_values(own: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(1 + calibration images that conform no better) / (m + 1), of the shape of `scores`.

    own: (m,) nonconformity of held-out images, each to its own class; scores: (...) in question. If a new image is
    drawn as those were, the p-value of its true class is at most a with probability at most a, whatever the score
    (Vovk, Gammerman and Shafer 2005; split conformal prediction).
    """
    own = np.sort(np.asarray(own, float))
    return (len(own) - np.searchsorted(own, scores, side="left") + 1) / (len(own) + 1)


def prediction_sets(p: np.ndarray, coverage: float) -> np.ndarray:
    """(n, classes) booleans: the classes whose p-value is above 1 - coverage.

    The true class is among them with probability `coverage` at least, over calibration and new images together. A set
    may be empty: no class conforms as the held-out images do to theirs. ValueError unless 0 < coverage < 1.
    """
    level = 1 - check_share("coverage", coverage)
    return np.round(p, 12) > round(level, 12)


def check_share(name: str, value: float) -> float:
    """`value` if it is a number between 0 and 1, both excluded; TypeError or ValueError otherwise."""
    number = real(name, value)
    if number >= 1:
        raise ValueError(f"{name}={value} is out of range; pass a number between 0 and 1.")
    return number


def credibility_confidence(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(credibility, confidence), (n,) each: the largest p-value, and one minus the second largest."""
    second, first = np.sort(p, 1)[:, -2:].T
    return first, 1 - second


def reliability(confidence: np.ndarray, right: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Of the images in each bin of confidence: confidence, accuracy (means), images. A reliability diagram's table.

    Σ |confidence - accuracy| · images / n is the expected calibration error (Guo et al. 2017).
    """
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": at, "confidence": confidence, "accuracy": np.asarray(right, float), "images": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"}).reset_index()


def prediction_depth(votes: np.ndarray, network: np.ndarray) -> np.ndarray:
    """(n,): layers after which every deeper layer's vote is what the network says (Baldock et al. 2021).

    votes: (n, layers), shallow to deep; network: (n,). 0: so from the first layer on; layers: not even the last.
    """
    same = votes == network[:, None]
    return votes.shape[1] - same[:, ::-1].cumprod(1).sum(1)
