"""How sure is a vote? Calibrated on held-out examples: prediction sets, credibility, and whether anything is near.

Held-out examples are examples of the same kind as those to be explained, which neither the network was trained on nor
the classifier was fitted on. For each, one asks how badly its own class conforms to its neighbours. A class of a new
input is rejected if it conforms worse than those do to theirs, all but a few: split conformal prediction (Vovk,
Gammerman and Shafer 2005) with the vote as nonconformity, as in deep k-NN (Papernot and McDaniel 2018). The same is
done with the distance to the k-th example (Sun et al. 2022, arXiv:2204.06507), to notice inputs that nothing is near.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .conformal import check_share, credibility_confidence, p_values, prediction_sets


def reach(k: int) -> int:
    """How many neighbours `nonconformity_of_votes` looks at: classes without a vote still differ there."""
    return max(50, 5 * k)


def nonconformity_of_votes(shares: np.ndarray, near: np.ndarray, k: int) -> np.ndarray:
    """(n, classes): what part of the votes a class does not get, and how far down the list its first example stands.

    shares: (n, classes) of the votes of k examples; near: (n, m) labels of the m nearest. The place in the list, from 0
    to 1, counts less than one vote of k: it orders the classes with equally many votes, most of which have none.
    """
    n, m = near.shape
    first = np.full(shares.shape, m)
    for rank in range(m - 1, -1, -1):
        first[np.arange(n), near[:, rank]] = rank
    return (1 - shares + first / m / (k + 1)).round(9)


@dataclass(frozen=True, eq=False)
class Doubt:
    """How sure one prediction is.

    p: (classes,) conformal p-values, how common it is among the held-out examples that their own class conforms no
    better. network_p: the same with one minus the network's softmax, or None. far_p: how common a distance to the k-th
    example as large as this one is. coverage: of the prediction set; alarm: the far_p up to which nothing counts as
    near; held_out: number of held-out examples.
    """

    p: np.ndarray
    network_p: np.ndarray | None
    far_p: float
    coverage: float
    alarm: float
    held_out: int

    def prediction_set(self, coverage: float | None = None) -> tuple[int, ...]:
        """The class indices that are not rejected, most plausible first; the true class is among them `coverage` often.

        Empty if no class conforms to its neighbours as the held-out examples do. coverage: by default that of the
        calibration.
        """
        return self._set(self.p, coverage)

    def network_set(self, coverage: float | None = None) -> tuple[int, ...] | None:
        """The same from the network's softmax, for comparison; None where it cannot be compared with the classes."""
        return None if self.network_p is None else self._set(self.network_p, coverage)

    def _set(self, p, coverage):
        kept = prediction_sets(p, self.coverage if coverage is None else check_coverage(coverage, self.held_out))
        return tuple(int(c) for c in np.argsort(-p, kind="stable") if kept[c])

    @property
    def credibility(self) -> float:
        """The largest p-value: small if not even the best class conforms."""
        return float(credibility_confidence(self.p[None])[0][0])

    @property
    def confidence(self) -> float:
        """One minus the second largest p-value: large if all classes but one are rejected."""
        return float(credibility_confidence(self.p[None])[1][0])

    @property
    def none_near(self) -> bool:
        """Whether none of the training examples is near: the input may be of another kind than they are."""
        return self.far_p <= self.alarm


@dataclass(frozen=True, eq=False)
class Doubts:
    """`Doubt` of n inputs: p (n, classes), network_p (n, outputs) or None, far_p (n,); the rest as there."""

    p: np.ndarray
    network_p: np.ndarray | None
    far_p: np.ndarray
    coverage: float
    alarm: float
    held_out: int

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, i: int) -> Doubt:
        return Doubt(self.p[i], None if self.network_p is None else self.network_p[i], float(self.far_p[i]),
                     self.coverage, self.alarm, self.held_out)

    def prediction_sets(self, coverage: float | None = None) -> np.ndarray:
        """(n, classes) booleans; see `Doubt.prediction_set`."""
        return prediction_sets(self.p, self.coverage if coverage is None else check_coverage(coverage, self.held_out))

    @property
    def none_near(self) -> np.ndarray:
        """(n,) booleans: where none of the training examples is near."""
        return self.far_p <= self.alarm


