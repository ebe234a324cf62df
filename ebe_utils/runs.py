"""Runs: the folder in which the steps of one experiment leave their files, and from which the next step reads.

`data/runs/<name>/` holds parameters.json, one folder per step with its files and its manifest.json, the executed
notebooks and their HTML copies. A step whose manifest still matches is skipped: that is how a run resumes.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import filelock

from . import checks
from .attribution import WEIGHTS
from .data import check_name, data_root, load_dataset, random_part
from .embeddings import POOLINGS
from .model import STEMS, layer_name, load_model, resnet18
from .neighbors import METRICS
from .training import OPTIMIZERS, SCHEDULES

# Largest number of training and test images, epochs and learning-rate schedule of each profile; None keeps all images.
PROFILES = {"quick": (10_000, 2_000, 3, "linear"), "paper": (None, None, 60, "constant")}
_QUICK_EPOCHS_BELOW_5000 = 7
# Network accuracy below which a run's checks fail; anything lower means that something broke.
FLOORS = {"digits": 0.85, "mnist": 0.95, "fashion_mnist": 0.8, "cifar10": 0.3}
_VERSIONS = ("ebe-utils", "torch", "torchvision", "numpy", "scikit-learn")


class RunError(RuntimeError):
    """A run folder that cannot be used as asked: a missing step, a lock, a read-only disk, other parameters."""


@dataclass(frozen=True)
class Parameters:
    """Everything that an experiment can be asked to do; the comments are the help texts of the command line."""

    dataset: str = "digits"  # digits, mnist, fashion_mnist, cifar10, or folder:PATH
    profile: str = "quick"  # quick (at most 10,000/2,000 images, 3 or 7 epochs) or paper (all, 60 epochs)
    seed: int = 0  # every random choice hangs on it
    epochs: int = 0  # training epochs; 0 takes the profile's
    n_train: int = 0  # training images; 0 takes the profile's
    n_test: int = 0  # test images; 0 takes the profile's
    image_size: int = 0  # side in pixels that a folder's images are resized to; 0 keeps theirs
    batch_size: int = 128  # training images per step
    learning_rate: float = 0.001  # of the optimizer
    optimizer: str = "adam"  # adam or sgd (momentum 0.9)
    schedule: str = ""  # of the learning rate: constant or linear (to zero); empty takes the profile's
    augment: bool = False  # random shift and flip while training
    stem: str = "imagenet"  # imagenet (torchvision's own) or cifar (3x3, stride 1, no pooling)
    device: str = "auto"  # auto, cpu, cuda, ...
    layer: int | str = 14  # the layer explained: the paper's number or a module name
    k: int = 10  # examples per explanation
    k_max: int = 50  # largest k of the sweep
    metric: str = "cosine"  # cosine, euclidean or manhattan
    weights: str = "uniform"  # uniform or distance
    pooling: str = "none"  # none (embeddings flattened) or avg (averaged over positions)
    run: str = ""  # name of the run folder; empty derives one from the parameters

    def __post_init__(self):
        for field in fields(self):
            self._check_type(field, getattr(self, field.name))
        check_name(self.dataset)
        for name, allowed in (("profile", tuple(PROFILES)), ("optimizer", OPTIMIZERS), ("schedule", ("", *SCHEDULES)),
                              ("stem", STEMS), ("metric", METRICS), ("weights", WEIGHTS), ("pooling", POOLINGS)):
            checks.one_of(name, getattr(self, name), allowed)
        for name in ("seed", "epochs", "n_train", "n_test", "image_size"):
            checks.integer(name, getattr(self, name), 0)
        for name, low in (("batch_size", 2), ("k", 1), ("k_max", 1)):
            checks.integer(name, getattr(self, name), low)
        checks.real("learning_rate", self.learning_rate)
        if not re.fullmatch(r"[\w.-]*", self.run) or self.run.startswith("."):
            raise ValueError(f"run={self.run!r} cannot name a folder; use letters, digits, '-', '_' and '.'.")

    @staticmethod
    def _check_type(field, value):
        wanted = {str: "a text", int: "an integer", float: "a number", bool: "True or False"}.get(
            field.type, "an integer or a text")
        ok = (isinstance(value, field.type) and isinstance(value, bool) == (field.type is bool)
              or field.type is float and isinstance(value, int) and not isinstance(value, bool))
        if not ok:
            raise TypeError(f"{field.name}={value!r} is a {type(value).__name__}; pass {wanted}, "
                            f"{field.default!r} for example.")

    @classmethod
    def of(cls, **given):
        """Parameters from names and values; TypeError for an unknown name, with the nearest right one."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(f"there is no parameter {name!r}; the parameters are {', '.join(names)}."
                                + checks.did_you_mean(name, names))
        return cls(**given)

    @property
    def name(self):
        """Name of the run folder: `run`, or data set, profile, what differs from the defaults, and seed."""
        return self.run or f"{self._training_words()}-seed{self.seed}"

    @property
    def group(self):
        """What runs have in common that differ in the seed only: "mnist-paper", "cifar10-quick-stem-cifar-avg"."""
        return self._training_words() + self.sweep_step.removeprefix("sweep")

    def _training_words(self):
        words = [re.sub(r"\W+", "-", self.dataset).strip("-"), self.profile]
        words += [f"{key}-{value}" for key, value in self.training().items()
                  if key not in ("dataset", "profile", "seed") and value != getattr(Parameters, key)]
        return "-".join(words)

    @property
    def sweep_step(self):
        """Name of the sweep's step: "sweep", with what differs from the paper's metric, votes and pooling."""
        return "-".join(["sweep", *(getattr(self, name) for name in ("metric", "weights", "pooling")
                                    if getattr(self, name) != getattr(Parameters, name))])

    def training(self):
        """The parameters that decide what the network becomes."""
        last = list(asdict(self)).index("stem")
        return dict(list(asdict(self).items())[:last + 1])


