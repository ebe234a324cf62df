"""The course: copies for students, slides and pages, and that every exercise is complete. Its self-checks are carried
out both ways in test_self_checks.py."""

import copy
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml

from ebe_utils.study.notebooks import notebook_paths
from ebe_utils.study.report import check
from ebe_utils.upkeep import course
from ebe_utils.upkeep.course import exercises, links_from, student_copy, write_course
from ebe_utils.upkeep.publishing import CHECKOUT
from ebe_utils.upkeep.slides import slide_types, write_slides

WRONG = yaml.safe_load((Path(__file__).parent / "wrong_answers.yaml").read_text(encoding="utf-8"))
needs_reveal = pytest.mark.skipif(find_spec("sphinx_revealjs") is None,
                                  reason="sphinx-revealjs, of the extra site, is not installed")


def cell(kind, source, *tags, outputs=()):
    made = {"cell_type": kind, "metadata": {"tags": [*tags]} if tags else {}, "source": source.splitlines(True)}
    return made | ({"outputs": [*outputs], "execution_count": 1} if kind == "code" else {})


@pytest.fixture
def small():
    """A notebook with an exercise in code and one in words."""
    said = {"output_type": "stream", "name": "stdout", "text": "PASS half\n"}
    return {"cells": [
        cell("markdown", "# Half of what?"), cell("code", "whole = 4", outputs=[said]),
        cell("markdown", "### Exercise 1\n\nHalve it."),
        cell("code", 'parts = 2\nhalf = whole / parts\n\n\ndef halved(x: float) -> float:\n    """Half of x."""\n'
             "    return x / parts\n", "solution"),
        cell("code", "check('half', half == 2 and halved(6) == 3, hint='divide')", "self-check", outputs=[said]),
        cell("markdown", "### Exercise 2\n\nWhy?"), cell("markdown", "Because.", "solution")],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def node(notebook):
    """A notebook as nbformat reads it."""
    return nbformat.reads(json.dumps(notebook), as_version=4)


def test_a_students_copy_by_hand(small):
    before = copy.deepcopy(small)
    made = student_copy(small)
    assert small == before  # the notebook itself is left alone
    todo = "".join(made["cells"][3]["source"])
    assert todo == ('# TODO: exercise 1. The check needs what stands before the dots.\nhalf = ...\n'
                    'def halved(x: float) -> float:\n    """Half of x."""\n    ...\n\n'
                    'raise NotImplementedError("exercise 1: replace the dots, then delete this line")')
    with pytest.raises(NotImplementedError, match="exercise 1"):
        exec(todo, {})
    assert "Because" not in json.dumps(made) and "*Your answer: …*" in "".join(made["cells"][6]["source"])
    assert made["cells"][4]["source"] == small["cells"][4]["source"]
    assert [c["outputs"] for c in made["cells"] if c["cell_type"] == "code"] == [[], [], []]


def test_a_students_copy_filled_in_by_hand_passes_and_a_wrong_one_fails_with_its_hint(small, capsys):
    names = {"check": check}
    exec("".join(small["cells"][1]["source"]), names)
    exec("half, halved = 2, lambda x: x / 2", names)
    asked = "".join(student_copy(small)["cells"][4]["source"])
    exec(asked, names)
    assert capsys.readouterr().out == "PASS half\n"
    exec("half = 8", names)
    with pytest.raises(AssertionError, match="^FAIL half\nHint: divide$"):
        exec(asked, names)


@pytest.mark.parametrize(("left_out", "message"), [
    (3, "exercise 1 needs a cell tagged 'self-check'"), (4, "exercise 1 needs a cell tagged 'self-check'"),
    (6, "exercise 2 has no cell tagged 'solution'"), (2, "there is no '### Exercise' before it")])
def test_an_incomplete_exercise_is_refused(small, left_out, message):
    del small["cells"][left_out]
    if left_out == 3:
        small["cells"].insert(3, cell("markdown", "In words.", "solution"))
    with pytest.raises(ValueError, match=message):
        exercises(small)


def test_a_check_before_its_solution_is_refused(small):
    small["cells"][3:5] = small["cells"][4:2:-1]
    with pytest.raises(ValueError, match="after its solution"):
        exercises(small)


def test_links_by_hand(tmp_path):
    text = "[a](01_train.ipynb) [b](../docs/results.md#all) [c](https://x.org/d.md) [d](#top) ![e](e.png)"
    moved = links_from(text, tmp_path / "notebooks", tmp_path / "build" / "out", {"01_train.ipynb": "x/01.ipynb"})
    assert moved == ("[a](x/01.ipynb) [b](../../docs/results.md#all) [c](https://x.org/d.md) [d](#top) "
                     "![e](../../notebooks/e.png)")


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_exercises_of_the_notebooks_are_complete(path):
    """Every exercise that has cells has a solution; every self-check has a wrong answer, with a hint that it gives."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = exercises(notebook)
    in_code = {one.number: one for one in found if one.checks}
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert in_code.keys() == WRONG.get(path.stem, {}).keys()
    for number, one in in_code.items():
        checks = "".join("".join(notebook["cells"][at]["source"]) for at in one.checks)
        said = re.sub(r"\s+", " ", checks.replace('"\n', ""))
        assert "hint=" in checks
        assert all(wrong["hint"] in said for wrong in WRONG[path.stem][number])


def test_the_lessons_have_exercises():
    counts = {path.name[:2]: len(exercises(json.loads(path.read_text(encoding="utf-8")))) for path in notebook_paths()}
    assert min(counts[number] for number in course.LESSONS) >= 3
    assert {*course.LESSONS, *course.ALONG} <= counts.keys()


def test_slides_by_hand():
    picture = {"output_type": "display_data", "data": {"image/png": "", "text/plain": ""}, "metadata": {}}
    cells = [cell("markdown", "# A?"), cell("code", "import os"), cell("code", "k = 1  # k", "parameters"),
             cell("markdown", "## Here"), cell("code", "f()"), cell("code", "\n".join("f()" for _ in range(20))),
             cell("code", "\n".join("draw()" for _ in range(20)), outputs=[picture]),
             cell("markdown", "**What we see.** A line."), cell("markdown", "More."),
             cell("markdown", "### Exercise 1"), cell("code", "x = 1", "solution"), cell("code", "f", "self-check")]
    notebook = node({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    assert slide_types(notebook) == ["slide", "skip", "skip", "slide", "-", "skip", "subslide", "-", "subslide",
                                     "subslide", "skip", "skip"]


@needs_reveal
def test_slides_need_no_network_and_leave_solutions_out(small, tmp_path):
    small["cells"].insert(1, cell("markdown", "Half of $x$ is $$\\frac{x}{2}$$"))
    write_slides(node(small), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//|REVEAL""", page)
    assert page.count("<math") == 2 and "Reveal.initialize" in page
    assert "Because." not in page and "parts = 2" not in page and "Halve it." in page


