"""The notebooks in sequence: each is run by papermill with a run's parameters, and left in the run's folder."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ..paths import checkout
from .domains import own_parameters
from .kernels import Kernels
from .parameters import Parameters
from .run import Run
from .step import RunError

EXPERIMENT = ("00", "01", "02", "03", "04", "05")  # the paper's; the other notebooks go beyond it


def notebook_paths(folder: str | Path | None = None) -> list[Path]:
    """The notebooks in the order in which they run; RunError if there are none."""
    folder = Path(folder or (checkout() or Path.cwd()) / "notebooks")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise RunError(f"there are no notebooks in {folder}; run from a checkout of the repository, "
                       "with the package installed by `pip install -e .`.")
    return paths


def chosen_notebooks(only: str | Iterable[str]) -> list[Path]:
    """The notebooks whose names begin with one of these words ("06", say), or every one for "all".

    only: words, or a text of words with blanks between them. ValueError for a word of which there is no notebook.
    """
    words, paths = only.split() if isinstance(only, str) else list(only), notebook_paths()
    if "all" in words:
        return paths
    wrong = [w for w in words if len(w) < 2 or not any(p.name.startswith(w) for p in paths)]  # "0" would be ten
    if wrong or not words:
        raise ValueError(f"no notebook begins with {', '.join(wrong) or 'nothing'}; there are all, "
                         f"{', '.join(p.stem for p in paths)}.")
    return [p for p in paths if p.name.startswith(tuple(words))]


def run_notebooks(parameters: Parameters, only: str | Iterable[str] = EXPERIMENT,
                  progress: Callable[[str], object] = print) -> Run:
    """Run the notebooks in order with these `Parameters`; each leaves NAME.ipynb and NAME.html in the run's folder.

    only: the notebooks to run, see `chosen_notebooks`. Those with data of their own, from 12 on, take of the parameters
    what `own_parameters` says: seed, device and k, but no image data set. Everything that can be wrong with the
    parameters and the data is found before the first notebook starts. Returns the `Run`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from .pages import write_html

    paths = chosen_notebooks(only)
    Run(parameters).check()
    run = Run.start(**asdict(parameters))
    given = {name: value for name, value in asdict(parameters).items() if value != getattr(Parameters, name)}
    if Parameters(parameters.dataset, parameters.profile, parameters.seed).name != run.name:
        given["run"] = run.name
    out = run.path / "notebooks"
    out.mkdir(exist_ok=True)
    # The HTML copy of a notebook is made while the next one is at work, whose kernel started meanwhile.
    with (run.lock(".sequence.lock"), Kernels(paths[0].parent, len(paths)) as kernels,
          ThreadPoolExecutor(1) as beside):
        for part in out.glob(".*.part.ipynb"):  # of killed processes: nobody else works here now
            part.unlink(missing_ok=True)
        copies = []
        for path in paths:
            start = time.perf_counter()
            known = papermill.inspect_notebook(path)
            part = out / f".{path.name}.part.ipynb"
            try:
                papermill.execute_notebook(path, part, own_parameters(known, given), cwd=path.parent,
                                           kernel_name="python3", progress_bar=False, km=kernels.take())
            except papermill.PapermillExecutionError as error:
                part.replace(out / path.name)
                raise RunError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                               f"The notebook as far as it came: {out / path.name}") from None
            except DeadKernelError:
                part.replace(out / path.name)
                raise RunError(f"{path.name}: its kernel was killed, most often for want of memory; close other "
                               "programs, or ask for fewer images with n_train and n_test.\n"
                               f"The notebook as far as it came: {out / path.name}") from None
            part.replace(out / path.name)
            copies.append(beside.submit(write_html, out / path.name))
            progress(f"{path.stem:<20} {time.perf_counter() - start:5.0f} s")
        for copy in copies:
            copy.result()
    return run


def summary(run: Run) -> str:
    """What a finished sequence reached: a table of accuracies and where its files are, as text."""
    p = run.parameters
    sweep = pd.read_csv(run.file(p.sweep_step, "sweep.csv"))
    at = sweep[(sweep["k"] == p.k) & (sweep["layer"].astype(str) != "0")].set_index("layer")["accuracy"]
    best = at.idxmax()
    rows = [("network", sweep["network_accuracy"].iloc[0])]
    rows += [(f"EBE, layer {p.layer}", at[p.layer])] if p.layer in at else []
    rows += [(f"EBE, best layer ({best})", at[best])]
    lines = [f"Run {run.name}, k = {p.k}", f"{'':<24}accuracy", *(f"{name:<24}{value:8.4f}" for name, value in rows)]
    for what, folder in (("Executed notebooks, HTML copies", "notebooks"), ("Figures", "figures")):
        lines.append(f"{what}: {run.path / folder}")
    return "\n".join(lines)
