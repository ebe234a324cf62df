"""The small run that the trial kills, damages and starves: a tiny network on digits, trained, searched, voted."""

import contextlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from ..explainer import EBEClassifier
from ..layer_neighbors import layer_neighbors
from ..model import load_model, save_model
from ..study.run import Run
from ..tables import save_tables
from ..training import train

NAME = "trial"
PARAMETERS: dict[str, Any] = {"run": NAME, "n_train": 48, "n_test": 24, "epochs": 25, "batch_size": 16, "k": 3,
                              "k_max": 5, "device": "cpu"}
STATE = ".state.safetensors"


def network(seed: int = 0) -> nn.Module:
    """Two convolutions, a batch norm and a linear head, for digits: small enough to train in a moment."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(1, 4, 3, padding=1, bias=False), norm=nn.BatchNorm2d(4), relu=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(4, 6, 3, stride=2), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(6, 10)))


@contextlib.contextmanager
def runs_in(folder: Path) -> Iterator[None]:
    """Runs lie in `folder` for the time of a with block, and torch has one thread."""
    before, threads = os.environ.get("EBE_RUNS_DIR"), torch.get_num_threads()
    os.environ["EBE_RUNS_DIR"] = str(folder)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("EBE_RUNS_DIR")
        if before is not None:
            os.environ["EBE_RUNS_DIR"] = before


def work(runs: Path, epochs: int | None = None) -> str:
    """Do the run in the folder `runs`, or what is left of it; returns what was printed.

    epochs: stop in the middle of the training, when so many are done, as a killed process would.
    """
    with runs_in(Path(runs)), contextlib.redirect_stdout(io.StringIO()) as said:
        run = Run.start(**PARAMETERS)
        train_set, test_set = run.load_data()
        options: dict[str, Any] = {"epochs": run.parameters.epochs, "device": "cpu",
                                   "batch_size": run.parameters.batch_size}
        step = run.step("train", settings=run.parameters.training())
        if step.todo and epochs is not None:
            step.folder.mkdir()
            train(network(), train_set, **options | {"epochs": epochs}, state=step.path(STATE), progress=False)
            return said.getvalue()
        if step.todo:
            with step:
                model = train(network(), train_set, **options, state=step.path(STATE), progress=False)
                save_model(step.path("model.safetensors"), model, train_set)
                step.path(STATE).unlink()
        model = load_model(run.file("train", "model.safetensors"), network(1), train_set)
        step = run.step("sweep", needs=["train"], settings={"k_max": run.parameters.k_max})
        if step.todo:
            with step:
                found = layer_neighbors(model, train_set, test_set, k=run.parameters.k_max, device="cpu",
                                        progress=False)
                found.save(step.path("neighbors.safetensors"))
                save_tables(found, step.folder)
    return said.getvalue()


def results(runs: Path) -> dict[str, bytes]:
    """Everything that the run came to: tensors and tables, bit by bit, and the parameters that it is opened with."""
    folder, found = Path(runs) / NAME, {}
    with runs_in(Path(runs)):
        found["parameters"] = repr(asdict(Run.open(NAME).parameters)).encode()
    for file in (folder / "train" / "model.safetensors", folder / "sweep" / "neighbors.safetensors"):
        found |= {f"{file.name} {name} {array.dtype} {array.shape}": array.tobytes()
                  for name, array in load_file(file).items()}
    return found | {file.name: file.read_bytes() for file in sorted((folder / "sweep").glob("*.csv"))}


def remains(runs: Path) -> list[str]:
    """Temporary files that lie in the run's folder."""
    return [file.name for file in (Path(runs) / NAME).rglob(".*") if file.suffix in (".part", ".old")
            or file.name == STATE]


def fitted() -> tuple[EBEClassifier, np.ndarray]:
    """(a classifier, queries): random 8 by 8 images of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    ebe = EBEClassifier(network().eval(), 2, 5, weights="distance").fit(images[:24], np.arange(24) % 10)
    return ebe, images[24:]


def answers(ebe: EBEClassifier, queries: np.ndarray) -> list[bytes]:
    """All that a classifier answers, bit by bit."""
    found = [*ebe.kneighbors(queries), ebe.predict(queries), ebe.predict_proba(queries),
             ebe.attributions(queries).toarray()]
    shown = ebe.explain(queries[0])
    return [np.ascontiguousarray(part).tobytes() for part in found] + [str(shown).encode(), repr(ebe.k).encode(),
                                                                       repr(shown.examples).encode()]
