"""How the embeddings of a layer lie: around one direction, along few directions, and what a vote sees of the classes.

A cosine compares whole embeddings. Where most of their variance lies along directions that the classes share, the
neighbours are those of these directions, and what distinguishes the classes is not seen, even where it is there.
Dividing each principal direction by its standard deviation (whitening) makes all directions count the same.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .checks import integer
from .data import as_image_set
from .embeddings import Layers, embed
from .search import check_k, kneighbors
from .votes import vote_shares

TOP = 2  # principal directions whose share of the variance is given
RIDGE = 1e-4  # of the mean variance, added to each direction's when it is divided by


def principal_axes(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (d,), variances (d,) from large to small, axes (d, d) in columns) of embeddings (n, d), in float64."""
    mean = X.mean(0, dtype=np.float64)
    centred = X - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / max(1, len(X) - 1))
    return mean, variances[::-1].clip(0), axes[:, ::-1]


def whiten(X: np.ndarray, *others: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, ...]:
    """X and `others` along the principal axes of X (n, d), each divided by its standard deviation there; float64.

    ridge: share of the mean variance that is added to each variance, so that directions without any do not explode.
    """
    mean, variances, axes = principal_axes(X)
    scale = _deviations(variances, ridge)
    return tuple((part - mean) @ axes / scale for part in (X, *others))


def _deviations(variances, ridge=RIDGE):
    return np.sqrt(variances + ridge * max(variances.mean(), np.finfo(float).tiny))


def layer_geometry(model: nn.Module, train_set: Any, test_set: Any, layers: Layers = "all", k: int = 10,
                   pooling: str = "none", device: str | torch.device = "auto") -> pd.DataFrame:
    """How the embeddings of each layer lie, and the accuracy of k equal votes by cosine, raw, centred and whitened.

    train_set, test_set: images with labels. Returns a row for each of `layers`: layer, dimension; mean_cosine, of two
    training images; common, the share of the mean embedding in the embeddings' mean squared length; top, the share of
    the two largest principal directions in the variance; between, the share of these two directions' variance that
    lies between the classes (0: they say nothing of the class, 1: nothing else); and the accuracies raw, centred (minus
    the mean training embedding), removed (centred, without the two directions) and whitened (`whiten`). Everything runs
    from 0 to 1. The principal axes take a d × d matrix: meant for dimensions up to a few thousand. Raises ValueError
    where there are fewer training images than k.
    """
    train, test = as_image_set(train_set), as_image_set(test_set)
    check_k(integer("k", k, 1), len(train))
    single = isinstance(layers, int | np.integer) or isinstance(layers, str) and layers != "all"
    wanted: Any = [layers] if single else layers
    of_train, of_test = (dict(embed(model, part.images, wanted, pooling, device=device)) for part in (train, test))
    rows = []
    for layer in list(of_train):
        X, Q = (part.pop(layer).astype(np.float64) for part in (of_train, of_test))
        rows.append({"layer": layer, "dimension": X.shape[1], **_geometry(X, Q, train.labels, test.labels, k)})
    return pd.DataFrame(rows)


def _geometry(X, Q, labels, truth, k):
    mean, variances, axes = principal_axes(X)
    rest, asked = (X - mean) @ axes, (Q - mean) @ axes  # turned onto the principal axes: the same cosines as centred
    along = rest[:, :TOP]
    centres = np.stack([along[labels == one].mean(0) for one in labels])  # (n, TOP), of each image's class
    unit = X / np.linalg.norm(X, axis=1, keepdims=True).clip(np.finfo(float).tiny)
    scale, n = _deviations(variances), len(X)

    def accuracy(train, test):
        _, near = kneighbors(train.astype(np.float32), test.astype(np.float32), k)
        return float((vote_shares(near, labels).argmax(1) == truth).mean())

    return {"mean_cosine": ((unit.sum(0)**2).sum() - (unit**2).sum()) / max(1, n * (n - 1)),
            "common": (mean**2).sum() / max((X**2).sum() / n, np.finfo(float).tiny),
            "top": variances[:TOP].sum() / max(variances.sum(), np.finfo(float).tiny),
            "between": (centres**2).sum() / max((along**2).sum(), np.finfo(float).tiny),
            "raw": accuracy(X, Q), "centred": accuracy(rest, asked),
            "removed": accuracy(rest[:, TOP:], asked[:, TOP:]), "whitened": accuracy(rest / scale, asked / scale)}
