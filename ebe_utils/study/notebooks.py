"""The notebooks in sequence: each is run by papermill with a run's parameters, and left in the run's folder."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ..files import write_text
from ..places import checkout
from .parameters import Parameters
from .run import Run
from .step import RunError

EXPERIMENT = ("00", "01", "02", "03", "04", "05")  # the paper's; the other notebooks go beyond it


def notebook_paths(folder=None):
    """The notebooks in the order in which they run; RunError if there are none."""
    folder = Path(folder or (checkout() or Path.cwd()) / "notebooks")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise RunError(f"there are no notebooks in {folder}; run from a checkout of the repository, "
                       "with the package installed by `pip install -e .`.")
    return paths


def run_notebooks(parameters, only=EXPERIMENT, progress=print):
    """Run the notebooks in order with these `Parameters`; each leaves NAME.ipynb and NAME.html in the run's folder.

    only: beginnings of the names of the notebooks to run ("06", say), or ["all"]. Everything that can be wrong with the
    parameters and the data is found before the first notebook starts. Returns the `Run`.
    """
    import papermill

    paths = [p for p in notebook_paths() if "all" in only or p.name.startswith(tuple(only))]
    if not paths:
        raise ValueError(f"no notebook begins with {', '.join(only)}; there are all, "
                         f"{', '.join(p.stem for p in notebook_paths())}.")
    Run(parameters).check()
    run = Run.start(**asdict(parameters))
    given = {name: value for name, value in asdict(parameters).items() if value != getattr(Parameters, name)}
    if Parameters(parameters.dataset, parameters.profile, parameters.seed).name != run.name:
        given["run"] = run.name
    out = run.path / "notebooks"
    out.mkdir(exist_ok=True)
    # The HTML copy of a notebook is made while the next one's kernel starts.
    with run.lock(".sequence.lock"), ThreadPoolExecutor(1) as beside:
        copies = []
        for path in paths:
            start = time.perf_counter()
            known = papermill.inspect_notebook(path)
            part = out / f".{path.name}.part.ipynb"
            try:
                # After its last cell a kernel has nothing to tidy up; waiting until it has takes two seconds.
                papermill.execute_notebook(path, part, {k: v for k, v in given.items() if k in known}, cwd=path.parent,
                                           kernel_name="python3", progress_bar=False, shutdown_kernel="immediate",
                                           extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
            except papermill.PapermillExecutionError as error:
                part.replace(out / path.name)
                raise RunError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                               f"The notebook as far as it came: {out / path.name}") from None
            part.replace(out / path.name)
            copies.append(beside.submit(write_html, out / path.name))
            progress(f"{path.stem:<20} {time.perf_counter() - start:5.0f} s")
        for copy in copies:
            copy.result()
    return run


def write_html(path):
    """An HTML copy beside a notebook, images inside."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(embed_images=True).from_filename(path)
    write_text(Path(path).with_suffix(".html"), body)


def summary(run):
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