def check_coverage(coverage: float, held_out: int) -> float:
    """`coverage` if so many held-out examples can tell; ValueError otherwise."""
    needed = math.ceil(round(1 / (1 - check_share("coverage", coverage)), 9)) - 1
    if held_out < needed:
        raise ValueError(f"coverage={coverage} takes at least {needed} held-out examples, and there are {held_out}; "
                         "pass more of them, or a lower coverage.")
    return coverage


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `EBEClassifier.calibrate` learned from m held-out examples.

    own: (m,) nonconformity to their own classes; far: (m,) distances to the k-th training example; network_own: (m,)
    one minus the network's probability of their class, or None; settings: of the votes, for which alone this holds.
    """

    own: np.ndarray
    far: np.ndarray
    network_own: np.ndarray | None
    coverage: float
    alarm: float
    settings: dict[str, Any]

    @classmethod
    def of(cls, scores: np.ndarray, far: np.ndarray, nearest: np.ndarray, labels: np.ndarray, proba: np.ndarray | None,
           settings: dict[str, Any], coverage: float, alarm: float) -> Calibration:
        """From the nonconformity (m, classes) of held-out examples with class indices `labels` (m,).

        far, nearest: (m,) distances to the k-th and to the nearest training example; proba: (m, outputs) or None.
        Raises ValueError for too few examples, and if most of them are training examples.
        """
        check_coverage(coverage, len(labels))
        check_share("alarm", alarm)
        if (same := np.mean(nearest <= 1e-6 * np.median(far))) > 0.5:
            raise ValueError(f"{same:.0%} of the held-out examples are training examples (their nearest is at distance "
                             "0); pass examples that the classifier was not fitted on, and the network not trained on.")
        at = np.arange(len(labels))
        return cls(scores[at, labels], far, None if proba is None else 1 - proba[at, labels].astype(float), coverage,
                   alarm, dict(settings))

    def check(self, settings: dict[str, Any]) -> None:
        """Raise ValueError if `settings` are others than those that were calibrated."""
        for name, now in settings.items():
            if now != self.settings[name]:
                raise ValueError(f"{name} is {now!r}, but the calibration was made with "
                                 f"{name}={self.settings[name]!r}; call calibrate again, or set {name} back.")

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, the rest) to be saved, for `from_state`."""
        arrays = {"own": self.own, "far": self.far, "network_own": self.network_own}
        return ({name: value for name, value in arrays.items() if value is not None},
                {"coverage": self.coverage, "alarm": self.alarm, "settings": self.settings})

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Calibration:
        """The calibration that `state` was taken from."""
        return cls(arrays["own"], arrays["far"], arrays.get("network_own"), **rest)

    def judge(self, scores: np.ndarray, far: np.ndarray, proba: np.ndarray | None) -> Doubts:
        """`Doubts` of n inputs with nonconformity (n, classes), distances (n,) to the k-th, softmax (n, outputs)."""
        said = None
        if proba is not None and self.network_own is not None:
            said = p_values(self.network_own, 1 - proba.astype(float))
        return Doubts(p_values(self.own, scores), said, p_values(self.far, far), self.coverage, self.alarm,
                      len(self.own))


def calibrate(ebe: Any, inputs: Any, coverage: float = 0.95, alarm: float = 0.01) -> Calibration:
    """The `Calibration` of a fitted `EBEClassifier` by held-out examples with labels, `Inputs`."""
    found = ebe.explain_batch(as_they_came(inputs))
    labels, evidence = class_indices(inputs.labels, ebe.classes_, "the held-out examples"), found.evidence
    scores, far = evidence.scores(found.proba)
    return Calibration.of(scores, far, evidence.around[0][:, 0], labels, evidence.proba, evidence.settings, coverage,
                          alarm)


def as_they_came(inputs: Any) -> Any:
    """What `Inputs` hold, to be checked against what was fitted."""
    return inputs.images if inputs.images is not None else getattr(inputs, "arrays", inputs)


def class_indices(labels: np.ndarray | None, classes: np.ndarray, what: str) -> np.ndarray:
    """(m,) places of labels (m,) among the fitted classes; ValueError for others, and where there are none."""
    if labels is None:
        raise ValueError(f"{what} have no labels; pass them as y, or with each example.")
    places = {label: i for i, label in enumerate(classes.tolist())}
    if unknown := sorted(set(labels.tolist()) - set(places), key=str):
        raise ValueError(f"label {unknown[0]!r} of {what} is not among the classes that were fitted; pass examples of "
                         "the same classes.")
    return np.array([places[label] for label in labels.tolist()])
