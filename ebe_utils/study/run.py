"""Runs: the folder in which the steps of one experiment leave their files, and from which the next step reads.

`data/runs/<name>/` holds parameters.json, one folder per step with its files and its manifest.json, the executed
notebooks and their HTML copies. A step whose manifest still matches is skipped: that is how a run resumes.
"""

import contextlib
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from .. import checks
from ..data import ImageSet, random_part
from ..datasets import load_dataset
from ..files import text_checksum, tidy, write_text
from ..layers import layer_name
from ..model import load_model, on_device, resnet18_for
from ..paths import reference_root, runs_root
from .parameters import _QUICK_EPOCHS_BELOW_5000, FLOORS, PROFILES, Parameters
from .provenance import device_class
from .step import CODE, NOTEBOOK_OF, RunError, Step, changed_output, kind_of, notebook_of, read_manifest


class Run:
    """One experiment's folder. `Run.start` makes or continues it, `Run.open` reads what an earlier step left.

    committed: whether the folder is one of `reference_root()`, which holds the small files of a run, and is only read.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.name = parameters.name
        self.path = runs_root() / self.name
        self.committed = False
        self._data: dict[str, str] | None = None

    @classmethod
    def start(cls, **parameters: Any) -> Self:
        """Make the folder, or continue in it; RunError if it holds another experiment or cannot be written.

        The later notebooks work on the device of the last start.
        """
        run = cls(Parameters.of(**parameters))
        file = run.path / "parameters.json"
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            tidy(run.path)
            if file.is_file():
                before = run._read()
                then, now = before.training(), run.parameters.training()
                if differ := [f"{k} {then[k]!r} then, {v!r} now" for k, v in now.items() if then[k] != v]:
                    raise RunError(f"run {run.name} holds another experiment ({'; '.join(differ)}); "
                                   "choose another name with the parameter run, or delete the folder.")
                kept = replace(before, device=run.parameters.device)
            else:
                before, kept = None, replace(run.parameters, run=run.name)
            if kept != before:
                values = asdict(kept)
                write_text(file, json.dumps(values | {"checksum": text_checksum(values)}, indent=1) + "\n")
            probe = run.path / f".{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(f"run folder {run.path} cannot be written ({error.strerror}); make it writable, or set "
                           "EBE_RUNS_DIR to a folder that is.") from None
        return run

    @classmethod
    def open(cls, run: str = "", dataset: str = "digits", profile: str = "quick", seed: int = 0,
             device: str | None = None) -> Self:
        """The run of that name, or of that data set, profile and seed; RunError if it was never started.

        device: the one that steps are done on, in place of the one that the run was started with. Where there is no
        such run, but its results are committed, those are opened.
        """
        found = cls(Parameters.of(run=run, dataset=dataset, profile=profile, seed=seed))
        if not found.path.exists() and (reference_root() / found.name).is_dir():
            found.path, found.committed = reference_root() / found.name, True
        if not (found.path / "parameters.json").is_file():
            raise RunError(f"there is no run {found.name} yet: run notebooks/01_train.ipynb with these parameters "
                           f"first, or the whole sequence with\n  {found.command()}")
        found.parameters = found._read() if device is None else replace(found._read(), device=device)
        return found

    @classmethod
    def kept(cls, root: str | Path | None = None) -> dict[str, Self]:
        """All runs whose results are committed, by name."""
        found = {}
        for file in sorted(Path(root or reference_root()).glob("*/parameters.json")):
            run = found[file.parent.name] = cls(Parameters(run=file.parent.name))
            run.path, run.committed = file.parent, True
            run.parameters = run._read()
        return found

    def _read(self) -> Parameters:
        file = self.path / "parameters.json"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values.pop("checksum", None) not in (None, text_checksum(values)):  # earlier versions wrote none
                raise ValueError("its contents do not have the checksum written with them")
            return Parameters.of(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is damaged ({error}); delete the run folder {self.path}.") from None

    def command(self) -> str:
        """The command that runs this experiment."""
        given = asdict(self.parameters)
        if replace(self.parameters, run="").name == self.name:
            given["run"] = ""
        words = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in given.items()
                 if v != getattr(Parameters, k)]
        return " ".join([Path(sys.executable).name, "-m ebe_utils run", *words])

    # --- what a run reads and makes ---

    def load_data(self) -> tuple[ImageSet, ImageSet]:
        """(train_set, test_set) of this run's data set, profile and seed."""
        p = self.parameters
        train, test = load_dataset(p.dataset, seed=p.seed, image_size=p.image_size or None)
        n_train, n_test = (want or min(most or len(data), len(data)) for want, most, data in
                           zip((p.n_train, p.n_test), PROFILES[p.profile][:2], (train, test), strict=True))
        train, test = random_part(train, test, n_train, n_test, p.seed)
        self._data = {"train": train.fingerprint(), "test": test.fingerprint()}
        return train, test

    def epochs(self, train_set: Sized) -> int:
        """Training epochs: the parameter, or the profile's (quick: 7 below 5,000 images, else 3)."""
        if self.parameters.epochs:
            return self.parameters.epochs
        small = self.parameters.profile == "quick" and len(train_set) < 5000
        return _QUICK_EPOCHS_BELOW_5000 if small else PROFILES[self.parameters.profile][2]

    @property
    def schedule(self) -> str:
        """Learning-rate schedule: the parameter, or the profile's."""
        return self.parameters.schedule or PROFILES[self.parameters.profile][3]

    @property
    def floor(self) -> float:
        """Network accuracy below which the checks fail; without a known one, a tenth better than nothing."""
        p = self.parameters
        by_hand = p.epochs or p.n_train or p.stem != "imagenet" or p.optimizer != "adam" or p.augment
        return 0.1 if by_hand else FLOORS.get(p.dataset, 0.1)

    def load_model(self, train_set: ImageSet) -> nn.Module:
        """The trained, frozen network of the step "train"; RunError if the data are not those it was trained on."""
        if self.manifest("train")["inputs"].get("train") != train_set.fingerprint():
            raise RunError(f"the training images of {self.parameters.dataset!r} are not those that run {self.name} was "
                           f"trained on: run {NOTEBOOK_OF['train']} again, or put the data back as they were.")
        model = resnet18_for(train_set, self.parameters.stem, self.parameters.seed)
        return load_model(self.file("train", "model.safetensors"), model, train_set)

    def check(self) -> tuple[ImageSet, ImageSet]:
        """Find out before any work whether data, layer, k and device fit together; returns (train_set, test_set)."""
        p = self.parameters
        train_set, test_set = self.load_data()
        net = resnet18_for(train_set, p.stem)
        on_device(net, p.device)
        layer_name(net, p.layer)
        for name in ("k", "k_max"):
            checks.integer(name, getattr(p, name), 1, len(train_set), f" (there are {len(train_set)} training images)")
        checks.integer("k", p.k, 1, p.k_max, f", the largest k of the sweep: k_max={p.k_max}")
        return train_set, test_set

    @contextlib.contextmanager
    def lock(self, name: str, where: str = "in") -> Iterator[None]:
        """A lock for the time of a with block, held by one process at a time; RunError if another has it.

        name: of the lock's file in the run's folder; where: what it locks, for the error's words.
        """
        import filelock  # of the extra "notebooks"

        lock = filelock.FileLock(self.path / name)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(f"another process is working {where} run {self.name} ({self.path}); wait for it to end, or "
                           "choose another name with the parameter run.") from None
        try:
            yield
        finally:
            lock.release()

    # --- steps ---

    def step(self, name: str, needs: Iterable[str] = (), settings: Mapping[str, Any] | None = None,
             inputs: Mapping[str, Any] | None = None) -> Step:
        """A `Step` of this run. needs: names of the steps whose files it reads; settings, inputs: what else decides
        its result. RunError if a needed step has not run or was damaged.

        Its identity is all of these, with the run's training and test images, the version of the step's code (`CODE`)
        and the class of the device.
        """
        read = {other: _digest(self.manifest(other)) for other in needs}
        identity = {"settings": json.loads(json.dumps(settings or {})), "inputs": dict(inputs or {}) | read}
        return Step(self, name, identity | ({} if self.committed else self._circumstances(name)), read)

    def digest(self, step: str) -> str | None:
        """The digest of a finished step's outputs, as its manifest says it now; None without a manifest."""
        manifest = read_manifest(self.path / step / "manifest.json")
        return None if manifest is None else _digest(manifest)

    def _circumstances(self, step: str) -> dict[str, Any]:
        """What decides the result of every step."""
        if self._data is None:
            self.load_data()
        return {"data": self._data, "code": CODE.get(kind_of(step), 1),
                "device_class": device_class(self.parameters.device)}

    def manifest(self, step: str) -> dict[str, Any]:
        """The manifest of a finished step, its files checked; RunError says which notebook to run."""
        file = self.path / step / "manifest.json"
        if not file.is_file():
            raise RunError(f"step {step!r} of run {self.name} has not run yet: run {notebook_of(step)} "
                           f"first, or the whole sequence with\n  {self.command()}")
        manifest = read_manifest(file)
        changed = file.name if manifest is None else changed_output(self.path / step, manifest)
        if manifest is None or changed is not None:
            raise RunError(f"{file.parent / str(changed)} is damaged or was changed since step "
                           f"{step!r} wrote it: run {notebook_of(step)} again, which makes it anew, or the whole "
                           f"sequence with\n  {self.command()}")
        return manifest

    def file(self, step: str, name: str) -> Path:
        """Path of a file that a finished step left."""
        self.manifest(step)
        return self.path / step / name


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest["outputs"]).encode()).hexdigest()
