"""Runs of the notebooks that bring data of their own: texts, and what follows.

Such a notebook takes of the sequence's parameters only those that it has with the same default (`own_parameters`):
seed, device and k, say. Its data set is its own business, and so is its run folder, "text-docstrings-seed0".
"""

import ast
from collections.abc import Mapping
from typing import Any

from ..files import tidy
from .parameters import Parameters
from .run import Run
from .step import NOTEBOOK_OF, RunError

# {first word of the run: the notebook's data set by default}
DOMAINS = {"text": "docstrings", "series": "gunpoint", "transfer": "written_digits"}


def own_parameters(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the sequence's parameters `given` those that a notebook takes, which are its own where the default differs.

    known: `papermill.inspect_notebook`: {name: {"default": its literal, ...}}.
    """
    return {name: value for name, value in given.items()
            if name in known and ast.literal_eval(known[name]["default"]) == getattr(Parameters, name)}


class DomainRun(Run):
    """The run of a notebook with data of its own: a folder of steps with manifests, as any run's.

    word: of `DOMAINS`; dataset, seed: name the folder, with it; data: {"train": fingerprint, "test": fingerprint}, the
    identity of every step. Raises RunError if the folder cannot be written.
    """

    def __init__(self, word: str, dataset: str, seed: int, data: Mapping[str, str], device: str = "auto") -> None:
        self.word = word
        super().__init__(Parameters(run=f"{word}-{dataset}-seed{seed}", seed=seed, device=device))
        self._data = dict(data)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tidy(self.path)
        except OSError as error:
            raise RunError(f"run folder {self.path} cannot be written ({error.strerror}); make it writable, or set "
                           "EBE_RUNS_DIR to a folder that is.") from None

    def command(self) -> str:
        """The command that runs the notebook, with its own data set."""
        return f"python -m ebe_utils run --only {NOTEBOOK_OF[self.word].removeprefix('notebooks/')[:2]}"
