"""Numbers in the prose of notebooks: what a cell "What we see" says is what the committed run printed."""

import html
import json
import re

import pytest

from ebe_utils.study.notebooks import notebook_paths

PATHS = [path for path in notebook_paths() if path.stem[:2] in ("00", "03", "04")]
NUMBER = r"(?<![\w.])\d++(?:,\d{3})*+(?:\.\d++)?+"
# Numbers that name something: a layer, a class, a rank, a claim.
NAMES = re.compile(rf"\b(?:layers?|class(?:es)?|claims?|figures?|tables?|notebooks?|seed|k =) {NUMBER}"
                   rf"(?:(?:, | and | to ){NUMBER}(?! ?%))*", re.IGNORECASE)


def numbers(text):
    """{number as it is written: its decimals} of a text, with a per cent sign or not."""
    return {found: len(found.partition(".")[2]) for found in re.findall(NUMBER, text)}


def seen(cells):
    """The texts that say what is to be seen."""
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return [re.split(r"\n\n", text)[0] for text in texts if text.startswith("**What we see.**")]


def said(cells):
    """All numbers that the outputs show."""
    found = set()
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for kind, text in {"text": output.get("text", ""), **output.get("data", {})}.items():
            if kind.startswith("text"):
                text = re.sub(r'\b(?:src|srcdoc|style)="[^"]*"', " ", "".join(text))
                found |= {float(n.replace(",", "")) for n in numbers(html.unescape(re.sub(r"<[^>]*>", " ", text)))}
    return found


def missing(text, shown):
    """The numbers of a text that are no number shown, nor one rounded, nor a share shown in per cent."""
    text = NAMES.sub(" ", re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", text))
    return [written for written, decimals in numbers(text).items() if not any(
        abs(float(written.replace(",", "")) - round(scale * value, decimals)) < 1e-9
        for value in shown for scale in (1, 100))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_we_see_was_printed(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = said(cells)
    assert {text: bad for text in seen(cells) if (bad := missing(text, shown))} == {}
    assert sum(bool(numbers(NAMES.sub(" ", text))) for text in seen(cells)) >= 3  # there is something to compare


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_figure_has_a_sentence_on_what_it_shows(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for at, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            after = ["".join(one["source"]) for one in cells[at + 1:at + 4]]
            assert any(text.startswith("**What we see.**") for text in after), (path.stem, at)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_chapter_says_what_to_know_and_where_to_go(path):
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    names = [one.name for one in notebook_paths()]
    at = names.index(path.name)
    assert "**You should know**" in first
    assert f"Next: [{names[at + 1][:-6]}]({names[at + 1]})" in first
    assert not at or f"Previous: [{names[at - 1][:-6]}]({names[at - 1]})" in first


def test_numbers_by_hand():
    shown = {0.9806, 98.9, 1437.0, 4.0, 0.0079}
    assert missing("98.1 % of 1,437 images at layer 14, k = 10: 98.9 %, 4 mistakes, 0.0079, `7`, $8$", shown) == []
    assert missing("98.2 %, 1,438, 5 mistakes, 0.008, layers 3, 4 and 5", shown) == ["98.2", "1,438", "5"]
    assert missing("layers 3 and 97 %", shown) == ["97"]


@pytest.mark.parametrize(("now", "then"), [("98.1 %", "98.2 %"), ("50.0 %", "25.0 %"), ("1,437", "1,347")])
def test_a_changed_number_is_noticed(now, then):
    cells = json.loads(next(p for p in PATHS if p.stem[:2] == "03").read_text(encoding="utf-8"))["cells"]
    changed = [text.replace(now, then) for text in seen(cells) if now in text]
    assert changed and all(missing(text, said(cells)) for text in changed)
