"""The site's sources: its explorers, what stands for those who cannot see, and the buttons that launch notebooks."""

import json
import re
import runpy
from types import SimpleNamespace

import pytest
import yaml

from ebe_utils import load_dataset, save_model
from ebe_utils.study.run import Run
from ebe_utils.study.step import RunError
from ebe_utils.upkeep.__main__ import main
from ebe_utils.upkeep.explorers import FOLDER, keep_explorer, kept_explorer
from ebe_utils.upkeep.publishing import CHECKOUT

PAGES = sorted((CHECKOUT / "docs").glob("*.md"))
EXPLORERS = sorted(FOLDER.glob("*.json"))


def payload(path):
    """What an explorer's page holds when it is drawn."""
    text = kept_explorer(path).to_html()
    return json.JSONDecoder().raw_decode(text[text.index('{"classes"'):])[0]


def test_the_site_draws_the_pages_of_what_is_kept(tmp_path):
    configuration()["explorers"](SimpleNamespace(outdir=tmp_path), None)
    drawn = sorted((tmp_path / "_static" / "explorers").iterdir())
    assert [page.stem for page in drawn] == [path.stem for path in EXPLORERS]
    for page, path in zip(drawn, EXPLORERS, strict=True):
        text = page.read_text(encoding="utf-8")
        assert json.JSONDecoder().raw_decode(text[text.index('{"classes"'):])[0] == json.loads(
            path.read_text())["payload"]
    configuration()["explorers"](SimpleNamespace(outdir=tmp_path / "failed"), ValueError())
    assert not (tmp_path / "failed").exists()


def test_the_explorers_that_pages_embed_are_there():
    text = (CHECKOUT / "docs" / "explorer.md").read_text(encoding="utf-8")
    embedded = re.findall(r'<iframe[^>]* title="[^"]{20,}"[^>]* src="\.\./_static/explorers/(\w+\.html)"', text)
    assert embedded == ["digits.html", "fashion_mnist.html", "cifar10.html"]
    assert text.count("<iframe") == 3 and {*embedded} == {f"{path.stem}.html" for path in EXPLORERS}
    assert all(f'<a href="../_static/explorers/{name}">' in text for name in embedded)


@pytest.mark.parametrize("page", EXPLORERS, ids=lambda page: page.stem)
def test_an_explorer_of_the_site_is_small_whole_and_needs_no_network(page):
    text = kept_explorer(page).to_html()
    assert len(text.encode()) < 1_000_000
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""", text)
    found = payload(page)
    assert found["n_train"] == {"digits": 1437, "fashion_mnist": 60_000, "cifar10": 50_000}[page.stem]
    assert found["k_max"] >= 10 and {1, 14, 15, 16, 20} <= {layer["key"] for layer in found["layers"]}
    assert found["pictures"]["rank"] >= 5  # of each layer, so many nearest examples all have a picture


def test_an_explorer_of_a_run(trained, small, one_thread, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    run = Run.start(n_train=200, n_test=60, run="shown", device="cpu")
    with pytest.raises(RunError, match="step 'train' of run shown has not run yet"):
        keep_explorer("shown", tmp_path)
    train_set, test_set = run.load_data()
    with run.step("train", inputs={"train": train_set.fingerprint(), "test": test_set.fingerprint()}) as step:
        save_model(step.path("model.safetensors"), trained, train_set)
    found = payload(keep_explorer("shown", tmp_path))
    assert (found["n_train"], found["n_test"], found["k_max"], len(found["layers"])) == (200, 60, 20, 21)
    assert main(["explorers", "nothing"]) == 1
    assert "there is no run nothing yet" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_and_frames_of_a_page_say_what_they_show(page):
    text = page.read_text(encoding="utf-8")
    assert all(len(alt) > 20 for alt in re.findall(r"!\[([^\]]*)\]\(", text))
    assert all(re.search(r'\balt="[^"]{20,}"', tag) for tag in re.findall(r"<img\b[^>]*>", text))
    assert all(re.search(r'\btitle="[^"]{20,}"', tag) for tag in re.findall(r"<iframe\b[^>]*>", text))


def configuration():
    """What docs/conf.py sets."""
    return runpy.run_path(str(CHECKOUT / "docs" / "conf.py"))


def test_a_figure_of_a_notebook_is_described_by_the_paragraph_after_it():
    nodes = pytest.importorskip("docutils.nodes", reason="docutils, of the extra site, is not installed")
    told, said = nodes.image(uri="a.png", alt="drawn before"), "What we see. " + "Accuracy rises. " * 40
    bare, last, second = (nodes.image(uri=f"{name}.png") for name in "bcd")
    page = nodes.section("", told, nodes.container("", bare, second), nodes.paragraph("", "10 s"),
                         nodes.paragraph("", said), nodes.paragraph("", "x" * 50), last)
    configuration()["describe"](None, page, "page")
    assert told["alt"] == "drawn before" and "alt" not in last
    assert bare["alt"] == second["alt"] and bare["alt"].startswith("What we see. Accuracy rises.")
    assert len(bare["alt"]) <= 402 and bare["alt"].endswith(" …")


def test_launch_buttons_appear_with_the_repositorys_address(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")).get("repository-code")
    assert configuration()["html_theme_options"].get("repository_url") == cited
    assert ("launch_buttons" in configuration()["html_theme_options"]) == (cited is not None)
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/ebe")
    options = configuration()["html_theme_options"]
    assert options["repository_url"] == (cited or "https://github.com/someone/ebe")
    assert {*options["launch_buttons"]} == {"colab_url", "binderhub_url"}


def test_the_workflow_publishes_what_make_site_builds():
    steps = yaml.safe_load((CHECKOUT / ".github/workflows/site.yml").read_text())["jobs"]["site"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make site"]
    path, = (step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", ""))
    assert f" {path}\n" in (CHECKOUT / "Makefile").read_text()


def test_the_data_of_the_digits_explorer_are_the_digits():
    train_set, test_set = load_dataset("digits")
    found = payload(FOLDER / "digits.json")
    assert (found["n_train"], found["n_test"]) == (len(train_set), 60) and found["classes"] == list(train_set.classes)
