"""The smallest sets that change a vote, against every subset."""

import itertools

import numpy as np
import pytest

from ebe_utils.contest import relabelling_flip, removal_flip


def vote(labels, k, classes):
    return int(np.bincount(labels[:k], minlength=classes).argmax())


@pytest.mark.parametrize("seed", range(60))
def test_no_smaller_set_changes_the_vote(seed):
    rng = np.random.default_rng(seed)
    classes, k = int(rng.integers(2, 5)), int(rng.integers(1, 6))
    labels = rng.choice(classes, 10, p=rng.dirichlet(np.ones(classes)))
    before = vote(labels, k, classes)
    found = removal_flip(labels, k, classes)
    smallest = None
    for r in range(1, 10 - k + 1):
        if any(vote(np.delete(labels, out), k, classes) != before for out in itertools.combinations(range(10), r)):
            smallest = r
            break
    assert (None if found is None else len(found)) == smallest
    if found is not None:
        after = vote(np.delete(labels, found.ranks), k, classes)
        assert after == found.becomes != before and len(set(found.ranks)) == len(found)

    found = relabelling_flip(labels, k, classes)
    others = [[c for c in range(classes) if c != label] for label in labels]
    for r in range(1, len(found) + 1):
        changed = any(vote(np.array([dict(zip(at, to, strict=True)).get(i, label) for i, label in enumerate(labels)]),
                           k, classes) != before
                      for at in itertools.combinations(range(k), r)
                      for to in itertools.product(*(others[i] for i in at)))
        assert changed == (r == len(found)), r
    new = labels.copy()
    new[list(found.ranks)] = found.becomes
    assert vote(new, k, classes) == found.becomes != before


@pytest.mark.parametrize("seed", range(40))
def test_no_smaller_relabelling_changes_a_weighted_vote(seed):
    rng = np.random.default_rng(seed)
    classes, k = int(rng.integers(2, 4)), int(rng.integers(1, 6))
    labels, weights = rng.integers(0, classes, k), rng.choice([1, 1, 2, 3, 5], k) / 7

    def weighted(labels):
        return int(np.bincount(labels, weights, classes).round(12).argmax())

    before, found = weighted(labels), relabelling_flip(labels, k, classes, weights)
    for r in range(len(found) + 1):
        changed = any(weighted([dict(zip(at, to, strict=True)).get(i, c) for i, c in enumerate(labels)]) != before
                      for at in itertools.combinations(range(k), r)
                      for to in itertools.product(range(classes), repeat=r))
        assert changed == (r == len(found)), r
    labels[list(found.ranks)] = found.becomes
    assert weighted(labels) == found.becomes != before


def test_weights_of_thirds_are_counted_exactly():
    """4 of 12 votes twice, moved by two: a tie, which the first class wins, and rounding must not decide otherwise."""
    labels = np.array([0] * 8 + [1] * 4)
    assert len(relabelling_flip(labels, 12, 2, np.full(12, 1 / 12))) == len(relabelling_flip(labels, 12, 2)) == 3
    with pytest.raises(ValueError, match="all zero"):
        relabelling_flip(labels, 12, 2, np.zeros(12))


def test_by_hand():
    labels = [0, 0, 1, 0, 1, 1, 1]
    assert removal_flip(labels, 5, 2).ranks == (0,)  # of 0 0 1 0 1 | 1 one 0 goes: 0 1 0 1 1
    assert relabelling_flip(labels, 5, 2).ranks == (0,) and relabelling_flip(labels, 5, 2).becomes == 1
    assert removal_flip([0, 0, 0], 2, 2) is None
    with pytest.raises(ValueError, match="there are 2 neighbours"):
        removal_flip([0, 1], 3, 2)
