"""What a search takes in: rows of finite numbers, a metric, a device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..checks import one_of

METRICS = ("cosine", "euclidean", "manhattan")
Metric = str | Callable[[np.ndarray, np.ndarray], np.ndarray]
LONGEST = 1.7e38  # length of a row; the distance of two longer ones may not fit float32


def check_metric(metric: Metric) -> Metric:
    """`metric` if it is a known name or a function; else ValueError.

    A function takes two float64 arrays, (m, d) and (n, d), and returns their distances (m, n), as those of
    `sklearn.metrics.pairwise` do (`lambda a, b: pairwise_distances(a, b, f)` makes one of an f of two vectors).
    """
    return metric if callable(metric) else one_of("metric", metric, METRICS)


def metric_name(metric: Metric) -> str:
    """What a metric is called, for people to read."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def as_rows(values: Any, what: str) -> np.ndarray:
    """(n, d) float32 from an array, a tensor or nested lists: a read-only view where nothing must be converted.

    A memory-mapped float32 array stays on disk. Raises ValueError for another shape, TypeError for anything but
    real numbers.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{what} have dtype {values.dtype}; pass real numbers.")
    if values.ndim != 2:
        raise ValueError(f"{what} have shape {values.shape}; pass one row per image, (n, dimension).")
    if values.size == 0:
        raise ValueError(f"{what} are empty (shape {values.shape}); pass at least one.")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values, np.float32).view()
    rows.flags.writeable = False  # one type of array for the compiled kernels, whatever it was made from
    return rows


def same_dimension(queries: int, train: int) -> None:
    """ValueError if queries have another dimension than the training rows."""
    if queries != train:
        raise ValueError(f"the queries have {queries} dimensions, the training embeddings {train}; embed both with "
                         "the same layer and pooling.")


def check_lengths(lengths: np.ndarray, metric: Metric, what: str, first: int = 0) -> None:
    """ValueError for a row with NaN or infinity, or too long for distances in float32.

    lengths: (n,) float64, of rows numbered from `first`.
    """
    bad = ~np.isfinite(lengths)
    if bad.any():
        raise ValueError(f"{what} contain NaN or infinite values, or some beyond float32 (first at position "
                         f"{first + bad.argmax()}); replace or remove them.")
    bad = (lengths > LONGEST) & (metric != "cosine")
    if bad.any():
        raise ValueError(f"{what} are longer than {LONGEST:.1e}, so that their distances do not fit float32 (first at "
                         f"position {first + bad.argmax()}); scale all embeddings down.")
