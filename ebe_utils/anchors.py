"""Anchors: the fewest parts of an input that nearly always keep a prediction (Ribeiro, Singh and Guestrin 2018).

A rule "as long as these parts are as they are, the answer is the same" is searched by beam, part by part. How often a
rule keeps the answer, its precision, is only known from samples, which KL-LUCB (Kaufmann and Kalyanakrishnan 2013)
spends where they decide: on the worst of the best rules and the best of the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from .checks import integer, real

Sampler = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Anchor:
    """A rule: the parts that must stay.

    precision: share of the samples that kept the prediction; low: its lower confidence bound; coverage: share of random
    perturbations to which the rule applies, (1/2)^parts; samples: predictions that the search asked for. sure: whether
    `low` is above the threshold.
    """

    parts: tuple[int, ...]
    precision: float
    low: float
    coverage: float
    samples: int
    sure: bool


def kl_bound(share: float, n: int, level: float, upper: bool) -> float:
    """The bound on a probability of which `share` of n trials succeeded: where n times the Kullback-Leibler divergence
    between the two reaches `level`; found by bisection."""
    low, high = (share, 1.0) if upper else (0.0, share)
    for _ in range(40):
        middle = (low + high) / 2
        far = n * _divergence(share, middle) > level
        if far == upper:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def find_anchor(sample: Sampler, parts: int, threshold: float = 0.95, delta: float = 0.05, tolerance: float = 0.15,
                beam: int = 3, batch: int = 32, most: int = 6, budget: int = 12_000) -> Anchor:
    """The rule with the fewest parts whose precision is above `threshold` with confidence 1 - delta.

    sample: a function of kept parts, booleans (n, parts), to whether the prediction stays, booleans (n,); which other
    parts are kept is drawn by the caller, see `patch_sampler`. tolerance: how well the best rules must be separated
    from the rest, unless half of the budget for their length is spent before. beam: rules that are extended. most:
    parts of a rule. budget: predictions; where it, or the parts, run out, the rule with the highest bound so far is
    returned, with sure=False. What the search found is certain only by `low`, of the rule that it returns.
    """
    integer("parts", parts, 1)
    for name, value in (("threshold", threshold), ("delta", delta)):
        if not 0 < real(name, value) < 1:
            raise ValueError(f"{name}={value} is no probability between 0 and 1, like 0.95.")
    search = _Search(sample, parts, delta, batch, budget)
    best: list[frozenset] = [frozenset()]
    longest = min(integer("most", most, 1), parts)
    search.decided = longest * integer("beam", beam, 1)
    for _ in range(longest):
        rules = list(dict.fromkeys(rule | {part} for rule in best for part in range(parts) if part not in rule))
        best = search.best_of(rules, min(beam, len(rules)), tolerance, budget // (2 * longest))
        for rule in best:
            if search.decide(rule, threshold):
                return search.anchor(rule, True)
        if search.spent >= budget:
            break
    return search.anchor(max(search.trials, key=lambda rule: search.bound(rule, search.level, False)), False)


class _Search:
    """Samples of every rule that was tried: [kept, trials]."""

    def __init__(self, sample, parts, delta, batch, budget):
        self.sample, self.parts, self.delta, self.batch, self.budget = sample, parts, delta, batch, budget
        self.trials: dict[frozenset, list[int]] = {}
        self.spent, self.decided, self.level = 0, 1, float(np.log(1 / delta))

    def draw(self, rule):
        fixed = np.zeros((self.batch, self.parts), bool)
        fixed[:, list(rule)] = True
        kept = self.trials.setdefault(rule, [0, 0])
        kept[0] += int(np.sum(self.sample(fixed)))
        kept[1] += self.batch
        self.spent += self.batch

    def share(self, rule):
        return self.trials[rule][0] / self.trials[rule][1]

    def bound(self, rule, level, upper):
        return kl_bound(self.share(rule), self.trials[rule][1], level, upper)

    def best_of(self, rules, size, tolerance, most):
        """The `size` most precise rules, up to `tolerance`, with confidence 1 - delta (KL-LUCB), or after `most`."""
        until = self.spent + most
        for rule in rules:
            self.draw(rule)
        for t in count(1):
            order = sorted(rules, key=self.share, reverse=True)
            inside, outside = order[:size], order[size:]
            level = np.log(405.5 * len(rules) * t**1.1 / self.delta)
            level += np.log(max(level, 1.0))
            worst = min(inside, key=lambda rule: self.bound(rule, level, False))
            if not outside or self.spent >= min(until, self.budget):
                return inside
            rival = max(outside, key=lambda rule: self.bound(rule, level, True))
            if self.bound(rival, level, True) - self.bound(worst, level, False) < tolerance:
                return inside
            self.draw(worst)
            self.draw(rival)
        raise AssertionError("unreachable")

    def decide(self, rule, threshold):
        """Whether the rule's precision is above the threshold, by samples that the search has not seen.

        They double until a bound decides; the level pays for every look and for every rule that may be looked at.
        """
        self.trials[rule], size = [0, 0], 2 * self.batch
        for look in count(1):
            self.level = np.log(self.decided * look * (look + 1) / self.delta)
            while self.trials[rule][1] < size:
                self.draw(rule)
            if self.bound(rule, self.level, False) > threshold:
                return True
            if self.bound(rule, self.level, True) < threshold or self.spent + size > self.budget:
                return False
            size *= 2
        raise AssertionError("unreachable")

    def anchor(self, rule, sure):
        low = self.bound(rule, self.level, False)
        return Anchor(tuple(sorted(int(part) for part in rule)), self.share(rule), low, 0.5 ** len(rule), self.spent,
                      sure)


def patch_sampler(predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, patches: np.ndarray,
                  background: np.ndarray, seed: int = 0) -> Sampler:
    """A `Sampler` for an image: every other patch is kept with probability 1/2, or is that of a random other image.

    predict: images (n, C, H, W) to classes (n,). image: (C, H, W); patches: (H, W) numbers of patches from 0;
    background: (m, C, H, W), the images to take patches from.
    """
    rng, wanted = np.random.default_rng(seed), predict(image[None])[0]

    def sample(fixed: np.ndarray) -> np.ndarray:
        keep = fixed | (rng.random(fixed.shape) < 0.5)
        others = background[rng.integers(0, len(background), len(fixed))]
        return predict(np.where(keep[:, None, patches], image[None], others)) == wanted
    return sample


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence between two coins."""
    q = min(max(q, 1e-12), 1 - 1e-12)
    return sum(a * np.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)
