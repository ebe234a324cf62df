"""What would change the answer? The smallest set of training examples that the vote's prediction stands on.

Exact for votes that count equally (the paper's). Of classes with equally many votes the first wins, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .checks import integer


@dataclass(frozen=True)
class Flip:
    """The fewest examples to change. ranks: theirs among the neighbours, from 0; becomes: the class that then wins.

    How contestable a prediction is: one example of ten is little to stand on, six of ten is as safe as it can be.
    """

    ranks: tuple[int, ...]
    becomes: int

    def __len__(self) -> int:
        return len(self.ranks)


def _wins_against(counts, winner):
    """(class, its votes) of the strongest other class, an earlier class counting half a vote more."""
    strength = counts + np.where(np.arange(len(counts)) < winner, 0.5, 0)
    strength[winner] = -1
    other = int(strength.argmax())
    return other, strength[other]


def removal_flip(labels: np.ndarray, k: int, classes: int) -> Flip | None:
    """The smallest set of examples whose removal gives another prediction, or None if these neighbours do not tell.

    labels: (m,), class indices of the m nearest examples, nearest first, m >= k. When examples are removed the next
    ones move up. Removing r examples leaves k of the first k + r; the prediction changes soonest if all r are of the
    class that wins, so the smallest r at which another class reaches what is left of it is exact. None means that more
    than m - k would have to go: search deeper.
    """
    labels = np.asarray(labels)
    integer("k", k, 1, len(labels), f" (there are {len(labels)} neighbours)")
    counts = np.bincount(labels[:k], minlength=classes).astype(float)
    winner = int(counts.argmax())
    for r in range(1, len(labels) - k + 1):
        counts[labels[k + r - 1]] += 1
        other, strength = _wins_against(counts, winner)
        if counts[winner] < r:
            return None  # the winner has no more examples to remove, and nothing else is known
        if strength > counts[winner] - r:
            return Flip(tuple(np.flatnonzero(labels[:k + r] == winner)[:r].tolist()), other)
    return None


def relabelling_flip(labels: np.ndarray, k: int, classes: int) -> Flip:
    """The smallest set of examples whose labels, had they been another class's, give another prediction.

    labels: (m,), class indices, nearest first, of which the first k vote. The labels become those of the class that is
    nearest to winning. classes: at least two.
    """
    labels = np.asarray(labels)[:integer("k", k, 1, len(labels), f" (there are {len(labels)} neighbours)")]
    integer("classes", classes, 2)
    counts = np.bincount(labels, minlength=classes).astype(float)
    winner = int(counts.argmax())
    other, strength = _wins_against(counts, winner)
    r = int(np.floor((counts[winner] - strength) / 2)) + 1  # the least with strength + r > votes - r
    return Flip(tuple(np.flatnonzero(labels == winner)[:r].tolist()), other)
