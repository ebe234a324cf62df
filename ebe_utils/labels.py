"""Labels as users have them, integers or texts, and the class indices that votes are counted by."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

_MOST_CLASSES = 10_000  # without names: more than that are labels that do not count from 0


def check_count(labels: np.ndarray) -> None:
    """ValueError if integer labels (n,), taken as indices, count more classes than there can be."""
    if labels.max() >= max(_MOST_CLASSES, len(labels)):
        raise ValueError(f"labels run up to {labels.max()} for {len(labels)} images; pass class indices that "
                         "count from 0 (np.unique(labels, return_inverse=True)[1]), or name all classes.")


def encode_labels(labels: np.ndarray, classes: Sequence[str] = ()) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """(classes, their names, class index of each label) of labels (n,), integers or texts.

    classes: all of them, in the order of the network's outputs; without them, integers from 0 are indices themselves,
    and other labels are sorted, as scikit-learn does. With integer labels the classes are 0, 1, 2, ... and `classes`
    their names. Raises ValueError for labels that are not among the classes, or that no number of
    classes can reach.
    """
    if labels.dtype.kind in "iu" and (len(classes) or labels.min() >= 0):
        if not len(classes):
            check_count(labels)
        names = tuple(map(str, classes if len(classes) else range(int(labels.max()) + 1)))
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(names)} classes; "
                             f"pass labels from 0 to {len(names) - 1}, or the names of all classes.")
        return np.arange(len(names)), names, labels.astype(np.int64)
    known = np.asarray(classes) if len(classes) else np.unique(labels)
    places = {label: i for i, label in enumerate(known.tolist())}
    if missing := sorted(set(labels.tolist()) - set(places), key=str):
        raise ValueError(f"label {missing[0]!r} is not among the classes {', '.join(map(str, known))}; pass the names "
                         "of all classes.")
    return known, tuple(map(str, known)), np.array([places[label] for label in labels.tolist()], np.int64)


def warn_of_other_classes(network_proba: np.ndarray, comparable: bool, labels: np.ndarray, classes: int) -> None:
    """Warn the user, two calls up, where the network's outputs (n, outputs) are not the `classes` of the labels (n,).

    comparable: whether there are as many outputs as classes; if so, a network that is right less often than by chance
    has them in another order.
    """
    said = network_proba.shape[1]
    if not comparable:
        warnings.warn(f"the network has {said} outputs and the labels {classes} classes: its own answer is shown by "
                      "number and not compared with the vote. If these are the network's classes, pass the names of "
                      "all of them: fit(..., classes=[...]).", stacklevel=3)
    elif labels.size >= 50 and (right := np.mean(network_proba.argmax(1) == labels)) < 1 / said:
        warnings.warn(f"the network gives only {right:.0%} of the training examples their label, less than chance: "
                      "are its outputs in the order of the classes? Pass fit(..., classes=[...]).", stacklevel=3)
