"""The explorer of a run: its neighbours at every layer, its data and its network as one page."""

from pathlib import Path
from typing import Any

from ..explorer import Explorer, explore
from ..layer_neighbors import LayerNeighbors
from .run import Run
from .step import RunError

PAGE = "explorer.html"  # in the folder of the run


def explorer_of(run: Run, sweep: str = "", **options: Any) -> Explorer:
    """The `Explorer` of a run that has swept its layers.

    sweep: name of the step, "sweep-euclidean" say; by default that of the run's parameters. options: of
    `ebe_utils.explorer.explore`. RunError for a run without that sweep, and for committed results, which hold tables
    but no neighbours.
    """
    if run.committed:
        raise RunError(f"run {run.name} is a committed result, which holds tables but neither neighbours nor the "
                       f"network; do the run itself with\n  {run.command()}")
    step = sweep or run.parameters.sweep_step
    there = sorted(path.parent.name for path in run.path.glob("sweep*/manifest.json"))
    if step not in there and there:
        raise RunError(f"run {run.name} has no sweep {step!r}, but {', '.join(there)}; name it with --sweep.")
    settings = run.manifest(step)["settings"]
    train_set, test_set = run.load_data()
    return explore(LayerNeighbors.load(run.file(step, "neighbors.safetensors")), train_set, test_set,
                   run.load_model(train_set), **{
                       "pooling": settings.get("pooling", "none"), "device": run.parameters.device,
                       "title": f"Which training examples vote? {run.name}", **options})


def explore_run(run: Run, output: str | Path = "", **options: Any) -> str:
    """Write the run's explorer to `output`, by default RUN/explorer.html; returns a line that says what was written.

    options: of `explorer_of`.
    """
    explorer = explorer_of(run, **options)
    path = explorer.save(output or run.path / PAGE)
    drawn = explorer.payload["pictures"]["rank"]
    few = "" if drawn == explorer.payload["k_max"] else f"; room for pictures of the first {drawn} examples of each"
    return f"{path}  ({explorer}, {path.stat().st_size / 1e6:.1f} MB{few})"
