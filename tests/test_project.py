"""The files around the package agree with each other."""

import ast
import importlib
import re
import tomllib

import numpy as np
import pytest
import yaml

from ebe_utils.upkeep.publishing import CHECKOUT
from ebe_utils.votes import one_hot

CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}


def test_environment_and_pyproject_ask_for_the_same():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {*project["dependencies"], *(line for extra in extras for line in extra),
              f"python{project['requires-python']}"}
    conda = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    renamed = {re.sub(r"^[\w-]+", lambda m: CONDA.get(m[0], m[0]), line) for line in conda if line != "pip"}
    assert renamed == wanted


def test_every_dependency_is_pinned_without_an_address():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (CHECKOUT / "constraints.txt").read_text().splitlines())
    extras = project["optional-dependencies"].values()
    for wanted in (*project["dependencies"], *(line for extra in extras for line in extra)):
        assert re.match(r"[\w-]+", wanted)[0].lower() in {name.lower() for name in pins}
    assert not re.search(r"://|@", (CHECKOUT / "constraints.txt").read_text())


README = CHECKOUT / "README.md"
PAGES = [README, *sorted((CHECKOUT / "docs").glob("*.md"))]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_pages_and_makefile_speak_of_the_same_targets():
    targets = set(re.findall(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)[0].split())
    for page in PAGES:
        used = set(re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE))
        assert used <= targets, page.name
        assert page != README or {"run", "test"} <= used


def anchors(page):
    """What GitHub and MyST make of a page's headings: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    assert links or page != README
    for link in links:
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_lists_every_notebook():
    names = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\)", README.read_text(), re.MULTILINE)
    assert names == sorted(path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("page", [README, CHECKOUT / "docs" / "guide.md"], ids=lambda page: page.name)
def test_the_first_example_of_a_page_runs(page, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    small = code.replace('load_dataset("digits")', 'load_dataset("digits", n_train=60, n_test=20)').replace(
        "epochs=5", "epochs=1").replace("select(model, train_set)", "select(model, train_set, ks=[1, 3])")
    assert small.count("n_train=60") == small.count("epochs=1") == small.count("ks=[1, 3]") == 1
    names = {}
    exec(small, names)
    ebe, w, labels = names["ebe"], names["w"], names["train_set"].labels
    np.testing.assert_allclose(w @ one_hot(labels, 10), ebe.predict_proba(names["test_set"].images))
    np.testing.assert_allclose(w.sum(1), 1)
    assert {"accuracy", "agreement"} <= set(names["sweep"].columns)
    assert names["chosen"].k in (1, 3)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_pages_imports_what_there_is(page):
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ebe_utils"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"
