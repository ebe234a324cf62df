"""Slides of a notebook: one HTML file that needs no network, shown by reveal.js.

Which cell is on which slide follows from the notebook itself: a heading begins a slide; a figure or a table is shown
below it, without the code that made it unless that is short, together with what is said about it; short code stands
below the text before it; parameters, imports, solutions and self-checks are left out.
"""

import copy
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from nbconvert import SlidesExporter

from ..files import write_text
from ..study.pages import OfflineMarkdown, without_widgets

LEFT_OUT = {"parameters", "solution", "self-check"}
SHORT = 12  # lines of code that fit on a slide
WIDTH, HEIGHT = 1100, 720
# nbconvert's slides without what it would load from the network; reveal.js comes in by hand.
_TEMPLATE = "{%- extends 'index.html.j2' -%}" + "".join(f"{{%- block {name} -%}}{{%- endblock -%}}" for name in (
    "html_head_js", "jupyter_widgets", "html_head_js_mathjax", "footer_js"))
_LINK = re.compile(r'<link[^>]*href="REVEAL/dist/([\w/]+\.css)"[^>]*>')
_STYLE = """
.reveal .slides > section, .reveal .slides > section > section { text-align: left; max-height: 100%; overflow-y: auto; }
.reveal { --r-main-font: sans-serif; --r-heading-font: sans-serif; --r-main-font-size: 20px; }
.reveal :is(h1, h2, h3) { text-transform: none; color: #222; }
.reveal h1 { font-size: 1.8em; } .reveal h2 { font-size: 1.5em; } .reveal h3 { font-size: 1.2em; }
.reveal .jp-InputPrompt, .reveal .jp-OutputPrompt { display: none; }
.reveal .jp-RenderedImage img { max-height: 430px; width: auto; margin: 0 auto; }
.reveal { --jp-code-font-size: 15px; }
.reveal pre { white-space: pre-wrap; width: 100%; box-shadow: none; }
.reveal iframe { height: 600px !important; }
.reveal table { font-size: 0.75em; margin-left: 0; }
"""


def slide_types(notebook: Any) -> list[str]:
    """For each cell "slide" (a new one), "subslide" (a new one below), "-" (on the same one) or "skip"."""
    found: list[str] = []
    pictured = False  # whether the last slide shows a figure or a table about which something may be said
    for cell in notebook.cells:
        text, tags = cell.source.lstrip(), {*cell.metadata.get("tags", ())}
        if cell.cell_type == "markdown" and not tags & LEFT_OUT:
            found.append("slide" if re.match(r"##? ", text) else "-" if pictured else "subslide")
            pictured = False
        elif cell.cell_type == "code" and not tags & LEFT_OUT and not re.match(r"(import|from) ", text) and (
                _rich(cell) or len(text.splitlines()) <= SHORT):
            pictured = _rich(cell)
            found.append("subslide" if pictured else "-")
        else:
            found.append("skip")
    return found


def _rich(cell: Any) -> bool:
    return any({"image/png", "text/html"} & {*output.get("data", {})} for output in cell.get("outputs", []))


def write_slides(notebook: Any, target: Path) -> None:
    """Write the slides of an executed notebook, as `nbformat` holds it, to one HTML file.

    Raises ImportError where the package sphinx-revealjs, which brings reveal.js, is not installed.
    """
    notebook = copy.deepcopy(notebook)
    for cell, kind in zip(notebook.cells, slide_types(notebook), strict=True):
        cell.metadata["slideshow"] = {"slide_type": kind}
        if cell.cell_type == "code":
            cell.outputs = without_widgets(cell.outputs)
            if _rich(cell) and len(cell.source.splitlines()) > SHORT // 2:
                cell.metadata["transient"] = {"remove_source": True}
    exporter = _Slides(embed_images=True, raw_template=_TEMPLATE, reveal_url_prefix="REVEAL", reveal_theme="white")
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": target.stem}})
    dist = _reveal() / "dist"
    body, styles = _LINK.subn(lambda link: "<style>" + re.sub(  # a theme's own font is a file beside it
        r"@import [^;]*;", "", (dist / link[1]).read_text(encoding="utf-8")) + "</style>", body)
    if styles != 2:
        raise ValueError(f"nbconvert's slides load {styles} style sheets of reveal.js in place of 2; the template of "
                         "this version is another one, see ebe_utils/upkeep/slides.py.")
    script = (dist / "reveal.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    start = f"Reveal.initialize({{width: {WIDTH}, height: {HEIGHT}, hash: true, slideNumber: true, center: false}});"
    write_text(target, body.replace("</html>", f"<style>{_STYLE}</style><script>{script}</script>"
                                               f"<script>{start}</script></html>"))


def _reveal() -> Traversable:
    try:
        return files("sphinx_revealjs") / "_static" / "revealjs"
    except ModuleNotFoundError as error:
        raise ImportError("slides need reveal.js, which the package sphinx-revealjs brings; install it with\n"
                          "  pip install 'ebe-utils[site]'", name=error.name) from None


class _Slides(OfflineMarkdown, SlidesExporter):
    pass
