"""The trial, disks: one that is full at some point of a run, and one that can only be read."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from .. import files
from ..explainer import EBEClassifier
from ..study.run import Run
from ..study.step import RunError
from .trial_run import NAME, answers, fitted, network, remains, results, runs_in, work

_SIZE = 4 * 2**20  # bytes of the small disk


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a disk of 4 MiB in memory (tmpfs) at `folder`; whether that was allowed."""
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)],
                                 capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full(times: int, folder: Path) -> list[tuple[str, str]]:
    """The disk is full at different points of a run; [(how it was filled and what followed, "" or what went wrong)].

    Right is an error that says so, after which the run is done as ever once there is room. A file that `write_tensors`
    and `save` would replace stays whole.
    """
    work(folder / "roomy")
    expected, found = results(folder / "roomy"), []
    with small_disk(folder / "disk") as mounted:
        disk = folder / "disk"
        for i in range(times):
            runs = disk / f"runs{i}"
            room = _filled(disk, 4096 * (1 + 4 * i)) if mounted else _failing(1 + i)
            with room:
                outcome, wrong = _tried(partial(work, runs))
            try:
                work(runs)
                wrong = wrong or ("" if results(runs) == expected else "other results") or ", ".join(remains(runs))
            except (OSError, RunError, ValueError) as error:
                wrong = wrong or f"once there is room: {error}"
            found.append((outcome, wrong))
        ebe, queries = fitted()
        saved, told = ebe.save(disk / "saved"), answers(ebe, queries)
        with _filled(disk, 4096) if mounted else _failing(1):
            outcome, wrong = _tried(lambda: ebe.save(saved))
        kept = answers(EBEClassifier.load(saved, network().eval(), verify=True), queries) == told
        found.append((outcome, wrong or ("" if kept else "the classifier that was there is lost")))
    return [(f"{outcome} ({'tmpfs' if mounted else 'writes that fail'})", wrong) for outcome, wrong in found]


@contextlib.contextmanager
def _filled(disk: Path, left: int) -> Iterator[None]:
    """Only `left` bytes are free for the time of a with block."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(0, free - left)))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _failing(at: int) -> Iterator[None]:
    """From the at-th file on, none can be written to the disk."""
    done = 0
    real = files.sync

    def sync(path: Path) -> None:
        nonlocal done
        done += 1
        if done >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path)

    with (mock.patch("ebe_utils.files.sync", sync), mock.patch("ebe_utils.saved.sync", sync),
          mock.patch("ebe_utils.study.step.sync", sync)):
        yield


def _tried(call: Callable[[], object]) -> tuple[str, str]:
    """(outcome, what went wrong or ""): a call that fails must say that the disk is full."""
    try:
        call()
    except (OSError, RunError) as error:
        return "refused", "" if os.strerror(errno.ENOSPC) in str(error) else f"{type(error).__name__}: {error}"
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"
    return "room enough", ""


def read_only(folder: Path) -> tuple[str, list[str]]:
    """(how it was made so, what went wrong in each case or ""): a finished run and a classifier are read, not written.

    Nothing is tried where an administrator may not mount a disk: nothing is read-only for an administrator.
    """
    with small_disk(folder / "read-only") as mounted:
        disk = folder / "read-only"
        work(disk)
        expected = results(disk)
        ebe, queries = fitted()
        saved, told = ebe.save(disk / "saved"), answers(ebe, queries)
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        elif os.geteuid() == 0:
            return "not tried: no disk may be mounted", []
        else:
            for path in (disk / NAME, disk):
                path.chmod(0o555)
        try:
            with runs_in(disk):
                opened = Run.open(NAME).file("train", "model.safetensors").is_file()
            again = EBEClassifier.load(saved, network().eval(), verify=True)
            return ("tmpfs" if mounted else "permissions", [
                "" if opened and results(disk) == expected else "the run cannot be read",
                "" if answers(again, queries) == told else "other answers",
                _fails(lambda: work(disk), "cannot be written"), _fails(lambda: ebe.save(disk / "new"), "")])
        finally:
            if not mounted:
                for path in (disk, disk / NAME):
                    path.chmod(0o755)


def _fails(call: Callable[[], object], words: str) -> str:
    try:
        call()
    except (OSError, RunError) as error:
        return "" if words in str(error) else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"
