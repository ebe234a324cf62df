"""How far a long call is: a bar, a function of one's own, or nothing."""

from collections.abc import Callable
from typing import Any

from .checks import boolean

Progress = bool | Callable[[int, int], object]


class _Calls:
    """A bar's interface to a function of (done, total)."""

    def __init__(self, call: Callable[[int, int], object], total: int, done: int) -> None:
        self.call, self.total, self.done = call, total, done

    def update(self, more: int = 1) -> None:
        self.done += more
        self.call(self.done, self.total)

    def set_postfix(self, *args: Any, **options: Any) -> None:
        """A function is told the numbers only."""

    def close(self) -> None:
        """Nothing is open."""


def progress_bar(progress: Progress, total: int, done: int = 0, **options: Any) -> Any:
    """A tqdm bar for progress=True, one that shows nothing for False, or calls of progress(done, total).

    options: of tqdm. Raises TypeError for any other `progress`.
    """
    if callable(progress):
        return _Calls(progress, total, done)
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, disable=not boolean("progress", progress), **options)
