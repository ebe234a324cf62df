"""How sure? Credibility and confidence from the neighbours, calibration, and prediction depth."""

import numpy as np
import pandas as pd

from .votes import vote_shares


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
