"""The trial, damaged files: one bit of one file is turned, and what follows is judged by the tensors."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..explainer import EBEClassifier
from ..study.step import RunError
from .trial_run import NAME, STATE, answers, fitted, network, remains, results, work

CAUGHT, REFUSED, HARMLESS = "noticed and made anew", "refused", "harmless"


def flipped(times: int, seed: int, folder: Path) -> list[tuple[str, str, str]]:
    """Turn bits of every artefact of a run and of a saved classifier; [(file, outcome, "" or what went wrong)].

    The files take turns, the bits are random. Right is a refusal that says what is damaged, or the very results of the
    undamaged files.
    """
    rng, found = np.random.default_rng(seed), []
    whole, half, saved = folder / "whole", folder / "half", folder / "saved"
    work(whole)
    expected = results(whole)
    work(half, epochs=2)
    ebe, queries = fitted()
    ebe.save(saved)
    told = answers(ebe, queries)
    files = [(_run, half, file) for file in (half / NAME / "train").iterdir() if file.name == STATE]
    files += [(_run, whole, file) for file in sorted(whole.rglob("*")) if file.is_file() and file.stat().st_size]
    files += [(_classifier, saved, file) for file in sorted(saved.iterdir())]
    for i in range(times):
        judge, root, file = files[i % len(files)]
        target = folder / "damaged"
        shutil.copytree(root, target)
        _flip(target / file.relative_to(root), rng)
        outcome, wrong = _judged(judge, target, expected if judge is _run else (told, queries))
        found.append((str(file.relative_to(root.parent)), outcome, wrong))
        shutil.rmtree(target)
    return found


def _flip(file: Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def _judged(judge: Callable, target: Path, expected: object) -> tuple[str, str]:
    try:
        return judge(target, expected)
    except (ValueError, RunError, OSError) as error:
        clear = "damaged" in str(error) or "missing" in str(error) or "holds another experiment" in str(error)
        return REFUSED, "" if clear else f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever else is no clear error
        return REFUSED, f"{type(error).__name__}: {error}"


def _run(target, expected):
    said = work(target)
    right = results(target) == expected and not remains(target)
    noticed = "running again" in said or "starts over" in said
    return CAUGHT if noticed else HARMLESS, "" if right else "other results"


def _classifier(target, expected):
    told, queries = expected
    ebe = EBEClassifier.load(target, network().eval(), verify=True)
    return HARMLESS, "" if answers(ebe, queries) == told else "other answers"
