"""One step of a run: done once, kept with a manifest, skipped while that matches."""

import contextlib
import datetime
import json
import platform
import time

from ..files import sha256, write_text
from ..memory import peak_memory
from .provenance import device_name, processor, versions


class RunError(RuntimeError):
    """A run folder that cannot be used as asked: a missing step, a lock, a read-only disk, other parameters."""


class Step:
    """One step of a run: `if step.todo: with step: ...` does the work only if its manifest does not match.

    Inside the with block the run is locked; at its end the manifest is written, with the hash of every file in the
    step's folder, versions, device, seconds and peak memory. After an exception there is no manifest. A step may add to
    its files in further with blocks: seconds are those of all, and an exception leaves the manifest of those before.
    """

    def __init__(self, run, name, identity):
        self.run, self.name, self.identity = run, name, identity
        self.folder = run.path / name
        manifest = read_manifest(self.folder / "manifest.json")
        if manifest is None:
            why = "running"
        elif {k: manifest.get(k) for k in identity} != identity:
            why = "running again: parameters or inputs have changed"
        elif changed := changed_output(self.folder, manifest):
            why = f"running again: {changed} is missing or damaged"
        else:
            why = None
        self.todo, self._whole = why is not None and not run.committed, why is None  # whole: as the manifest says
        self._seconds = manifest.get("seconds", 0.0) if self._whole else 0.0
        why = "not done: these are committed results" if run.committed else why
        print(f"[{name}] {why or 'skipped: its manifest matches'}", flush=True)

    def path(self, name):
        """Where the step keeps a file of that name."""
        return self.folder / name

    def __enter__(self):
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(self.run.lock())
        try:
            self.folder.mkdir(exist_ok=True)
            if not self._whole:
                (self.folder / "manifest.json").unlink(missing_ok=True)
        except OSError as error:
            self._lock.close()
            raise RunError(f"run folder {self.folder} cannot be written ({error.strerror}).") from None
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._seconds += time.perf_counter() - self._start
                files = sorted(f for f in self.folder.rglob("*") if f.is_file() and not f.name.startswith(".")
                               and f != self.folder / "manifest.json")
                manifest = {
                    "step": self.name, **self.identity,
                    "outputs": {f.relative_to(self.folder).as_posix(): sha256(f) for f in files},
                    "seconds": round(self._seconds, 1), "peak_memory_MiB": peak_memory(),
                    "device": device_name(), "processor": processor(), "machine": platform.machine(),
                    "python": platform.python_version(), "versions": versions(),
                    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
                write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
                self._whole = True
        finally:
            self._lock.close()


def read_manifest(file):
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("outputs"), dict) else None


def changed_output(folder, manifest):
    """Name of the first output that is missing or not what the manifest recorded, or None."""
    for name, digest in manifest["outputs"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return name
    return None


NOTEBOOK_OF = {"train": "notebooks/01_train.ipynb", "embeddings": "notebooks/02_embeddings.ipynb",
               "attribution": "notebooks/03_attribution.ipynb", "sweep": "notebooks/04_layer_sweep.ipynb",
               "figures": "notebooks/05_figures.ipynb", "taps": "notebooks/07_claims.ipynb",
               "claims": "notebooks/07_claims.ipynb", "evaluation": "notebooks/08_evaluation.ipynb",
               "choosing": "notebooks/09_choosing.ipynb", "checkpoints": "notebooks/10_methods_compared.ipynb",
               "methods": "notebooks/10_methods_compared.ipynb", "similarity": "notebooks/11_why_similar.ipynb"}


def notebook_of(step):
    """The notebook of a step; that of "sweep-euclidean" is the sweep's."""
    return NOTEBOOK_OF.get(step.split("-")[0], "it")
