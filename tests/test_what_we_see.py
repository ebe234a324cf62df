"""What the notebooks say of their figures and tables: a number in the prose is one that the notebook has printed."""

import html
import itertools
import json
import re
from pathlib import Path

import pytest

from ebe_utils.study.notebooks import notebook_paths

PATHS = notebook_paths()
MARK = "**What we see.**"
NUMBER = r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?"
# Numbers that name something: a layer, a notebook, a reference, a formula, a grid; and captions, *(...)*.
NAMES = (r"\*\(.*?\)\*|\b\d\d_\w+|\b\d+ ?× ?\d+\b|\[\[\d+\]\]\([^)]*\)|\]\([^)]*\)|`[^`]*`|\$[^$]*\$|CIFAR-10|"
         r"\b(?:class(?:es)?|layers?|convolutions?|notebooks?|figures?|tables?|claims?|stages?|seeds?|steps?|section|"
         r"k =|k of) "
         r"\d+(?:(?:, | and | or | to |–|, and )\d+)*\b(?!\s?%)")


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def sentences(text):
    """The paragraphs of a cell that say what is seen."""
    return [part for part in text.split("\n\n") if part.startswith(MARK)]


def printed(code):
    """All numbers in the outputs of code cells."""
    words = []
    for output in (output for cell in code for output in cell["outputs"]):
        data = output.get("data", {})
        words += [output.get("text", ""), data.get("text/html", data.get("text/plain", ""))]
    text = html.unescape(re.sub(r"<[^>]*>", " ", " ".join("".join(word) for word in words)))
    return [value(number) for number in re.findall(NUMBER, text)]


def value(number):
    return float(number.replace(",", "").replace("−", "-"))


def not_printed(text, numbers):
    """The numbers of a text that are none of those printed, rounded, as they are or in per cent, whatever the sign."""
    wrong = []
    for number in re.findall(NUMBER, re.sub(NAMES, " ", text, flags=re.DOTALL | re.IGNORECASE)):
        half = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
        wanted = abs(value(number))
        if not any(abs(wanted - abs(n)) <= half or (abs(n) <= 1 and abs(wanted - 100 * abs(n)) <= half)
                   for n in numbers):
            wrong.append(number)
    return wrong


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_number_was_printed(path):
    shown, wrong = printed([cell for cell in cells(path) if cell["cell_type"] == "code"]), {}
    for cell in cells(path):
        for text in sentences(source(cell)) if cell["cell_type"] == "markdown" else ():
            if missing := not_printed(text, shown):
                wrong[text[:100]] = missing
    assert not wrong


@pytest.mark.parametrize("text", ["87.1 % of the images", "0.871 of them", "12 of the 1,437 images",
                                  "−2.45 to 0.79 points", "at layers 14, 15 and 16 (notebook 03 [[36]](../a.md))",
                                  "no number", "maps of 4×4 *(bars: 95 %; a caption)*",
                                  "`k = 7`, $k = 8$ and CIFAR-10", "2.5 points less"])
def test_a_number_that_was_printed_is_found(text):
    assert not not_printed(text, [0.8712, 12, 1437, -2.45, 0.793, 10, -0.025])


@pytest.mark.parametrize(("text", "wrong"), [
    ("87.2 % of the images", ["87.2"]), ("0.872 of them", ["0.872"]), ("13 of the 1,437 images", ["13"]),
    ("−2.46 to 0.79 points", ["−2.46"]), ("14 % at layer 14", ["14"]), ("12,000 images", ["12,000"])])
def test_a_number_that_was_not_printed_is_found_out(text, wrong):
    assert not_printed(text, [0.8712, 12, 1437, -2.45, 0.793]) == wrong


def test_numbers_are_read_from_tables_and_lines_but_not_from_markup():
    cell = {"outputs": [{"text": ["PASS share 0.98 ≥ 0.95\n"]},
                        {"data": {"text/html": ['<td style="width: 77px"><img src="data:image/png;base64,88/8">',
                                                "1,437</td><td>−0.5</td>"], "text/plain": ["<object 99>"]}},
                        {"data": {"text/plain": ["42"]}}]}
    assert printed([cell]) == [0.98, 0.95, 1437, -0.5, 42]


# --- references -----------------------------------------------------------------------------------------------------

BIBLIOGRAPHY = (Path(__file__).parents[1] / "docs" / "bibliography.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_numbered_reference_is_that_of_its_author(path):
    entries = {int(number): text for number, text in re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", BIBLIOGRAPHY,
                                                                re.MULTILINE | re.DOTALL)}
    for cell in cells(path):
        if cell["cell_type"] == "markdown":
            for before, number in re.findall(r"(.{0,60})\[\[(\d+)\]\]\(\.\./docs/bibliography\.md\)", source(cell)):
                assert int(number) in entries
                if author := re.search(r"([A-Z][\w-]+)(?: and [A-Z][\w-]+| et al\.)? \(?\d{4} ?$", before):
                    assert author[1] in entries[int(number)], (author[1], number)


# --- a chapter's frame ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_figure_is_described_and_followed_by_what_is_seen(path):
    shown = cells(path)
    for at, cell in enumerate(shown):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            following = [source(other) for other in shown[at + 1:at + 5] if other["cell_type"] == "markdown"]
            assert any(map(sentences, following)), source(cell)
            alt = cell["metadata"]["alt"]  # for the HTML copies; the site reads the other
            assert len(alt) > 40
            assert cell["metadata"]["mystnb"] == {"image": {"alt": alt}}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_chapter_says_what_to_know_and_where_to_go(path):
    first = source(cells(path)[0])
    assert "**You should know**" in first
    neighbours = re.search(r"^(Previous: .*)?Next: .*$", first, re.MULTILINE)[0]
    linked = re.findall(r"\]\((\w+)\.ipynb\)", neighbours)
    assert linked
    assert set(linked) <= {p.stem for p in PATHS} - {path.stem}


@pytest.mark.parametrize(("one", "following"), itertools.pairwise(PATHS), ids=lambda p: p.stem)
def test_chapters_follow_each_other(one, following):
    first = source(cells(one)[0])
    assert f"Next: [{following.stem}]({following.name})" in first
    assert f"Previous: [{one.stem}]({one.name})" in source(cells(following)[0])
