"""Intervals and tests, for the whole repository: what is measured on test images is measured on a sample."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap, norm

from .checks import one_of


def paired_difference(together, a, b, alpha=0.05):
    """Two predictors on the same test images: difference of their accuracies (a minus b), interval, McNemar's p.

    together: `joint_correctness`. The interval is Wald's for paired proportions, at confidence 1 - alpha; p is that of
    the exact test on the images that only one of them gets right (McNemar 1947). Raises ValueError for an unknown
    predictor.
    """
    found = _differences(together, [(a, b)], alpha).iloc[0]
    only_a, discordant = int(found["only_a"]), int(found["only_a"] + found["only_b"])
    p = binomtest(only_a, discordant).pvalue if discordant else 1.0
    return {**found[["difference", "low", "high"]], "p": p}


def _differences(together, pairs, alpha):
    """A row for each pair (a, b): how many only one gets right, difference in accuracy, and Wald's interval."""
    n = together.loc["all", "all"]
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        one_of("predictor", name, together.index)
    a, b = ([together.index.get_loc(name) for name in side] for side in zip(*pairs, strict=True))
    both = together[together.index].to_numpy()
    only_a, only_b = both[a, a] - both[a, b], both[b, b] - both[a, b]
    difference = (only_a - only_b) / n
    half = norm.ppf(1 - alpha / 2) * np.sqrt(np.maximum(only_a + only_b - (only_a - only_b) ** 2 / n, 0)) / n
    return pd.DataFrame({"only_a": only_a, "only_b": only_b, "difference": difference, "low": difference - half,
                         "high": difference + half})


def draw_accuracies(together, draws=4000, seed=0):
    """Accuracies as other test sets of the same size would give them, (draws, predictors) DataFrame.

    Normal, with the means and covariances of the counts: what a bootstrap of the test images tends to.
    """
    n = together.loc["all", "all"]
    counts = together.drop(index="all", columns="all")
    mean = np.diag(counts) / n
    covariance = (counts.to_numpy() / n - np.outer(mean, mean)) / n
    found = np.random.default_rng(seed).multivariate_normal(mean, covariance, draws, method="eigh")
    return pd.DataFrame(found, columns=counts.columns)


def interval(*samples, statistic=np.mean, level=0.95, resamples=1000):
    """(low, high): percentile bootstrap of statistic(*samples), drawing rows of all samples together (scipy)."""
    found = bootstrap(samples, statistic, paired=True, n_resamples=resamples, confidence_level=level,
                      method="percentile", random_state=0)
    return tuple(float(end) for end in found.confidence_interval)


def compare(right, against, alpha=0.05):
    """Predictors on the same images, each against one of them: accuracy, difference, low, high, p, a row for each.

    right: {name: (n,) booleans, which images it gets right}; against: one of the names. difference: its accuracy
    minus that one's, with the interval and p of `claims.paired`. alpha: for all rows together (Bonferroni).
    """
    one_of("against", against, tuple(right))
    rows = np.stack([np.ones_like(right[against]), *right.values()]).astype(int)
    names = ["all", *right]
    together = pd.DataFrame(rows @ rows.T, names, names)
    alpha = alpha / max(1, len(right) - 1)
    return pd.DataFrame([{"name": name, "accuracy": right[name].mean(),
                          **paired_difference(together, name, against, alpha)} for name in right])
