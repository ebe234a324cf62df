"""Where data and results lie: in the checkout around the working directory, or where the environment says."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from numba.core import config


def checkout() -> Path | None:
    """The checkout of the repository that the working directory is in, or None outside one."""
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "notebooks/00_start_here.ipynb").is_file()),
                None)


def data_root() -> Path:
    """Folder of the data sets: `EBE_DATA_DIR`, or `data/` of the checkout, or `./data` outside one."""
    if os.environ.get("EBE_DATA_DIR"):
        return Path(os.environ["EBE_DATA_DIR"]).expanduser().resolve()
    return (checkout() or Path.cwd()) / "data"


def runs_root() -> Path:
    """Folder of the runs: `EBE_RUNS_DIR`, or `runs/` among the data sets."""
    return Path(os.environ.get("EBE_RUNS_DIR") or data_root() / "runs").expanduser().resolve()


def reference_root() -> Path:
    """Folder of the results that are committed: `data/reference/` of the checkout."""
    return (checkout() or Path.cwd()) / "data" / "reference"


def cached_compilation(compile: Callable[[Callable], Callable]) -> Callable[[Callable], Callable]:
    """`numba.njit(cache=True, ...)` that works where neither the package's folder nor the home can be written.

    There, compiled functions are kept in a temporary folder for as long as the process runs.
    """
    def compiled(function: Callable) -> Callable:
        try:
            return compile(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            if config.CACHE_DIR:  # type: ignore[attr-defined]
                raise
            folder = tempfile.mkdtemp(prefix="ebe-numba-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            config.CACHE_DIR = folder  # type: ignore[attr-defined]
            return compile(function)

    return compiled
