"""Docstrings of installed packages as a data set: real prose that every installation carries.

The source files are parsed, not imported: nothing runs, and inherited copies do not appear. What would give the library
away is masked, so that a network has to go by what the text is about.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy import sparse

from .data import DataError

LIBRARIES = ("numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "torch")
SHORTEST, LONGEST = 40, 400  # characters of a first paragraph
SAME = 0.5  # share of three-word sequences from which on two texts are near-duplicates
MASK = "…"
_IMPORTED = {"scikit-learn": "sklearn"}
# Folders that are not read: tests, copies of other projects, what not every installation has; and, of torch, compilers
# and the like, which are many times the rest.
_SKIPPED = {"tests", "test", "testing", "externals", "distutils", "include", "ao", "distributed", "export", "fx", "jit",
            "onnx"}
_NAMES = ("numpy", "np", "ndarray", "scipy", "scikit-learn", "scikit", "sklearn", "pandas", "pd", "matplotlib", "mpl",
          "plt", "pyplot", "mpl_toolkits", "torch", "pytorch", "libtorch", "aten")


@dataclass(frozen=True)
class Docstring:
    """The first paragraph of a docstring, masked; its library, and the sub-package ("scipy.stats") of its file."""

    text: str
    library: str
    package: str


def read_docstrings(libraries: Sequence[str] = LIBRARIES) -> list[Docstring]:
    """The first paragraphs of 40 to 400 characters of the docstrings of installed libraries, in a fixed order.

    Of modules, classes, functions and methods; of near-duplicates (half of all three-word sequences in common) the
    first, or none if they are of two libraries. Masked by "…": names of libraries and of all classes that they define.
    Markup of reStructuredText is taken off. Raises `DataError` for a library that is not installed.
    """
    found, classes = [], set()
    for library in libraries:
        for package, paragraph, names in _paragraphs(library):
            classes |= names
            if paragraph:
                found.append((paragraph, library, package))
    masked = [Docstring(text, library, package) for paragraph, library, package in found
              if SHORTEST <= len(text := _masked(paragraph, classes)) <= LONGEST]
    return [masked[i] for i in _distinct([one.text for one in masked], [one.library for one in masked])]


def _paragraphs(library: str) -> Iterator[tuple[str, str, set[str]]]:
    """(sub-package, first paragraph or "", names of classes) of each definition in a library's files, by path."""
    imported = _IMPORTED.get(library, library)
    spec = find_spec(imported)
    if spec is None or spec.origin is None:
        raise DataError(f"the docstrings of {library} are part of this data set, and it is not installed; install it, "
                        "or this package with the extra that has it, `pip install '.[notebooks]'`.")
    root = Path(spec.origin).parent
    for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
        folders = file.relative_to(root).parts[:-1]
        private = any(name.startswith("_") and name != "_core" for name in folders)
        if private or _SKIPPED & {*folders} or file.name == "conftest.py":
            continue
        source = file.read_text(encoding="utf-8", errors="replace")
        if '"""' not in source:
            continue
        path = [name for name in (*folders, *[file.stem] * (file.stem != "__init__")) if name.strip("_") != "core"]
        package = ".".join([imported, *path[:1]])
        for node in _definitions(ast.parse(source)):
            names = {node.name} if isinstance(node, ast.ClassDef) else set()
            yield package, _first_paragraph(ast.get_docstring(node) or ""), names


def _definitions(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """A module, its classes and functions, and what classes define; nothing inside functions."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            yield from _definitions(child)


def _first_paragraph(text: str) -> str:
    """The first paragraph in one line, without the markup of reStructuredText."""
    paragraph = re.split(r"\n\s*\n|(?:\A|\n)\s*(?:Args|Arguments|Returns|Parameters)\b", text.strip(), maxsplit=1)[0]
    if paragraph.lstrip().startswith((".. ", ">>>")):
        return ""
    paragraph = re.sub(r":[\w:+-]+:(?=`)", "", paragraph)  # roles, as in :class:`Figure`
    return re.sub(r"\s+", " ", re.sub(r"[`*~|]|^r?\w+\([^)]*\)(?: ->.*)?$", "", paragraph, flags=re.M)).strip()


def _masked(text: str, classes: set[str]) -> str:
    """The text with dotted paths, names of libraries and of classes replaced by `MASK`."""
    def mask(match: re.Match) -> str:
        word = match[0]
        tell_tale = any(part.lower() in _NAMES or part in classes for part in [word, *word.split(".")])
        return MASK if tell_tale else word

    text = re.sub(r"(?<!\w)\.?[A-Za-z_]\w*(?:\.\w+)*(?:-learn)?", mask, text)
    return re.sub(rf"{MASK}(?:[\s.,]*{MASK})+", MASK, text)


def _distinct(texts: Sequence[str], groups: Sequence[str]) -> list[int]:
    """Positions of the texts that are left when near-duplicates are taken out."""
    columns: dict[tuple[str, ...], int] = {}
    rows, at = [], []
    for i, text in enumerate(texts):
        words = re.findall(r"[a-z]+", text.lower()) or [text]
        for three in {tuple(words[j:j + 3]) for j in range(max(1, len(words) - 2))}:
            rows.append(i)
            at.append(columns.setdefault(three, len(columns)))
    has = sparse.csr_array((np.ones(len(rows), np.int32), (rows, at)), shape=(len(texts), len(columns)))
    sizes, both = has.sum(1), sparse.triu(has @ has.T, 1).tocoo()
    near = both.data >= SAME * (sizes[both.row] + sizes[both.col] - both.data)
    dropped = set()
    for first, second in sorted(zip(both.row[near].tolist(), both.col[near].tolist(), strict=True)):
        if groups[first] != groups[second]:
            dropped |= {first, second}
        elif first not in dropped:
            dropped.add(second)
    return [i for i in range(len(texts)) if i not in dropped]
