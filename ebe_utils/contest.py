"""What would change the answer? The smallest set of training examples that the vote's prediction stands on.

Two questions about a vote. *Relabelling*: of the examples that vote, which would have to be of another class? Exact for
any weights, since they do not follow from the labels. *Removal*: which training examples would have to be absent, with
the next ones moving up? Exact for the paper's vote, in which the k nearest count equally; with other votes the weights
of the rest would change, and nothing is said. Of classes with equally many votes the first wins, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .checks import integer, same_shape

DEEPEST = 2048  # neighbours that are searched for a removal before it is given up


@dataclass(frozen=True)
class Flip:
    """The fewest examples to change. ranks: theirs among the neighbours, from 0; becomes: the class that then wins.

    How contestable a prediction is: one example of ten is little to stand on, six of ten is as safe as it can be.
    """

    ranks: tuple[int, ...]
    becomes: int

    def __len__(self) -> int:
        return len(self.ranks)


@dataclass(frozen=True)
class Contest:
    """What would change the prediction of one explanation.

    relabelling, removal: a `Flip`, or None where there is none or where it is not known, which relabelling_note and
    removal_note then say; relabelled, removed: the indices of its examples in the training set.
    """

    relabelling: Flip | None
    relabelled: tuple[int, ...]
    relabelling_note: str
    removal: Flip | None
    removed: tuple[int, ...]
    removal_note: str


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


def relabelling_flip(labels: np.ndarray, k: int, classes: int, weights: ArrayLike | None = None) -> Flip:
    """The smallest set of examples whose labels, had they been another class's, give another prediction.

    labels: (m,), class indices, nearest first, of which the first k vote. weights: (k,) of their votes, non-negative;
    equal if none are given. The labels become those of the class that wins with fewest changes. An example of the
    winner that changes sides counts twice, one of a third class once; the largest gains first are therefore the fewest.
    classes: at least two. ValueError if no example has weight.
    """
    labels = np.asarray(labels)[:integer("k", k, 1, len(labels), f" (there are {len(labels)} neighbours)")]
    integer("classes", classes, 2)
    share: np.ndarray = np.ones(k) if weights is None else np.asarray(weights, float)
    same_shape("weights", share, labels)
    if not share.sum() > 0 or share.min() < 0:
        raise ValueError("weights are negative or all zero; pass non-negative weights with a positive sum.")
    share = share / share.sum()
    counts = np.bincount(labels, share, classes)
    votes = counts.round(9).tolist()  # for comparisons: equal but for rounding is equal
    winner, best = int(counts.round(9).argmax()), None
    for other in range(classes):
        if other == winner:
            continue
        gains = share * np.where(labels == winner, 2, np.where(labels == other, 0, 1))
        order = np.argsort(-gains.round(12), kind="stable")  # of equal gains the nearest example
        lead = np.round(counts[winner] - counts[other] - np.cumsum(gains[order]), 9)
        r = int(np.argmax(lead <= 0 if other < winner else lead < 0)) + 1
        if best is None or (r, -votes[other]) < (len(best), -votes[best.becomes]):
            best = Flip(tuple(sorted(order[:r].tolist())), other)
    assert best is not None  # there are two classes
    return best


def contest(indices: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int, k: int, refusal: str = "",
            deeper: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None) -> Contest:
    """The `Contest` of one explanation.

    indices, labels, weights: (k,) of the examples that vote; k: how many nearest vote. refusal: why removal cannot be
    answered, if it cannot; deeper: m → (indices, labels) of the m nearest examples, fewer if there are not so many.
    """
    note, flip = refusal, None
    removed: tuple[int, ...] = ()
    if classes < 2:
        return Contest(None, (), "there is only one class.", None, (), "there is only one class.")
    changed = relabelling_flip(labels, len(labels), classes, weights)
    if not note and deeper is not None:
        m = 4 * k
        while True:
            at, near = deeper(m)
            flip = removal_flip(near, k, classes)
            if flip is not None or len(near) < m or 2 * m > DEEPEST:
                break
            m *= 2
        if flip is not None:
            removed = tuple(int(at[rank]) for rank in flip.ranks)
        elif len(near) < m:
            note = f"no removal changes it, as long as {k} training examples are left."
        else:
            note = f"more than {len(near) - k:,} examples would have to be removed."
    return Contest(changed, tuple(int(indices[rank]) for rank in changed.ranks), "", flip, removed, note)
