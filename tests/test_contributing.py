"""The recipes of CONTRIBUTING.md are followed: their code is carried out, in order, and what they name is there."""

import re

import pytest

from ebe_utils.upkeep.publishing import CHECKOUT

TEXT = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def names():
    """What the blocks before have defined."""
    return {"__name__": "recipe"}


def test_there_is_a_recipe_for_each_kind_of_addition():
    assert [title for title, _ in BLOCKS] == ["A vote", "A metric", "An engine", "A data set", "A notebook"]


@pytest.mark.parametrize("title, code", BLOCKS, ids=[title for title, _ in BLOCKS])
def test_the_code_of_a_recipe_works(title, code, names, one_thread, tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), names)  # names of the checkout's own text


def test_the_files_and_names_of_the_recipes_are_there():
    files = set(re.findall(r"`((?:ebe_utils|tests)/[\w/]+\.py)`", TEXT))
    assert len(files) > 5
    code = "".join((CHECKOUT / file).read_text(encoding="utf-8") for file in files)
    for name in re.findall(r"`([A-Z_]{4,}[0-9]?|searcher)`", TEXT):
        assert re.search(rf"^({name} =|def {name}\()", code, re.MULTILINE), name
