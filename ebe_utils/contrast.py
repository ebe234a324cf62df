"""Why this and not that? For the most probable classes, the nearest training examples of each, side by side.

Examples of one class alone invite agreement. Seeing those of the next class as well lets people judge how close the
call is (Nguyen et al. 2023, arXiv:2308.13651). Near-duplicates are shown once, with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .checks import did_you_mean, integer
from .duplicates import groups_of
from .evidence import Evidence

_DEEPEST = 8  # times as many examples as asked for are searched for different ones


@dataclass(frozen=True, eq=False)
class Side:
    """One class: label, its index; name; share of the votes; network_proba, the network's probability, or None.

    indices, distances: (m,) of its nearest training examples, nearest first, no two of them near-duplicates; copies:
    (m,) how many near-duplicates each stands for, itself included, among those that were searched; examples: they
    themselves, or None.
    """

    label: int
    name: str
    share: float
    network_proba: float | None
    indices: np.ndarray
    distances: np.ndarray
    copies: np.ndarray
    examples: Any


@dataclass(frozen=True, eq=False)
class Contrast:
    """The sides of an explanation, most probable class first."""

    sides: tuple[Side, ...]

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, i: int) -> Side:
        return self.sides[i]

    def to_frame(self) -> pd.DataFrame:
        """One row for each example: class, share, network_proba, rank in its class, index, distance, copies."""
        return pd.DataFrame([(side.name, side.share, side.network_proba, rank, int(i), float(distance), int(copies))
                             for side in self.sides for rank, (i, distance, copies) in
                             enumerate(zip(side.indices, side.distances, side.copies, strict=True), start=1)],
                            columns=["class", "share", "network_proba", "rank", "index", "distance", "copies"])

    def __str__(self):
        lines = []
        for side in self.sides:
            said = "" if side.network_proba is None else f", network {side.network_proba:.0%}"
            near = ", ".join(f"{i} ({distance:.4g})" for i, distance in
                             zip(side.indices, side.distances, strict=True)) or "no training example"
            lines.append(f"{side.name} (votes {side.share:.0%}{said}): {near}")
        return "\n".join(lines)


def which_classes(wanted: int | str | Sequence[int | str], names: Sequence[str], shares: np.ndarray,
                  network_proba: np.ndarray | None) -> list[int]:
    """Class indices to compare.

    wanted: how many of the most probable classes, by the network's probability where it is known, else by the votes;
    the vote's prediction is always among them. Or the names or indices of classes, in that order; a text is one name.
    """
    if isinstance(wanted, int | np.integer) or wanted is None:
        many = integer("classes", wanted, 1, len(names))
        probable = np.lexsort((-shares, -(shares if network_proba is None else network_proba)))[:many].tolist()
        first = int(shares.argmax())
        return probable if first in probable else [*probable[:max(1, many - 1)], first]
    found = []
    for one in [wanted] if isinstance(wanted, str) else wanted:
        if isinstance(one, str):
            if one not in names:
                raise ValueError(f"class {one!r} is unknown; choose among {', '.join(map(str, names))}."
                                 + did_you_mean(one, names))
            found.append(list(names).index(one))
        else:
            found.append(integer("a class", one, 0, len(names) - 1))
    if not found:
        raise ValueError("classes is empty; name at least one.")
    return list(dict.fromkeys(found))


def contrast(evidence: Evidence, classes: Sequence[int], names: Sequence[str], shares: np.ndarray,
             network_proba: np.ndarray | None, examples: int) -> Contrast:
    """The `Contrast` of one input, with so many examples of each of the classes (indices) as there are."""
    many, sides = integer("examples", examples, 1), []
    for label in classes:
        m = 2 * many
        while True:
            distances, indices = (row[0] for row in evidence.nearest_of_class(label, m))
            groups = groups_of(evidence.embeddings[indices], evidence.metric, evidence.typical) if len(indices) else (
                np.empty(0, int))
            if len(indices) < m or m >= _DEEPEST * many or groups.max(initial=-1) + 1 >= many:
                break
            m *= 2
        first = np.unique(groups, return_index=True)[1][:many]  # groups are numbered by their nearest member
        copies = np.bincount(groups, minlength=1)[:len(first)]
        sides.append(Side(label, names[label], float(shares[label]),
                          None if network_proba is None else float(network_proba[label]), indices[first],
                          distances[first], copies, evidence.fetch(indices[first]) if len(first) else None))
    return Contrast(tuple(sides))
