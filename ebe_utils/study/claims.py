"""The paper's eight claims, turned into margins that a sweep can answer (sections 3.3 and 4 of the paper).

The test images are a sample: every margin has an interval, by the rule of `ebe_utils.statistics`. Where the paper's
words can be read in two ways, both readings are judged (1a and 1b, 2a and 2b).
"""

from collections.abc import Sequence

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
    judge = _Judge(together, layers, k, alpha, seed, "the claims are about ResNet18's layers 1 to 20 and at least two")
    every = ("mnist", "fashion_mnist", "cifar10")
    about = {"1a": every[:1], "1b": every[:1], "2a": every[1:2], "2b": every[1:2], "3": every[:2], "4": every,
             "5": every[2:], "6": every[2:], "7": every[2:], "8": (*every, dataset)}
    judge.leads("1a", "MNIST: every layer but the first (“top-most” read as shallowest) beats ResNet18, whatever k: "
                "smallest lead", range(2, 21))
    judge.leads("1b", "MNIST: so does every layer but layer 20 (“top-most” read as deepest): smallest lead",
                range(1, 20))
    judge.leads("2a", "Fashion-MNIST: so do layers 9 to 20 (“below” read as deeper): smallest lead", range(9, 21))
    judge.leads("2b", "Fashion-MNIST: so do layers 1 to 9 (“below” read as smaller): smallest lead", range(1, 10))
    judge.best_in("3", "A middle layer (6 to 15) is best, not a deep one: its lead, mean over k", MIDDLE)
    judge.spread("4", "The layer matters far more than k: range over layers minus twice the range over k")
    judge.on_par("5", "CIFAR-10: layers 16 and 19 are within a point of ResNet18: smaller of the distances to that",
                 (16, 19))
    judge.drop("6", "CIFAR-10: layer 15 is more than a point below 14 and 16: what is beyond it", [15])
    judge.ten("7", "CIFAR-10: k = {ten} gains half a point over k = {first}, a larger k at most that more (layer "
              "{best})")
    judge.few("8", "At most 10 examples lose no accuracy (0.2 points) at some layer: what the best is above that")
    return judge.table(lambda claim: dataset in about[claim])


def judge_other_claims(together: pd.DataFrame, layers: Sequence[str | int], k: int = 10, alpha: float = 0.05,
                       seed: int = 0) -> pd.DataFrame:
    """The claims asked of another network on other data, as `judge_claims` does: the same columns.

    layers: those of `joint_correctness`, from shallow to deep, at least three. A layer of the paper's 20 becomes the
    one at the same relative depth. "The network" is the one that was explained. Claim 6 is about one layer of ResNet18;
    here any layer that drops below both its neighbours fulfils it.
    """
    layers = list(layers)
    if len(layers) < 3:
        raise ValueError(f"the claims compare layers, and there are {len(layers)}; pass at least three.")
    judge = _Judge(together, layers, k, alpha, seed, "the claims need every layer and at least two")

    def at(number):
        """Position of the layer at the depth of the paper's layer `number` of 20."""
        return min(max(round(number / 20 * len(layers)), 1), len(layers)) - 1

    middle = layers[at(MIDDLE[0]):at(MIDDLE[-1]) + 1]
    deep = tuple(dict.fromkeys((layers[at(16)], layers[at(19)])))
    judge.leads("1a", "Every layer but the shallowest beats the network, whatever k: smallest lead", layers[1:])
    judge.leads("1b", "Every layer but the deepest beats the network, whatever k: smallest lead", layers[:-1])
    judge.leads("2a", f"So do the layers from {layers[at(9)]} on: smallest lead", layers[at(9):])
    judge.leads("2b", f"So do the layers up to {layers[at(9)]}: smallest lead", layers[:at(9) + 1])
    judge.best_in("3", f"A middle layer ({middle[0]} to {middle[-1]}) is best, not a deep one: its lead, mean over k",
                  middle)
    judge.spread("4", "The layer matters far more than k: range over layers minus twice the range over k")
    judge.on_par("5", f"Deep layers ({', '.join(map(str, deep))}) are within a point of the network: smaller of the "
                 "distances to that", deep)
    judge.drop("6", "Some layer is more than a point below both its neighbours: what is beyond it", layers[1:-1])
    judge.ten("7", "k = {ten} gains half a point over k = {first}, a larger k at most that more (layer {best})")
    judge.few("8", "At most 10 examples lose no accuracy (0.2 points) at some layer: what the best is above that")
    return judge.table(lambda claim: True)


