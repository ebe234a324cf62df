"""The paper's eight claims, turned into margins that a sweep can answer (sections 3.3 and 4 of the paper).

The test images are a sample: every margin has an interval, by the rule of `ebe_utils.statistics`. Where the paper's
words can be read in two ways, both readings are judged (1a and 1b, 2a and 2b).
"""

import numpy as np
import pandas as pd

from ..statistics import draw_accuracies, paired_differences, percentile_interval
from ..tables import KS

MIDDLE = range(6, 16)  # stages 2 and 3 of ResNet18
PAR = 0.01  # "on a par", "clearly below": one point of accuracy
NO_LOSS = 0.002  # "at no loss of accuracy": two tenths of a point


def judge_claims(together: pd.DataFrame, dataset: str, k: int = 10, alpha: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """The claims as a DataFrame: claim, text, measured, low, high, verdict.

    together: `joint_correctness` with the 20 convolutional layers of ResNet18 and the `KS`. measured, low, high: a
    margin in accuracy that the claim says is positive, with its interval at confidence 1 - alpha. verdict: "holds" if
    the interval lies above zero, "does not hold" if it lies below, else "undecided"; or "does not apply" if the claim
    is about another data set than `dataset`, and the margin is given all the same. Where a claim compares many pairs
    (1, 2, 5, 6, 8), the margin is that of the pair that decides. The minimum of many differences is biased downwards,
    so the interval is corrected for their number (Bonferroni). k: in claims 5 and 6, the largest of the table that is
    not above it. seed: of the accuracies drawn for claims 3, 4 and 7. Raises ValueError if the table cannot answer.
    """
    layers = range(1, 21)
    ks = [j for j in KS if all(f"{layer}/{j}" in together for layer in layers)]
    if len(ks) < 2:
        raise ValueError(f"the claims are about ResNet18's layers 1 to 20 and at least two of k = {KS}; this table has "
                         f"{', '.join(together.index)}. Sweep with layers='all' and a larger k_max.")
    k, ten = (max((j for j in ks if j <= most), default=ks[0]) for most in (k, 10))
    accuracy = pd.Series(np.diag(together), together.index) / together.loc["all", "all"]
    drawn = draw_accuracies(together, seed=seed)
    found = []

    def claim(number, text, about, measured, low, high):
        verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
        found.append({"claim": number, "text": text, "measured": measured, "low": low, "high": high,
                      "verdict": verdict if dataset in about else "does not apply"})

    def pairs(number, text, about, compared, slack=0.0, sign=1, every=True):
        """sign * (a - b) + slack is positive for every pair, or for some pair."""
        rows = paired_differences(together, compared, alpha / len(compared))
        low, high = (rows["low"], rows["high"]) if sign == 1 else (-rows["high"], -rows["low"])
        ends = [e + slack for e in (sign * rows["difference"], low, high)]
        claim(number, text, about, *((e.min() if every else e.max()) for e in ends))

    def simulated(number, text, about, margin):
        claim(number, text, about, margin(accuracy.to_frame().T).item(), *percentile_interval(margin(drawn), alpha))

    def mean(acc, layers):
        return pd.concat([acc[[f"{layer}/{j}" for j in ks]].mean(axis=1) for layer in layers], axis=1)

    def beats(layers):
        return [(f"{layer}/{j}", "network") for layer in layers for j in ks]

    def spread(acc):
        grid = np.stack([acc[[f"{layer}/{j}" for j in ks]] for layer in layers], 1)  # (draws, layers, ks)
        return pd.Series(np.ptp(grid, axis=1).mean(1) - 2 * np.ptp(grid, axis=2).mean(1))

    every = ("mnist", "fashion_mnist", "cifar10")
    outside = [layer for layer in layers if layer not in MIDDLE]
    best = layers[int(mean(accuracy.to_frame().T, layers).to_numpy().argmax())]
    larger = [f"{best}/{j}" for j in ks if j > ten] or [f"{best}/{ten}"]
    pairs("1a", "MNIST: every layer but the first (“top-most” read as shallowest) beats ResNet18, whatever k: smallest "
          "lead", every[:1], beats(range(2, 21)))
    pairs("1b", "MNIST: so does every layer but layer 20 (“top-most” read as deepest): smallest lead", every[:1],
          beats(range(1, 20)))
    pairs("2a", "Fashion-MNIST: so do layers 9 to 20 (“below” read as deeper): smallest lead", every[1:2],
          beats(range(9, 21)))
    pairs("2b", "Fashion-MNIST: so do layers 1 to 9 (“below” read as smaller): smallest lead", every[1:2],
          beats(range(1, 10)))
    simulated("3", "A middle layer (6 to 15) is best, not a deep one: its lead, mean over k", every[:2],
              lambda acc: mean(acc, MIDDLE).max(axis=1) - mean(acc, outside).max(axis=1))
    simulated("4", "The layer matters far more than k: range over layers minus twice the range over k", every, spread)
    pairs("5", "CIFAR-10: layers 16 and 19 are within a point of ResNet18: smaller of the distances to that", every[2:],
          [(f"16/{k}", "network"), (f"19/{k}", "network")], PAR)
    pairs("6", "CIFAR-10: layer 15 is more than a point below 14 and 16: what is beyond it", every[2:],
          [(f"15/{k}", f"14/{k}"), (f"15/{k}", f"16/{k}")], -PAR, -1)
    simulated("7", f"CIFAR-10: k = {ten} gains half a point over k = {ks[0]}, a larger k at most that more "
              f"(layer {best})", every[2:], lambda acc: pd.concat([
                  acc[f"{best}/{ten}"] - acc[f"{best}/{ks[0]}"] - PAR / 2,
                  acc[f"{best}/{ten}"] + PAR / 2 - acc[larger].max(axis=1)], axis=1).min(axis=1))
    pairs("8", "At most 10 examples lose no accuracy (0.2 points) at some layer: what the best is above that",
          (*every, dataset), [(f"{layer}/{j}", "network") for layer in layers for j in ks if j <= 10], NO_LOSS,
          every=False)
    return pd.DataFrame(found)
