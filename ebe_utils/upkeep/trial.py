"""The trial: what is promised never to be lost and never to be wrong, tried hard. `python -m ebe_utils.upkeep trial`.

Processes are killed at random points, bits of files are turned, disks are full or read-only, inputs are wrong and rows
are the worst that a search can get. What follows is judged by the tensors, bit by bit.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..files import write_text
from .committed import filled, markdown
from .publishing import CHECKOUT
from .trial_disk import full, read_only
from .trial_flips import flipped
from .trial_inputs import INPUTS, inputs
from .trial_kills import killed, together
from .trial_search import searched

PAGE = CHECKOUT / "docs" / "trial.md"


@dataclass(frozen=True)
class Sizes:
    """Numbers of cases."""

    kills: int
    flips: int
    searches: int
    pairs: int
    disks: int
    seed: int = 0


SHORT = Sizes(kills=8, flips=44, searches=30, pairs=1, disks=4)
LONG = Sizes(kills=100, flips=200, searches=2000, pairs=10, disks=40)


@dataclass
class Part:
    """What came out of one part of the trial: cases, outcomes by kind, and a line for each case that went wrong."""

    name: str
    cases: int
    outcomes: dict[str, int]
    wrong: list[str] = field(default_factory=list)


def trial(sizes: Sizes = SHORT, say: Callable[[str], None] = lambda text: None) -> list[Part]:
    """Every part of the trial. say: called with the name of each part when it begins."""
    parts = []
    with tempfile.TemporaryDirectory(prefix="ebe-trial-") as name:
        folder = Path(name)
        for title, part in (("kill -9 at random points of a run", _kills), ("one bit of a file turned", _flips),
                            ("bad inputs", _inputs), ("adversarial rows, five searches", _searches),
                            ("two processes at once", _pairs), ("full disk", _full), ("read-only disk", _read_only)):
            say(title)
            here = folder / part.__name__
            here.mkdir()
            outcomes, wrong = part(sizes, here)
            parts.append(Part(title, len(wrong), dict(Counter(outcomes)), [line for line in wrong if line]))
    return parts


def _kills(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    found = killed(sizes.kills, sizes.seed, folder)
    return [where for where, _ in found], [wrong for _, wrong in found]


def _flips(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    found = flipped(sizes.flips, sizes.seed, folder)
    return [outcome for _, outcome, _ in found], [wrong and f"{file}: {wrong}" for file, _, wrong in found]


def _inputs(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    return [error.__name__ for _, error, _ in INPUTS], inputs()


def _searches(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    found = searched(sizes.searches, sizes.seed)
    return [kind for kind, _ in found], [wrong for _, wrong in found]


def _pairs(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    wrong = together(sizes.pairs, folder)
    return ["a run", "a saved classifier"] * sizes.pairs, wrong


def _full(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    found = full(sizes.disks, folder)
    return [outcome for outcome, _ in found], [wrong for _, wrong in found]


def _read_only(sizes: Sizes, folder: Path) -> tuple[Iterable[str], list[str]]:
    how, wrong = read_only(folder)
    return [how] * max(1, len(wrong)), wrong


def table(parts: Iterable[Part]) -> pd.DataFrame:
    """One row per part: cases, how many came out right, and what they were."""
    return pd.DataFrame([{"trial": part.name, "cases": part.cases, "right": part.cases - len(part.wrong), "of them":
                          ", ".join(f"{count} {what}" for what, count in part.outcomes.items())} for part in parts])


def report(sizes: Sizes, page: Path = PAGE) -> int:
    """Do the trial, print its table and write it, with that of bad inputs, into docs/trial.md.

    Returns how many cases went wrong; each is printed.
    """
    parts = trial(sizes, lambda title: print(f"{title} ...", flush=True))
    found = table(parts)
    print("\n" + found.to_string(index=False))
    rows = pd.DataFrame([[f"`{_cell(call)}`", error.__name__, f"`{_cell(words)}`"] for call, error, words in INPUTS],
                        columns=["call", "error", "its message matches"])
    text = page.read_text(encoding="utf-8")
    for name, content in (("trial", markdown(found)), ("bad inputs", markdown(rows))):
        text, places = filled(text, name, content)
        if places != 1:
            raise ValueError(f"{page} has {places} places for the table {name!r}; it needs one.")
    write_text(page, text)
    wrong = [f"{part.name}: {line}" for part in parts for line in part.wrong]
    print("\n".join(["", *wrong, f"{len(wrong)} of {sum(part.cases for part in parts)} cases went wrong"]))
    return len(wrong)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