@pytest.mark.skipif(find_spec("sphinx_revealjs") is not None, reason="sphinx-revealjs is installed")
def test_slides_without_reveal_say_what_to_install(small, tmp_path):
    with pytest.raises(ImportError, match="pip install 'ebe-utils\\[site\\]'"):
        write_slides(node(small), tmp_path / "a.html")


@needs_reveal
def test_the_course_as_it_is_written(tmp_path):
    out, lines = tmp_path / "build" / "course", []
    (out / "student").mkdir(parents=True)
    (out / "student" / "old.ipynb").touch()
    write_course(out, lines.append)
    lessons = sorted(path.stem for path in notebook_paths() if path.name[:2] in course.LESSONS)
    assert sorted(path.stem for path in (out / "slides").iterdir()) == lessons
    for folder in ("student", "solutions"):
        names = sorted(path.name for path in (out / folder).iterdir())
        assert names == [p.name for p in notebook_paths() if p.name[:2] in (*course.LESSONS, *course.ALONG)]
        for path in (out / folder).iterdir():
            notebook = json.loads(path.read_text(encoding="utf-8"))
            nbformat.validate(nbformat.from_dict(notebook))
            text = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
            for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
                assert (path.parent / link).exists(), (path, link)
            tagged = any("solution" in c["metadata"].get("tags", ()) for c in notebook["cells"])
            assert tagged == (folder == "solutions" and bool(exercises(notebook)))
    for page in ("course.md", "assignment.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (out / page).read_text(encoding="utf-8")):
            assert (out / link).exists(), (page, link)


def test_the_points_of_the_rubric_add_up():
    text = (CHECKOUT / "docs" / "assignment.md").read_text(encoding="utf-8")
    points = [int(n) for n in re.findall(r"\| (\d+) \|$", text, re.MULTILINE)]
    assert sum(points) == int(re.search(r"^(\d+) points", text, re.MULTILINE)[1])


def test_the_minutes_of_a_lesson_add_up():
    text = (CHECKOUT / "docs" / "course.md").read_text(encoding="utf-8")
    for lesson in re.findall(r"^## Lesson.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        minutes = [int(n) for n in re.findall(r"^\| (\d+) \|", lesson, re.MULTILINE)]
        assert sum(minutes) == int(re.search(r"\((\d+) minutes\)", lesson)[1])


def test_the_command_writes_the_course(monkeypatch):
    called = subprocess.run([sys.executable, "-m", "ebe_utils.upkeep", "course", "--help"], capture_output=True,
                            text=True, check=False, cwd=CHECKOUT)
    assert called.returncode == 0
    assert "python -m ebe_utils.upkeep course" in (CHECKOUT / "Makefile").read_text().replace("$(BIN)/", "")