class _Judge:
    """Margins of claims about `layers`, from shallow to deep, collected one after the other."""

    def __init__(self, together, layers, k, alpha, seed, needed):
        self.together, self.layers, self.alpha, self.found = together, list(layers), alpha, []
        self.ks = [j for j in KS if all(f"{layer}/{j}" in together for layer in self.layers)]
        if len(self.ks) < 2:
            raise ValueError(f"{needed} of k = {KS}; this table has {', '.join(together.index)}. Sweep with all layers "
                             "and a larger k_max.")
        self.k, self.ten_ = (max((j for j in self.ks if j <= most), default=self.ks[0]) for most in (k, 10))
        self.accuracy = pd.Series(np.diag(together), together.index) / together.loc["all", "all"]
        self.drawn = draw_accuracies(together, seed=seed)
        self.best = self.layers[int(self._mean(self.accuracy.to_frame().T, self.layers).to_numpy().argmax())]

    def table(self, applies):
        """The claims; applies: whether a claim, by number, is about these data."""
        verdicts = ["does not apply" if not applies(number) else "holds" if low > 0 else
                    "does not hold" if high < 0 else "undecided" for number, _, _, low, high in self.found]
        return pd.DataFrame(self.found, columns=["claim", "text", "measured", "low", "high"]).assign(verdict=verdicts)

    def leads(self, number, text, layers):
        """Each of these layers beats the network, whatever k."""
        self._pairs(number, text, [(f"{layer}/{j}", "network") for layer in layers for j in self.ks])

    def on_par(self, number, text, layers):
        self._pairs(number, text, [(f"{layer}/{self.k}", "network") for layer in layers], PAR)

    def few(self, number, text):
        compared = [(f"{layer}/{j}", "network") for layer in self.layers for j in self.ks if j <= 10]
        self._pairs(number, text, compared, NO_LOSS, some=True)

    def drop(self, number, text, layers):
        """One of these layers is more than `PAR` below both its neighbours."""
        ends = []
        for at in (self.layers.index(layer) for layer in layers):
            ends.append(self._ends([(f"{self.layers[at]}/{self.k}", f"{self.layers[at + side]}/{self.k}")
                                    for side in (-1, 1)], -PAR, -1, 2 * len(layers)).min())
        self.found.append((number, text, *pd.DataFrame(ends).max()))

    def best_in(self, number, text, layers):
        outside = [layer for layer in self.layers if layer not in layers]
        self._simulated(number, text, lambda acc: self._mean(acc, layers).max(axis=1)
                        - self._mean(acc, outside).max(axis=1))

    def spread(self, number, text):
        def margin(acc):
            grid = np.stack([acc[[f"{layer}/{j}" for j in self.ks]] for layer in self.layers], 1)  # (draws, layers, ks)
            return pd.Series(np.ptp(grid, axis=1).mean(1) - 2 * np.ptp(grid, axis=2).mean(1))

        self._simulated(number, text, margin)

    def ten(self, number, text):
        """About ten examples gain something over the fewest, and more gain nothing, at the best layer."""
        larger = [f"{self.best}/{j}" for j in self.ks if j > self.ten_] or [f"{self.best}/{self.ten_}"]
        at = f"{self.best}/{self.ten_}"
        self._simulated(number, text.format(ten=self.ten_, first=self.ks[0], best=self.best), lambda acc: pd.concat([
            acc[at] - acc[f"{self.best}/{self.ks[0]}"] - PAR / 2, acc[at] + PAR / 2 - acc[larger].max(axis=1)],
            axis=1).min(axis=1))

    def _ends(self, compared, slack, sign, comparisons):
        """sign * (a - b) + slack of each pair (a, b), with its interval: measured, low, high."""
        rows = paired_differences(self.together, compared, self.alpha / comparisons)
        low, high = (rows["low"], rows["high"]) if sign == 1 else (-rows["high"], -rows["low"])
        return pd.DataFrame({"measured": sign * rows["difference"], "low": low, "high": high}) + slack

    def _pairs(self, number, text, compared, slack=0.0, some=False):
        """a - b + slack is positive for every pair (a, b), or for some pair."""
        ends = self._ends(compared, slack, 1, len(compared))
        self.found.append((number, text, *(ends.max() if some else ends.min())))

    def _simulated(self, number, text, margin):
        measured = margin(self.accuracy.to_frame().T).item()
        self.found.append((number, text, measured, *percentile_interval(margin(self.drawn), self.alpha)))

    def _mean(self, acc, layers):
        return pd.concat([acc[[f"{layer}/{j}" for j in self.ks]].mean(axis=1) for layer in layers], axis=1)
