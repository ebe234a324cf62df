"""The site: `make site` builds it from docs/, the notebooks and data/README.md, without executing anything.

The source folder is the root of the checkout, so that links between pages, notebooks and figures are the same on the
site as in the checkout; `include_patterns` names what belongs to the site.
"""

import os
import pkgutil
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import ebe_utils
from ebe_utils.upkeep.explorers import write_pages

ROOT = Path(__file__).resolve().parents[1]

project = "EBE"
author = "The EBE authors"
copyright = f"{author}, MIT licence"
version = release = ebe_utils.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb", "data/README.md", "CONTRIBUTING.md"]
# Folders that are not even looked into.
exclude_patterns = [".*", "build", "ebe_utils", "figures", "tests", "data/[!R]*", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no page has a widget, and their script would come from the network
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_inherit_docstrings = False
toc_object_entries_show_parents = "hide"
autodoc_default_options = {"members": True, "member-order": "bysource"}

html_theme = "sphinx_book_theme"
html_title = "EBE"
html_static_path = ["_static"]
html_extra_path = ["_root"]  # index.html at the top leads to docs/index.html
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "use_fullscreen_button": False, "use_download_button": False}

# The address of the repository, "https://github.com/OWNER/NAME", is the line `repository-code:` of CITATION.cff, and
# GitHub's workflows know their own. With it, notebooks have buttons that launch them in Colab and Binder.
_cited = re.search(r'^repository-code:\s*"?([^"\s]+)', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
_ours = os.environ.get("GITHUB_REPOSITORY")
if repository := _cited[1] if _cited else f"https://github.com/{_ours}" if _ours else "":
    html_theme_options |= {
        "repository_url": repository.rstrip("/"), "repository_branch": "main", "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}}


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` in single backticks: the latter is marked, all else is escaped."""
    text = "\n".join(line.strip() for line in lines).strip()
    parts = re.split(r"`([^`\n]+)`", text)
    for at, part in enumerate(parts):
        if at % 2:
            parts[at] = f"``{part}``"
        else:
            parts[at] = re.sub(r"([\\*`|_])", r"\\\1", part)
            if at and re.match(r"\w", part):  # a blank that does not show, for markup must end at a word's end
                parts[at] = "\\ " + parts[at]
    lines[:] = [*"".join(parts).split("\n"), ""]


def skip(app, what, name, obj, skipped, options):
    """scikit-learn's own methods for metadata routing are left out."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def describe(app, doctree, docname):
    """A notebook's figure has no text for those who cannot see it: it gets that of the paragraph after it."""
    waiting = []
    for node in doctree.findall(lambda node: isinstance(node, nodes.image | nodes.paragraph)):
        if isinstance(node, nodes.image):
            waiting += [node] if not node.get("alt") else []
        elif waiting and len(text := node.astext()) > 40:
            for image in waiting:
                image["alt"] = text if len(text) < 400 else f"{text[:400].rsplit(' ', 1)[0]} …"
            waiting = []


class Library(SphinxDirective):
    """`.. library::`, all modules of the library (without study, which the notebooks run on, and upkeep)."""

    def run(self):
        skipped = ("ebe_utils.study", "ebe_utils.upkeep", "ebe_utils.__main__")
        names = [module.name for module in pkgutil.walk_packages(ebe_utils.__path__, "ebe_utils.")
                 if not module.name.startswith(skipped)]
        lines = []
        for name in names:
            lines += [name, "-" * len(name), "", f".. automodule:: {name}", "   :no-index:", ""]
        found = nodes.Element()
        self.state.nested_parse(StringList(lines, "library"), 0, found, match_titles=True)
        return found.children


def explorers(app, failed):
    """The pages of the explorers that docs/explorer.md embeds, from what is kept of them."""
    if failed is None:
        write_pages(Path(app.outdir) / "_static" / "explorers")


def setup(app):
    app.connect("build-finished", explorers)
    app.connect("autodoc-process-docstring", plain)
    app.connect("doctree-resolved", describe)
    app.connect("autodoc-skip-member", skip)
    app.add_directive("library", Library)
