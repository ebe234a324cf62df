"""The files around the package agree with each other."""

import re
import tomllib

import pandas as pd
import yaml

from ebe_utils.upkeep.publishing import CHECKOUT

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


def test_readme_and_makefile_speak_of_the_same_targets():
    targets = set(re.findall(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)[0].split())
    used = set(re.findall(r"(?:^|`)make (\w+)", (CHECKOUT / "README.md").read_text(), re.MULTILINE))
    assert {"run", "test", "notebooks"} <= used <= targets


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)|src=\"(?!https?:)([^\"]+)\"", (CHECKOUT / "README.md").read_text())
    assert links
    for link in links:
        assert (CHECKOUT / (link[0] or link[1])).exists(), link


def test_the_readme_shows_the_committed_benchmark():
    table = pd.read_csv(CHECKOUT / "data/reference/benchmark/mnist/table.csv")
    known = {(f"{seconds:,.0f}", f"{ratio:,.{0 if round(ratio) == 1 or ratio > 10 else 1}f}"): f"{peak:.1f}"
             for seconds, ratio, peak in table[["seconds", "x forward", "peak GiB"]].itertuples(index=False)}
    rows = re.findall(r"^\|[^|]*\| \**([\d,]+)\** \| \**([\d.,]+)\** \| ?\**([\d.]*)\** \|$",
                      (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 7
    for seconds, ratio, peak in rows:
        assert (seconds, ratio) in known
        assert peak in ("", known[seconds, ratio])
