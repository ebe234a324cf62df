"""The course: copies of the notebooks for students and for teachers, made from the same notebooks by the tags of cells.

An exercise begins with a markdown cell "### Exercise 1". The cell tagged `solution` after it is left out of the
student's copy, which has a cell to be filled in there. Cells tagged `self-check` follow a solution in code, and stay:
they pass, or fail with a hint.
"""

import ast
import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from ..files import write_text
from ..study.notebooks import notebook_paths
from .publishing import CHECKOUT, clean
from .slides import write_slides

SOLUTION, SELF_CHECK = "solution", "self-check"
LESSONS = ("00", "03", "04", "10")  # the two lessons of docs/course.md
ALONG = ("01", "02")  # make what these read
PAGES = ("course.md", "assignment.md")  # of docs/
OUT = CHECKOUT / "build" / "course"


@dataclass
class Exercise:
    """An exercise of a notebook: its number, and the positions of its cells."""

    number: int
    statement: int
    solutions: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)


def exercises(notebook: dict[str, Any]) -> list[Exercise]:
    """The exercises of a notebook, in order.

    Raises ValueError for an exercise without a solution, a solution in code without a self-check, and a cell tagged
    `solution` or `self-check` that belongs to no exercise.
    """
    found: list[Exercise] = []
    for at, cell in enumerate(notebook["cells"]):
        tags, text = cell["metadata"].get("tags", ()), "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (heading := re.match(r"### Exercise (\d+)\s*$", text, re.MULTILINE)):
            found.append(Exercise(int(heading[1]), at))
        elif {SOLUTION, SELF_CHECK} & {*tags}:
            if not found:
                raise ValueError(f"cell {at} is tagged {' and '.join(tags)}, but there is no '### Exercise' before it.")
            (found[-1].solutions if SOLUTION in tags else found[-1].checks).append(at)
    for one in found:
        in_code = [at for at in one.solutions if notebook["cells"][at]["cell_type"] == "code"]
        if not one.solutions:
            raise ValueError(f"exercise {one.number} has no cell tagged {SOLUTION!r}.")
        if bool(in_code) != bool(one.checks) or one.checks and min(one.checks) < max(in_code):
            raise ValueError(f"exercise {one.number} needs a cell tagged {SELF_CHECK!r} after its solution, and a "
                             "solution in code for it.")
    return found


def student_copy(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without outputs, and with a cell to fill in where a solution was."""
    made = copy.deepcopy(notebook)
    cells = made["cells"]
    for one in exercises(notebook):
        wanted = {name for at in one.checks for name in _names("".join(cells[at]["source"]), ast.Load)}
        for at in one.solutions:
            text = "".join(cells[at]["source"])
            todo = ("*Your answer: …*" if cells[at]["cell_type"] == "markdown" else
                    f"# TODO: exercise {one.number}. The check needs what stands before the dots.\n"
                    f"{_outline(text, wanted)}\n\nraise NotImplementedError("
                    f"\"exercise {one.number}: replace the dots, then delete this line\")")
            cells[at] |= {"source": todo.splitlines(True), "metadata": {}}
    for cell in cells:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return made


def _names(code: str, context: type) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)
            and isinstance(node.ctx, context)}


def _outline(code: str, wanted: set[str]) -> str:
    """Of a solution, the names that are wanted: values as dots, functions as signature and docstring."""
    parts = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef) and node.name in wanted:
            node.body = [*node.body[:ast.get_docstring(node) is not None], ast.Expr(ast.Constant(...))]
            parts.append(ast.unparse(node))
        elif isinstance(node, ast.Assign):
            bound = [name for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            parts += [f"{name.id} = ..." for name in bound if name.id in wanted]
    return "\n".join(parts)


def links_from(text: str, source: Path, folder: Path, here: Mapping[str, str]) -> str:
    """A text whose relative links, written in the folder `source`, lead to the same files from `folder`.

    here: {name of a file: where its copy is, seen from `folder`}; links to such a file lead to the copy.
    """
    def moved(match: re.Match) -> str:
        target, anchor = (source / match[1]).resolve(), match[2] or ""
        there = here.get(target.name) or Path(os.path.relpath(target, folder.resolve())).as_posix()
        return f"]({there}{anchor})"

    return re.sub(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)", moved, text)


def _with_links(notebook: dict[str, Any], path: Path, folder: Path, here: Mapping[str, str]) -> dict[str, Any]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = links_from("".join(cell["source"]), path.parent, folder, here).splitlines(True)
    return notebook


def write_course(out: Path = OUT, progress: Callable[[str], object] = print) -> None:
    """Write the course anew: student/, solutions/, slides/ and the pages.

    Raises ValueError for a notebook whose exercises are not complete.
    """
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("student", "solutions", "slides"):
        (out / folder).mkdir(parents=True)
    paths = [path for path in notebook_paths(CHECKOUT / "notebooks") if path.name[:2] in (*LESSONS, *ALONG)]
    beside = {path.name: path.name for path in paths}
    student = {name: f"../student/{name}" for name in beside}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for folder, made in (("student", student_copy(json.loads(text))), ("solutions", json.loads(text))):
            write_text(out / folder / path.name, clean(_with_links(made, path, out / folder, beside)))
        if path.name[:2] in LESSONS:
            shown = _with_links(json.loads(text), path, out / "slides", student)
            write_slides(nbformat.reads(json.dumps(shown), as_version=4), out / "slides" / f"{path.stem}.html")
        progress(f"{path.stem:<20} {len(exercises(json.loads(text)))} exercises to be filled in")
    for name in PAGES:
        page, known = CHECKOUT / "docs" / name, {file: f"student/{file}" for file in beside} | {n: n for n in PAGES}
        write_text(out / name, links_from(page.read_text(encoding="utf-8"), page.parent, out, known))
    progress(str(out))
