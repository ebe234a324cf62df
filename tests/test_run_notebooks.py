"""The runner of notebooks, on notebooks of a few lines: what it leaves, and what happens when a kernel is killed."""

import json
from pathlib import Path

import nbformat
import psutil
import pytest

from ebe_utils.study import kernels
from ebe_utils.study.cli import main, reported
from ebe_utils.study.notebooks import run_notebooks
from ebe_utils.study.parameters import Parameters
from ebe_utils.study.run import Run
from ebe_utils.study.step import RunError
from ebe_utils.upkeep.publishing import CHECKOUT


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a notebook; the runner finds those that were written."""
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def write(name, *cells):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")

    monkeypatch.setattr("ebe_utils.study.notebooks.notebook_paths", lambda: sorted(folder.glob("*.ipynb")))
    monkeypatch.setattr(kernels, "WARM", ("json.tool",))  # quickly imported, and not by a kernel of itself
    return write


def test_notebooks_get_their_parameters_and_leave_copies(write):
    write("00_first", "k = 10  # examples", "print(2 * k)")
    lines = []
    run = run_notebooks(Parameters(k=7), "00", lines.append)
    left = sorted(file.name for file in (run.path / "notebooks").iterdir())
    assert left == ["00_first.html", "00_first.ipynb"]
    assert ">14\n" in (run.path / "notebooks" / "00_first.html").read_text()
    assert lines[0].startswith("00_first ")


def test_a_killed_kernel_is_reported_and_the_next_start_tidies_up(write):
    write("00_first", "k = 10", "print('before')", "import os; os._exit(9)", "print('after')")
    with pytest.raises(RunError, match="00_first.ipynb: its kernel was killed, most often for want of memory"):
        run_notebooks(Parameters(), "00")
    folder = Run.open().path / "notebooks"
    kept = json.loads((folder / "00_first.ipynb").read_text())
    assert "before" in json.dumps(kept) and [file.name for file in folder.iterdir()] == ["00_first.ipynb"]
    (folder / ".00_first.ipynb.part.ipynb").touch()
    write("00_first", "k = 10")
    run_notebooks(Parameters(), "00")
    assert not list(folder.glob(".*"))


def running():
    """Kernels below this process, where the sequence of all notebooks may have its own."""
    return {p for p in psutil.Process().children(recursive=True) if p.is_running() and "-f" in (words := p.cmdline())
            and any("ipykernel" in word for word in words) and Path(p.cwd()).name == "notebooks"
            and Path(p.cwd()).parent != CHECKOUT}


def test_every_notebook_has_a_kernel_of_its_own_that_has_imported_and_bound_nothing(write):
    write("00_first", "k = 10", "import os; print('kernel', os.getpid()); left = 5")
    write("01_second", "k = 10", "import os, sys; print('kernel', os.getpid(), 'json.tool' in sys.modules)",
          "print([name for name in ('left', 'json') if name in globals()], os.getcwd())")
    run = run_notebooks(Parameters(), ["00", "01"], lambda line: None)
    printed = []
    for name in ("00_first", "01_second"):
        cells = json.loads((run.path / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        printed.append("".join("".join(o["text"]) for c in cells for o in c.get("outputs", [])).split())
    assert printed[0][1] != printed[1][1]
    assert printed[1][2:4] == ["True", "[]"]
    assert printed[1][4].endswith("/notebooks")
    assert not running()


def test_what_is_imported_ahead_is_there():
    for name in kernels.WARM:
        __import__(name)


def test_after_an_error_no_kernel_is_left(write):
    write("00_first", "k = 10", "1 / 0")
    write("01_second", "k = 10")
    with pytest.raises(RunError, match="ZeroDivisionError"):
        run_notebooks(Parameters(), ["00", "01"])
    assert not running()


def test_an_interruption_is_no_traceback(monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebe_utils.study.cli.run_notebooks", interrupted)
    assert main(["run"]) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert reported(lambda: None) == 0