def runs_root():
    """Folder of the runs: `EBE_RUNS_DIR`, or `runs/` among the data sets."""
    return Path(os.environ.get("EBE_RUNS_DIR") or data_root() / "runs").expanduser().resolve()


REFERENCE = Path(__file__).resolve().parents[1] / "data" / "reference"  # results that are committed


class Run:
    """One experiment's folder. `Run.start` makes or continues it, `Run.open` reads what an earlier step left.

    committed: whether the folder is one of `REFERENCE`, which holds the small files of a run, and is only read.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        self.name = parameters.name
        self.path = runs_root() / self.name
        self.committed = False

    @classmethod
    def start(cls, **parameters):
        """Make the folder, or continue in it; RunError if it holds another experiment or cannot be written."""
        run = cls(Parameters.of(**parameters))
        file = run.path / "parameters.json"
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                then, now = run._read().training(), run.parameters.training()
                if differ := [f"{k} {then[k]!r} then, {v!r} now" for k, v in now.items() if then[k] != v]:
                    raise RunError(f"run {run.name} holds another experiment ({'; '.join(differ)}); "
                                   "choose another name with the parameter run, or delete the folder.")
            else:
                write_text(file, json.dumps(asdict(run.parameters) | {"run": run.name}, indent=1) + "\n")
            probe = run.path / f".{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(f"run folder {run.path} cannot be written ({error.strerror}); make it writable, or set "
                           "EBE_RUNS_DIR to a folder that is.") from None
        return run

    @classmethod
    def open(cls, run="", dataset="digits", profile="quick", seed=0):
        """The run of that name, or of that data set, profile and seed; RunError if it was never started.

        Where there is no such run, but its results are committed, those are opened.
        """
        found = cls(Parameters.of(run=run, dataset=dataset, profile=profile, seed=seed))
        if not found.path.exists() and (REFERENCE / found.name).is_dir():
            found.path, found.committed = REFERENCE / found.name, True
        if not (found.path / "parameters.json").is_file():
            raise RunError(f"there is no run {found.name} yet: run notebooks/01_train.ipynb with these parameters "
                           f"first, or the whole sequence with\n  {found.command()}")
        found.parameters = found._read()
        return found

    @classmethod
    def kept(cls, root=REFERENCE):
        """All runs whose results are committed, by name."""
        found = {}
        for file in sorted(Path(root).glob("*/parameters.json")):
            run = found[file.parent.name] = cls(Parameters(run=file.parent.name))
            run.path, run.committed = file.parent, True
            run.parameters = run._read()
        return found

    def _read(self):
        file = self.path / "parameters.json"
        try:
            return Parameters.of(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); delete the run folder {self.path}.") from None

    def command(self):
        """The command that runs this experiment."""
        given = asdict(self.parameters)
        if replace(self.parameters, run="").name == self.name:
            given["run"] = ""
        words = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in given.items()
                 if v != getattr(Parameters, k)]
        return " ".join([Path(sys.executable).name, "-m ebe_utils run", *words])

    # --- what a run reads and makes ---

    def load_data(self):
        """(train_set, test_set) of this run's data set, profile and seed."""
        p = self.parameters
        train, test = load_dataset(p.dataset, seed=p.seed, image_size=p.image_size or None)
        sizes = [want or min(most or len(data), len(data)) for want, most, data in
                 zip((p.n_train, p.n_test), PROFILES[p.profile][:2], (train, test), strict=True)]
        return random_part(train, test, *sizes, p.seed)

    def epochs(self, train_set):
        """Training epochs: the parameter, or the profile's (quick: 7 below 5,000 images, else 3)."""
        if self.parameters.epochs:
            return self.parameters.epochs
        small = self.parameters.profile == "quick" and len(train_set) < 5000
        return _QUICK_EPOCHS_BELOW_5000 if small else PROFILES[self.parameters.profile][2]

    @property
    def schedule(self):
        """Learning-rate schedule: the parameter, or the profile's."""
        return self.parameters.schedule or PROFILES[self.parameters.profile][3]

    @property
    def floor(self):
        """Network accuracy below which the checks fail; without a known one, a tenth better than nothing."""
        p = self.parameters
        by_hand = p.epochs or p.n_train or p.stem != "imagenet" or p.optimizer != "adam" or p.augment
        return 0.1 if by_hand else FLOORS.get(p.dataset, 0.1)

    def load_model(self, train_set):
        """The trained, frozen network of the step "train"; RunError if the data are not those it was trained on."""
        if self.manifest("train")["inputs"]["train"] != train_set.fingerprint():
            raise RunError(f"the training images of {self.parameters.dataset!r} are not those that run {self.name} was "
                           f"trained on: run {NOTEBOOK_OF['train']} again, or put the data back as they were.")
        model = resnet18(train_set, self.parameters.stem, self.parameters.seed)
        return load_model(self.file("train", "model.safetensors"), model, train_set)

    def check(self):
        """Find out before any work whether data, layer and k fit together; returns (train_set, test_set)."""
        p = self.parameters
        train_set, test_set = self.load_data()
        layer_name(resnet18(train_set, p.stem), p.layer)
        for name in ("k", "k_max"):
            checks.integer(name, getattr(p, name), 1, len(train_set), f" (there are {len(train_set)} training images)")
        return train_set, test_set

    @contextlib.contextmanager
    def lock(self, name=".lock"):
        """A lock for the time of a with block, held by one process at a time; RunError if another has it."""
        lock = filelock.FileLock(self.path / name)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(f"another process is working in run {self.name} ({self.path}); wait for it to end, or "
                           "choose another name with the parameter run.") from None
        try:
            yield
        finally:
            lock.release()

    # --- steps ---

    def step(self, name, needs=(), settings=None, inputs=None):
        """A `Step` of this run. needs: names of the steps whose files it reads; settings, inputs: what else decides
        its result (parameters, and fingerprints of data). RunError if a needed step has not run or was damaged."""
        inputs = dict(inputs or {})
        for other in needs:
            inputs[other] = hashlib.sha256(json.dumps(self.manifest(other)["outputs"]).encode()).hexdigest()
        return Step(self, name, {"settings": json.loads(json.dumps(settings or {})), "inputs": inputs})

    def manifest(self, step):
        """The manifest of a finished step, its files checked; RunError says which notebook to run."""
        file = self.path / step / "manifest.json"
        if not file.is_file():
            raise RunError(f"step {step!r} of run {self.name} has not run yet: run {notebook_of(step)} "
                           f"first, or the whole sequence with\n  {self.command()}")
        manifest = _read_json(file)
        if manifest is None or (changed := _changed(self.path / step, manifest)):
            raise RunError(f"{file.parent / (changed if manifest else file.name)} is damaged or was changed since step "
                           f"{step!r} wrote it: run {notebook_of(step)} again, which makes it anew, or the whole "
                           f"sequence with\n  {self.command()}")
        return manifest

    def file(self, step, name):
        """Path of a file that a finished step left."""
        self.manifest(step)
        return self.path / step / name


