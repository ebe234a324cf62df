"""nbval over recorded outputs: what it passes and what it finds, as with a kernel that executes the cells."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from recorded import RecordedKernel, wait_for

CONFTEST = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from nbval.plugin import IPyNbFile
from recorded import RecordedKernel

def setup(self):
    self.kernel = RecordedKernel(Path(self.path).parents[1] / "executed.ipynb")
    self.setup_sanitize_files()

IPyNbFile.setup = setup
"""
CELLS = ["print('one'); print('two')", "from IPython.display import HTML, display\ndisplay(HTML('<b>3</b>'))\n1 + 3",
         "import sys\nprint('five', file=sys.stderr)", "6", "raise ValueError('seven')"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """(path of an executed notebook, its content)."""
    cells = [new_markdown_cell("Title"), *map(new_code_cell, CELLS)]
    cells[-1]["metadata"]["tags"] = ["raises-exception"]
    path = tmp_path_factory.mktemp("recorded") / "executed.ipynb"
    notebook = new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3").execute()  # papermill would end at the exception
    nbformat.write(notebook, path)
    return path, json.loads(path.read_text(encoding="utf-8"))


def compared(executed, change):
    """The last line of nbval over a copy whose content `change` has changed, and all it printed."""
    path, content = executed
    content = json.loads(json.dumps(content))
    change(content["cells"])
    folder = path.parent / "committed"
    folder.mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "a.ipynb").write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--nbval", "-q",
                           str(folder / "a.ipynb")], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1], done.stdout


def test_what_was_recorded_passes(executed):
    assert "5 passed" in compared(executed, lambda cells: None)[0]


def changed(cell, **keys):
    return lambda cells: cells[cell].update(keys)


@pytest.mark.parametrize(("change", "words"), [
    (lambda cells: cells[1]["outputs"][0].update(text="one\nthree\n"), "three"),
    (lambda cells: cells[2]["outputs"][0]["data"].update({"text/html": "<b>4</b>"}), "<b>4</b>"),
    (lambda cells: cells[2]["outputs"][1]["data"].update({"text/plain": "5"}), "text/plain"),
    (lambda cells: cells[4]["outputs"].clear(), "Unexpected output fields"),
    (changed(4, source="7"), "holds other code than the committed notebook"),
    (changed(5, metadata={}), "Cell execution caused an exception")])
def test_a_difference_is_found(change, words, executed):
    last, text = compared(executed, change)
    assert "1 failed, 4 passed" in last
    assert words in text


def test_a_notebook_with_more_cells_than_were_executed_is_found_out(executed):
    last, text = compared(executed, lambda cells: cells.append(dict(cells[4], id="more")))
    assert "1 failed, 5 passed" in last
    assert "no further cell" in text


def test_a_kernel_has_nothing_left_after_the_last_cell(executed):
    kernel = RecordedKernel(executed[0])
    for source in CELLS:
        asked = kernel.execute_cell_input(source)
        while (message := kernel.get_message("iopub"))["msg_type"] != "status":
            assert message["parent_header"]["msg_id"] == asked
    with pytest.raises(AssertionError, match="no further cell"):
        kernel.execute_cell_input(CELLS[0])


def test_waiting_ends_with_the_notebooks_line_or_with_the_sequence(tmp_path):
    starts = threading.Timer(0.5, lambda: (tmp_path / "sequence.txt").write_text("01_train   5 s\n"))
    starts.start()
    wait_for("01_train", tmp_path)
    starts.join()
    (tmp_path / "sequence.txt").write_text("01_train   5 s\n02_embeddings   7 s\n")
    wait_for("02_embeddings", tmp_path)
    (tmp_path / "sequence.code").write_text("1\n")
    wait_for("03_attribution", tmp_path)
