"""Intervals and tests, for the whole repository: what is measured on test images is measured on a sample.

One rule: **the interval decides**. A difference is statistically significant if its interval excludes zero, and a
p-value is always that of the test which the interval belongs to, so that p < alpha says the same thing.

Two predictors on the same images (`paired_difference`): they differ only on the images that one of them gets right
and the other wrong, b and c of n. The interval is the adjusted Wald interval of Bonett and Price (2012): one image is
added to b and one to c, and the difference (b - c)/(n + 2) gets the usual normal interval for paired proportions. So
it keeps a width where b = c = 0 and Wald's own shrinks to a point. Its test is McNemar's (1947) idea, is b - c far from
0 for its standard deviation, with the same two images added. Fagerland, Lydersen and Laake (2014) compare such
intervals and recommend this one for its simplicity and coverage.
One proportion (`proportion_interval`, `proportion_error`): Wilson (1927); Agresti and Coull (1998).
Margins of many accuracies (`draw_accuracies`, `percentile_interval`): their normal approximation, with two right and
two wrong answers added to each, as in the other two.
Other statistics (`bootstrap_interval`): percentile bootstrap (Efron and Tibshirani 1993).
Many comparisons: the minimum of many differences is biased downwards, so alpha is divided by their number (Bonferroni).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap, norm

from .checks import integer, one_of

Share = TypeVar("Share", float, np.ndarray, pd.Series)


def paired_differences(together: pd.DataFrame, pairs: Iterable[tuple[str, str]], alpha: float = 0.05) -> pd.DataFrame:
    """Pairs of predictors (a, b) on the same images: only_a, only_b, difference, low, high, p; a row for each.

    together: `joint_correctness`. only_a, only_b: images that only one of the two gets right; difference: of their
    accuracies, a minus b; low, high: its interval at confidence 1 - alpha, each row on its own; p: of the interval's
    test. Raises ValueError for an unknown predictor.
    """
    n, pairs = together.loc["all", "all"], list(pairs)
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        one_of("predictor", name, together.index)
    a, b = ([together.index.get_loc(name) for name in side] for side in zip(*pairs, strict=True))
    both = together[together.index].to_numpy()
    only_a, only_b = both[a, a] - both[a, b], both[b, b] - both[a, b]
    center, other = (only_a - only_b) / (n + 2), np.array(a) != np.array(b)
    error = np.sqrt(((only_a + only_b + 2) / (n + 2) - center**2) / (n + 2))
    half = norm.ppf(1 - alpha / 2) * error * other  # a predictor does not differ from itself
    return pd.DataFrame({"only_a": only_a, "only_b": only_b, "difference": (only_a - only_b) / n,
                         "low": np.maximum(center - half, -1), "high": np.minimum(center + half, 1),
                         "p": 2 * norm.sf(np.abs(center) / error)})


def paired_difference(together: pd.DataFrame, a: str, b: str, alpha: float = 0.05) -> dict[str, float]:
    """Two predictors on the same images: difference of their accuracies (a minus b), low, high and p.

    See `paired_differences`.
    """
    found = paired_differences(together, [(a, b)], alpha).iloc[0]
    return {name: float(found[name]) for name in ("difference", "low", "high", "p")}


def compare_with(right: Mapping[str, np.ndarray], against: str, alpha: float = 0.05) -> pd.DataFrame:
    """Predictors on the same images, each against one of them: name, accuracy, difference, low, high, p.

    right: {name: (n,) booleans, which images it gets right}; against: one of the names. difference: its accuracy
    minus that one's, with interval and p of `paired_difference`. alpha: for all rows together (Bonferroni), so a row's
    difference is significant if p < alpha / (number of rows - 1).
    """
    one_of("against", against, tuple(right))
    rows = np.stack([np.ones_like(right[against]), *right.values()]).astype(int)
    names = ["all", *right]
    together = pd.DataFrame(rows @ rows.T, names, names)
    found = paired_differences(together, [(name, against) for name in right], alpha / max(1, len(right) - 1))
    found.insert(0, "name", list(right))
    found.insert(1, "accuracy", [right[name].mean() for name in right])
    return found.drop(columns=["only_a", "only_b"])


def proportion_error(share: Share, n: int) -> Share:
    """Standard error of a share of n images, or of each of an array or Series of shares.

    With two successes and two failures added (Agresti and Coull 1998): unlike √(p (1 - p) / n) it is not 0 for a share
    of 0 or 1, which no number of images makes certain.
    """
    adjusted = (n * share + 2) / (n + 4)
    return np.sqrt(adjusted * (1 - adjusted) / (n + 4))


def proportion_interval(right: ArrayLike, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of the share of ones among zeros and ones, (n,): Wilson's score interval (1927), by scipy."""
    right = np.asarray(right)
    found = binomtest(int(right.sum()), integer("the number of values", len(right), 1)).proportion_ci(
        1 - alpha, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_interval(*samples: ArrayLike, statistic: Callable = np.mean, alpha: float = 0.05, resamples: int = 1000,
                       seed: int = 0) -> tuple[float, float]:
    """(low, high): percentile bootstrap of statistic(*samples), drawing rows of all samples together (scipy).

    It knows the values that were seen and no others, so that of equal values it is a point; for zeros and ones use
    `proportion_interval` or `mean_interval`.
    """
    found = bootstrap(samples, statistic, paired=True, n_resamples=resamples, confidence_level=1 - alpha,
                      method="percentile", rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_interval(values: ArrayLike, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of a mean: `proportion_interval` of zeros and ones, `bootstrap_interval` of any other values (n,)."""
    values = np.asarray(values)
    how = proportion_interval if np.isin(values, (0, 1)).all() else bootstrap_interval
    return how(values, alpha=alpha)


def percentile_interval(draws: np.ndarray, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high): what is between the outer alpha / 2 of draws (n,) from the distribution of an estimate."""
    low, high = np.quantile(draws, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def draw_accuracies(together: pd.DataFrame, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Accuracies as other test sets of the same size would give them, (draws, predictors) DataFrame.

    Normal, with the means of the counts, and their covariances after four imagined images have been added, on which
    each predictor is right with probability 1/2, independently of the others: its variance is then `proportion_error`
    squared, and each of two predictors is alone in being right on one of the four, as in `paired_differences`. For
    many images this is what a bootstrap of the test images tends to.
    """
    n = together.loc["all", "all"]
    counts = together.drop(index="all", columns="all")
    more = counts.to_numpy() + 1 + np.eye(len(counts))  # 4 images: right in 1/2 of them, together in 1/4
    mean = np.diag(more) / (n + 4)
    covariance = (more / (n + 4) - np.outer(mean, mean)) / (n + 4)
    found = np.random.default_rng(seed).multivariate_normal(np.diag(counts) / n, covariance, draws, method="eigh")
    return pd.DataFrame(found, columns=counts.columns)
