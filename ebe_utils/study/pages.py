"""HTML copies of notebooks that need no network: pictures inside, formulas as MathML, no scripts."""

from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ..files import write_text

# nbconvert's page without what it would load from the network: require.js, MathJax, Mermaid and the widgets' scripts.
_PAGE = "{%- extends 'index.html.j2' -%}" + "".join(f"{{%- block {name} -%}}{{%- endblock -%}}" for name in (
    "html_head_js", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs"))
# A figure with what it shows in words, the cell's metadata "alt".
_PAGE += """{%- block data_png scoped -%}<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}"><img
{%- set width = output | get_metadata('width', 'image/png') %}{% if width %} width="{{ width }}"{% endif %}
 {%- if cell.metadata.get('alt') %} alt="{{ cell.metadata['alt'] | escape_html }}"{% endif %}
 src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"></div>{%- endblock -%}"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def write_html(path: str | Path) -> None:
    """An HTML copy beside a notebook."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_widgets(cell.outputs)
    exporter = _Exporter(embed_images=True, raw_template=_PAGE)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": Path(path).stem,
                                                                  "path": str(Path(path).parent)}})
    write_text(Path(path).with_suffix(".html"), body)


def without_widgets(outputs: list[Any]) -> list[Any]:
    """Outputs of a cell without progress bars, which are widgets and live in the browser only."""
    return [output for output in outputs if WIDGET not in output.get("data", {})]


def mathml(formula: str, display: str = "inline") -> str:
    """A LaTeX formula as MathML, which browsers draw by themselves; display: "inline" or "block"."""
    return convert(formula.strip().replace(r"\arg", r"\operatorname{arg}"), display=display)


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class OfflineMarkdown:
    """Of an exporter to HTML: formulas as MathML, so that no script has to draw them."""

    embed_images: bool
    anchor_link_text: str

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """The HTML of a cell's Markdown."""
        cell, where = context.get("cell", {}), context.get("resources", {}).get("metadata", {})
        renderer = _Renderer(escape=False, attachments=cell.get("attachments", {}), embed_images=self.embed_images,
                             path=where.get("path", ""), anchor_link_text=self.anchor_link_text)
        return MarkdownWithMath(renderer=renderer).render(source)


class _Exporter(OfflineMarkdown, HTMLExporter):
    pass
