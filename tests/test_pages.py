"""HTML copies of notebooks: they need no network."""

import html
import json
import re
import shutil
import xml.etree.ElementTree as ET

import nbformat
import pytest

from ebe_utils.study.notebooks import notebook_paths
from ebe_utils.study.pages import WIDGET, mathml, write_html

LOADS = re.compile(r"""(?:src|srcset|data-main)\s*=\s*["']?\s*(?:https?:)?//|<link[^>]+href\s*=\s*["']?(?:https?:)?//"""
                   r"""|url\(\s*["']?(?:https?:)?//|import\s*\(|@import|<script""", re.IGNORECASE)


def formulas(path):
    """The formulas in the text of a notebook, as TeX."""
    text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
                     if c["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)\$", text, flags=re.DOTALL)]


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_a_copy_loads_nothing_and_shows_every_formula(path, tmp_path):
    shutil.copy(path, tmp_path)
    write_html(tmp_path / path.name)
    page = (tmp_path / path.with_suffix(".html").name).read_text(encoding="utf-8")
    assert not [page[m.start() - 60:m.end() + 60] for m in LOADS.finditer(page)]
    assert page.count("<math") == len(formulas(path)) and not re.search(r"<m[ion][^>]*>\s*\\", page)
    assert page.count("data:image/png") >= path.read_text(encoding="utf-8").count('"image/png"')


def test_a_copy_leaves_out_widgets_and_keeps_the_rest(tmp_path):
    bar = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "x"}, "text/plain": "0%"})
    said = nbformat.v4.new_output("stream", text="a <b>")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("f()", outputs=[bar, said]),
               nbformat.v4.new_markdown_cell("# Half of $x$?\n\n$$\\frac{x}{2}$$")],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    write_html(tmp_path / "a.ipynb")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not LOADS.search(page) and "model_id" not in page and ">0%" not in page and "a &lt;b&gt;" in page
    assert "<h1" in page and page.count("<mfrac>") == 1 and "<title>a</title>" in page


def test_a_figure_keeps_its_description_and_width(tmp_path):
    png = nbformat.v4.new_output("display_data", {"image/png": "QUJD"}, metadata={"image/png": {"width": 320}})
    cells = [nbformat.v4.new_code_cell("f()", outputs=[png], metadata=meta)
             for meta in ({"alt": 'A "rising" curve'}, {})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    write_html(tmp_path / "a.ipynb")
    first, second = re.findall(r"<img[^>]*>", (tmp_path / "a.html").read_text(encoding="utf-8"))
    assert html.unescape(re.search(r"""alt=(["'])(.*?)\1""", first)[2]) == 'A "rising" curve'
    for image in (first, second):
        assert 'width="320"' in image
        assert "data:image/png;base64,QUJD" in image


def test_formulas_by_hand():
    found = ET.fromstring(mathml(r"\hat y = \arg\max_c p_c", "block"))
    assert found.get("display") == "block"
    assert html.unescape("".join(found.itertext())) == "y^=argmaxcpc"