NOTEBOOK_OF = {"train": "notebooks/01_train.ipynb", "embeddings": "notebooks/02_embeddings.ipynb",
               "attribution": "notebooks/03_attribution.ipynb", "sweep": "notebooks/04_layer_sweep.ipynb",
               "figures": "notebooks/05_figures.ipynb", "taps": "notebooks/07_claims.ipynb",
               "claims": "notebooks/07_claims.ipynb", "evaluation": "notebooks/08_evaluation.ipynb",
               "choosing": "notebooks/09_choosing.ipynb", "checkpoints": "notebooks/10_methods_compared.ipynb",
               "methods": "notebooks/10_methods_compared.ipynb", "similarity": "notebooks/11_why_similar.ipynb"}


def notebook_of(step):
    """The notebook of a step; that of "sweep-euclidean" is the sweep's."""
    return NOTEBOOK_OF.get(step.split("-")[0], "it")


class Step:
    """One step of a run: `if step.todo: with step: ...` does the work only if its manifest does not match.

    Inside the with block the run is locked; at its end the manifest is written, with the hash of every file in the
    step's folder, versions, device, seconds and peak memory. After an exception there is no manifest. A step may add to
    its files in further with blocks: seconds are those of all, and an exception leaves the manifest of those before.
    """

    def __init__(self, run, name, identity):
        self.run, self.name, self.identity = run, name, identity
        self.folder = run.path / name
        manifest = _read_json(self.folder / "manifest.json")
        if manifest is None:
            why = "running"
        elif {k: manifest.get(k) for k in identity} != identity:
            why = "running again: parameters or inputs have changed"
        elif changed := _changed(self.folder, manifest):
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
                    "outputs": {f.relative_to(self.folder).as_posix(): _sha256(f) for f in files},
                    "seconds": round(self._seconds, 1), "peak_memory_MiB": peak_memory(),
                    "device": _device(), "processor": processor(), "machine": platform.machine(),
                    "python": platform.python_version(), "versions": versions(),
                    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
                write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
                self._whole = True
        finally:
            self._lock.close()


def write_text(path, text):
    """Write a file under a temporary name and rename it when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_json(file):
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("outputs"), dict) else None


def _changed(folder, manifest):
    """Name of the first output that is missing or not what the manifest recorded, or None."""
    for name, digest in manifest["outputs"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            return name
    return None


def _sha256(file):
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def peak_memory():
    """Peak resident memory of this process in MiB; None where the system does not tell."""
    try:  # Linux: unlike getrusage, not what the parent had when it started this process
        return round(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10)
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform != "darwin" else 2**20))


def processor():
    """Name of the processor: numbers that come out of a training differ in their last digits from one to another."""
    try:  # Linux, where the platform module does not know it
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor()


def versions():
    """{package: version} of what decides the numbers."""
    return {package: importlib.metadata.version(package) for package in _VERSIONS}


def _device():
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
