"""One step of a run: done once, kept with a manifest, skipped while that matches."""

import contextlib
import datetime
import json
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..files import sha256, sync, write_text
from ..memory import peak_memory
from .provenance import device_name, processor, versions

if TYPE_CHECKING:
    from .run import Run

# Versions of the code of each step, kept by hand (CONTRIBUTING.md says when to raise one): a step that was done by
# another version is done again. Steps that are not named here have version 1.
CODE = {"train": 1, "embeddings": 1, "attribution": 1, "sweep": 1, "figures": 1, "taps": 1, "claims": 2,
        "faithfulness": 1, "choosing": 1, "checkpoints": 1, "methods": 2, "similarity": 1, "text": 1, "series": 1,
        "transfer": 1, "reason": 1, "stability": 1, "retraining": 1, "conditions": 1}
NOTEBOOK_OF = {"train": "notebooks/01_train.ipynb", "embeddings": "notebooks/02_embeddings.ipynb",
               "attribution": "notebooks/03_attribution.ipynb", "sweep": "notebooks/04_layer_sweep.ipynb",
               "figures": "notebooks/05_figures.ipynb", "taps": "notebooks/07_claims.ipynb",
               "claims": "notebooks/07_claims.ipynb", "faithfulness": "notebooks/08_faithfulness.ipynb",
               "choosing": "notebooks/09_choosing.ipynb", "checkpoints": "notebooks/10_methods_compared.ipynb",
               "methods": "notebooks/10_methods_compared.ipynb", "similarity": "notebooks/11_why_similar.ipynb",
               "text": "notebooks/12_text.ipynb", "series": "notebooks/13_time_series.ipynb",
               "transfer": "notebooks/14_transfer.ipynb",
               "reason": "notebooks/16_the_networks_reason.ipynb",
               "conditions": "notebooks/15_conditions.ipynb",
               "stability": "notebooks/17_stability_and_outsiders.ipynb",
               "retraining": "notebooks/18_retraining.ipynb"}
_CHANGED = {"code": "its code has changed", "device_class": "it was done on another kind of device",
            "data": "the data set has changed"}


class RunError(RuntimeError):
    """A run folder that cannot be used as asked: a missing step, a lock, a read-only disk, other parameters."""


class Step:
    """One step of a run: `if step.todo: with step: ...` does the work only if its manifest does not match.

    Inside the with block the step is locked, but not the others of its run; at its end the manifest is written, with
    the hash of every file in the step's folder, versions, device, seconds and peak memory. After an exception there is
    no manifest, nor where a step that was read was done again meanwhile: RunError. A step may add to its files in
    further with blocks: seconds are those of all, and an exception leaves the manifest of those before.

    identity: all that decides the result, as the manifest records it; needs: digests of the steps that are read; see
    `Run.step`.
    """

    def __init__(self, run: "Run", name: str, identity: dict[str, Any], needs: dict[str, str]) -> None:
        self.run, self.name, self.identity, self.needs = run, name, identity, needs
        self.folder = run.path / name
        manifest, why = read_manifest(self.folder / "manifest.json"), None
        training = read_manifest(run.path / "train" / "manifest.json")
        if manifest is not None and training is not None:  # an earlier version recorded the data there only
            manifest.setdefault("data", {part: training["inputs"].get(part) for part in ("train", "test")})
        if manifest is None:
            damaged = (self.folder / "manifest.json").exists()
            why = "running again: its manifest is damaged" if damaged else "running"
        elif differ := [key for key, value in identity.items() if manifest.get(key, value) != value]:
            why = f"running again: {_CHANGED.get(differ[-1], 'parameters or inputs have changed')}"
        elif changed := changed_output(self.folder, manifest):
            why = f"running again: {changed} is missing or damaged"
        self.todo, self._whole = why is not None and not run.committed, why is None  # whole: as the manifest says
        self._seconds = manifest["seconds"] if manifest is not None and self._whole else 0.0
        why = "not done: these are committed results" if run.committed else why
        print(f"[{name}] {why or 'skipped: its manifest matches'}", flush=True)

    def path(self, name: str) -> Path:
        """Where the step keeps a file of that name."""
        return self.folder / name

    def __enter__(self) -> Self:
        if self.run.committed:
            raise RunError(f"step {self.name!r} of run {self.run.name} is a committed result, which is only read; do "
                           f"it again in a run of its own with\n  {self.run.command()}")
        self._lock = contextlib.ExitStack()
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock.enter_context(self.run.lock(f"{self.name}/.lock", f"at step {self.name!r} of"))
            for part in self.folder.rglob(".*.part"):  # of killed processes: nobody else works here now
                part.unlink(missing_ok=True)
            if not self._whole:
                (self.folder / "manifest.json").unlink(missing_ok=True)
        except OSError as error:
            self._lock.close()
            raise RunError(f"run folder {self.folder} cannot be written ({error.strerror}).") from None
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                for other, digest in self.needs.items():
                    if self.run.digest(other) != digest:
                        raise RunError(f"step {other!r} of run {self.run.name} was done again while step {self.name!r} "
                                       f"read its files: run {notebook_of(self.name)} again.")
                self._seconds += time.perf_counter() - self._start
                files = sorted(f for f in self.folder.rglob("*") if f.is_file() and not f.name.startswith(".")
                               and f != self.folder / "manifest.json")
                for file in files:  # before the manifest, which says that they are whole
                    sync(file)
                manifest = {
                    "step": self.name, **self.identity,
                    "outputs": {f.relative_to(self.folder).as_posix(): sha256(f) for f in files},
                    "seconds": round(self._seconds, 1), "peak_memory_MiB": peak_memory(),
                    "device": device_name(self.identity["device_class"]), "processor": processor(),
                    "machine": platform.machine(), "python": platform.python_version(), "versions": versions(),
                    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
                write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
                self._whole = True
        finally:
            self._lock.close()


def read_manifest(file: Path) -> dict[str, Any] | None:
    """The manifest in a file, or None if it is missing or damaged.

    Manifests of earlier versions have neither "code" nor "device_class": their code is version 1, and the device's name
    tells its class. (They have no "data" either; see `Step`.)
    """
    kinds = {"settings": dict, "inputs": dict, "outputs": dict, "versions": dict, "seconds": int | float, "device": str}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        return None
    before = {"code": 1, "device_class": "cpu" if found["device"].startswith("CPU") else "cuda"}
    return before | found


def changed_output(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Name of the first output that is missing or not what the manifest recorded, or None."""
    for name, digest in manifest["outputs"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return name
    return None


def kind_of(step: str) -> str:
    """What kind of step one of that name is: that of "sweep-euclidean" is "sweep"."""
    return step.split("-")[0]


def notebook_of(step: str) -> str:
    """The notebook of a step."""
    return NOTEBOOK_OF.get(kind_of(step), "it")
