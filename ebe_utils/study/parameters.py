"""Everything that an experiment can be asked to do."""

import re
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Self

from .. import checks
from ..datasets import LARGEST_SEED, LARGEST_SIDE, check_name
from ..embeddings import POOLINGS
from ..model import STEMS
from ..search.rows import METRICS
from ..training import OPTIMIZERS, SCHEDULES
from ..votes import check_weights

# Largest number of training and test images, epochs and learning-rate schedule of each profile; None keeps all images.
# "fast" is for results that do not need the paper's recipe: a fifth of its epochs, at a rate that falls to zero.
PROFILES = {"quick": (10_000, 2_000, 3, "linear"), "fast": (None, None, 12, "linear"),
            "paper": (None, None, 60, "constant")}
_QUICK_EPOCHS_BELOW_5000 = 7
LONGEST_NAME = 200  # of a run; file systems take 255 bytes
# Network accuracy below which a run's checks fail; anything lower means that something broke.
FLOORS = {"digits": 0.85, "mnist": 0.95, "fashion_mnist": 0.8, "cifar10": 0.3}


def parameter(default: Any, help: str) -> Any:
    """A field of `Parameters`; the help text is that of the command line and of the notebooks' comments."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Parameters:
    """Everything that an experiment can be asked to do."""

    dataset: str = parameter("digits", "digits, mnist, fashion_mnist, cifar10, or folder:PATH")
    profile: str = parameter("quick", "quick (10,000 images at most), fast (all, 12 epochs) or paper (all, 60 epochs)")
    seed: int = parameter(0, "decides every random choice")
    epochs: int = parameter(0, "training epochs; 0 takes the profile's")
    n_train: int = parameter(0, "training images; 0 takes the profile's")
    n_test: int = parameter(0, "test images; 0 takes the profile's")
    image_size: int = parameter(0, "side in pixels that a folder's images are resized to; 0 keeps theirs")
    batch_size: int = parameter(128, "training images per step")
    learning_rate: float = parameter(0.001, "of the optimizer")
    optimizer: str = parameter("adam", "adam, adamw, sgd (momentum 0.9) or plain_sgd")
    schedule: str = parameter("", "of the learning rate: constant or linear (to zero); empty takes the profile's")
    augment: bool = parameter(False, "random shift and flip while training")
    stem: str = parameter("imagenet", "imagenet (torchvision's own) or cifar (3x3, stride 1, no pooling)")
    device: str = parameter("auto", "auto, cpu, cuda, ...")
    layer: int | str = parameter(14, "the layer explained: the paper's number or a module name")
    k: int = parameter(10, "examples per explanation")
    k_max: int = parameter(50, "largest number of examples of the sweep")
    metric: str = parameter("cosine", "cosine, euclidean or manhattan")
    weights: str = parameter("uniform", "uniform (1/k, the paper's), distance, softmax or nnk")
    pooling: str = parameter("none", "none (embeddings flattened) or avg (averaged over positions)")
    run: str = parameter("", "name of the run folder; empty derives one from the parameters")

    def __post_init__(self) -> None:
        for one in fields(self):
            self._check_type(one, getattr(self, one.name))
        check_name(self.dataset)
        for name, allowed in (("profile", tuple(PROFILES)), ("optimizer", tuple(OPTIMIZERS)), ("stem", STEMS),
                              ("schedule", ("", *SCHEDULES)), ("metric", METRICS), ("pooling", POOLINGS)):
            checks.one_of(name, getattr(self, name), allowed)
        check_weights("weights", self.weights, self.metric)
        for name in ("seed", "epochs", "n_train", "n_test", "image_size"):
            checks.integer(name, getattr(self, name), 0)
        for name, high in (("seed", LARGEST_SEED), ("image_size", LARGEST_SIDE)):
            checks.integer(name, getattr(self, name), 0, high)
        for name, low in (("batch_size", 2), ("k", 1), ("k_max", 1)):
            checks.integer(name, getattr(self, name), low)
        checks.real("learning_rate", self.learning_rate)
        if not re.fullmatch(r"[\w.-]*", self.run) or self.run.startswith("."):
            raise ValueError(f"run={self.run!r} cannot name a folder; use letters, digits, '-', '_' and '.'.")
        if len(self.name) > LONGEST_NAME:
            raise ValueError(f"run={self.run!r} makes the run's name {len(self.name)} letters long, too many for a "
                             f"folder; pass one of at most {LONGEST_NAME}.")

    @staticmethod
    def _check_type(one: Field, value: Any) -> None:
        kind: Any = one.type
        wanted = {str: "a text", int: "an integer", float: "a number", bool: "True or False"}.get(
            kind, "an integer or a text")
        ok = (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
              or kind is float and isinstance(value, int) and not isinstance(value, bool))
        if not ok:
            raise TypeError(f"{one.name}={value!r} is a {type(value).__name__}; pass {wanted}, "
                            f"{one.default!r} for example.")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Parameters from names and values; TypeError for an unknown name, with the nearest right one."""
        names = [one.name for one in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(f"there is no parameter {name!r}; the parameters are {', '.join(names)}."
                                + checks.did_you_mean(name, names))
        return cls(**given)

    @property
    def name(self) -> str:
        """Name of the run folder: `run`, or data set, profile, what differs from the defaults, and seed."""
        return self.run or f"{self._training_words()}-seed{self.seed}"

    @property
    def group(self) -> str:
        """What runs have in common that differ in the seed only: "mnist-paper", "cifar10-quick-stem-cifar-avg"."""
        return self._training_words() + self.sweep_step.removeprefix("sweep")

    def _training_words(self) -> str:
        words = [re.sub(r"\W+", "-", self.dataset).strip("-"), self.profile]
        words += [f"{key}-{value}" for key, value in self.training().items()
                  if key not in ("dataset", "profile", "seed") and value != getattr(Parameters, key)]
        return "-".join(words)

    @property
    def sweep_step(self) -> str:
        """Name of the sweep's step: "sweep", with what differs from the paper's metric, votes and pooling."""
        return "-".join(["sweep", *(getattr(self, name) for name in ("metric", "weights", "pooling")
                                    if getattr(self, name) != getattr(Parameters, name))])

    def training(self) -> dict[str, Any]:
        """The parameters that decide what the network becomes."""
        last = list(asdict(self)).index("stem")
        return dict(list(asdict(self).items())[:last + 1])
