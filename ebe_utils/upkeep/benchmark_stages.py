"""Where the bounded search spends its time, stage by stage: columns of the benchmark's layers.csv."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch

from ..search import engines
from ..search.bounded import Block, BoundedSearch

STAGES = ("choice", "projection", "products", "picking", "first", "distances")


class Clock:
    """Seconds of each stage. A stage within another one stops the clock of the outer one, in each thread by itself."""

    def __init__(self) -> None:
        self.spent, self.lock, self.now = defaultdict[str, float](float), Lock(), local()

    @contextmanager
    def stage(self, name: str, threads: int = 1) -> Iterator[None]:
        """Count what the block takes as `name`, divided by the threads that work side by side."""
        outer = getattr(self.now, "stage", None)
        self._turn((name, threads))
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, stage):
        before, now = getattr(self.now, "stage", None), perf_counter()
        if before is not None:
            with self.lock:
                self.spent[before[0]] += (now - self.now.since) / before[1]
        self.now.stage, self.now.since = stage, now


class TimedSearch(BoundedSearch):
    """The bounded search, with the seconds of each of `STAGES` in its notes.

    choice: of the directions, with their fit, trials and the first block's projection; projection: of all other rows,
    and their order; products: the coarse bound's; picking: what the coarse bound leaves, and the fine bound; first:
    the rows that the lists begin with; distances: exact ones, and the lists.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.clock = Clock()
        super().__init__(*args, **options)

    def add(self, rows: Any) -> None:
        with self.clock.stage("projection"):
            super().add(rows)

    def notes(self) -> dict[str, float]:
        return super().notes() | {stage: self.clock.spent[stage] for stage in STAGES}

    def _choose(self, rows):
        with self.clock.stage("choice"):
            return super()._choose(rows)

    def _block(self, train, given):
        assert self.basis is not None
        block = TimedBlock(self.basis, self.queries, train, self.lists, self.seen)
        block.clock = self.clock
        return block


class TimedBlock(Block):
    """One block of a `TimedSearch`, whose `clock` it is given."""

    clock: Clock

    def everywhere(self, **options: Any) -> np.ndarray:
        with self.clock.stage("waiting for threads"):
            return super().everywhere(**options)

    def run(self, *args: Any, **options: Any) -> tuple[int, int]:
        with self._stage("picking"):
            return super().run(*args, **options)

    def scores(self, *args: Any) -> np.ndarray:
        with self._stage("products"):
            return super().scores(*args)

    def _best(self, *args):
        with self._stage("first"):
            return super()._best(*args)

    def _measure(self, *args):
        with self._stage("distances"):
            super()._measure(*args)

    def _stage(self, name):
        return self.clock.stage(name, torch.get_num_threads())


def timed() -> Any:
    """A context in which the engine "bounded" is a `TimedSearch`."""
    return mock.patch.object(engines, "BoundedSearch", TimedSearch)
