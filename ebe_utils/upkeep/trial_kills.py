"""The trial, killed processes: kill -9 at random points of a run, and two processes that do the same at once."""

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..explainer import EBEClassifier
from ..study.step import RunError
from . import trial_run
from .trial_run import answers, fitted, network, remains, results, work

_IN_USE = 7  # exit code of a process that was told that another one works in the run
_PATIENCE = 300  # seconds for one run


def _work(runs: str) -> None:
    try:
        work(Path(runs))
    except RunError as error:
        sys.exit(_IN_USE if "another process is working" in str(error) else 1)


def _save(folder: str, k: int) -> None:
    ebe, _ = fitted()
    ebe.set_params(k=k)
    for _ in range(5):
        with contextlib.suppress(OSError):  # the other one was quicker
            ebe.save(folder)


def _processes() -> Callable[..., multiprocessing.process.BaseProcess]:
    """Starts processes of a server that has imported everything once, and has no threads yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([trial_run.__name__, __name__])

    def start(work: Callable[..., None], *given: object) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=given)
        process.start()
        return process
    return start


def _done(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def killed(times: int, seed: int, folder: Path) -> list[tuple[str, str]]:
    """Kill the run at random points and start it again; [(where, "" or what went wrong)].

    A resumed run must end with the very bits of one that was never interrupted, and leave no temporary file.
    """
    start, rng = _processes(), np.random.default_rng(seed)
    for name in ("warm", "whole"):  # the first one compiles
        process = start(_work, str(folder / name))
        begin = _begun(folder / name)
        _done(process)
        seconds = time.monotonic() - begin
    expected = results(folder / "whole")
    found = []
    for i in range(times):
        runs = folder / f"killed{i}"
        process = start(_work, str(runs))
        _begun(runs)
        process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        where = _where(runs, process.exitcode)
        code = _done(start(_work, str(runs)))
        wrong = ("" if code == 0 else f"the resumed run ended with code {code}") or (
            "" if results(runs) == expected else "other results") or ", ".join(remains(runs))
        found.append((where, wrong))
    return found


def _begun(runs: Path) -> float:
    """Wait until a process has made the run's folder; returns the time."""
    end = time.monotonic() + _PATIENCE
    while not (runs / trial_run.NAME).exists() and time.monotonic() < end:
        time.sleep(0.001)
    return time.monotonic()


def _where(runs: Path, code: int | None) -> str:
    """How far a killed run was."""
    folder = runs / trial_run.NAME
    if code != -signal.SIGKILL:
        return "after the end"
    if (folder / "sweep").exists():
        return "in the sweep" if not (folder / "sweep" / "manifest.json").exists() else "after the end"
    if (folder / "train" / "manifest.json").exists():
        return "between the steps"
    return "in the training" if (folder / "train" / trial_run.STATE).exists() else "before the first epoch's end"


def together(times: int, folder: Path) -> list[str]:
    """Two processes do the same run at once, and two save a classifier to one folder; "" or what went wrong.

    One of two runs may be refused by the lock; what is there in the end must be right.
    """
    start, found = _processes(), []
    work(folder / "alone")
    expected = results(folder / "alone")
    for i in range(times):
        runs = folder / f"both{i}"
        codes = sorted(_done(process) or 0 for process in [start(_work, str(runs)) for _ in range(2)])
        wrong = "" if codes in ([0, 0], [0, _IN_USE]) else f"exit codes {codes}"
        found.append(wrong or ("" if results(runs) == expected else "other results"))
        target = folder / f"saved{i}"
        codes = [_done(process) or 0 for process in [start(_save, str(target), k) for k in (3, 4)]]
        ebe = EBEClassifier.load(target, network().eval(), verify=True)
        own, queries = fitted()
        own.set_params(k=ebe.k)
        same = ebe.k in (3, 4) and answers(ebe, queries) == answers(own, queries)
        found.append("" if same and codes == [0, 0] else f"exit codes {codes}, the same answers: {same}")
    return found
