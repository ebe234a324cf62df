"""The explorer's page in a browser: what a reader can do with it, and that its numbers are the package's.

Without playwright, or without Chromium or Chrome on the path (EBE_CHROMIUM names another place), these tests are
skipped and say so.
"""

import os
import re
import shutil

import numpy as np
import pytest
import torch

from ebe_utils import EBEClassifier, layer_neighbors
from ebe_utils.explorer import _static, explore
from ebe_utils.forward import predict_logits, softmax
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.streams import embedding_neighbors
from ebe_utils.votes import vote_shares, vote_weights

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra test, is not installed: the "
                                                               "explorer's page is not tested in a browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]
EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("EBE_CHROMIUM") or next(filter(None, map(shutil.which, (
        "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
    if found is None:
        pytest.skip("no Chromium and no Chrome on the path (apt install chromium): the explorer's page is not tested "
                    "in a browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens an explorer from disk; no error may be reported and nothing asked for from elsewhere."""
    wrong, pages = [], []

    def visit(explorer, width=1280, height=900, **options):
        file = explorer if isinstance(explorer, str) else explorer.save(tmp_path / f"{len(pages)}.html").as_uri()
        page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:", "about:"))
                else wrong.append(asked.url))
        page.goto(file)
        page.wait_for_selector("html[data-ready=true]")
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert wrong == []


@pytest.fixture(scope="module")
def neighbors(trained, small, one_thread):
    return layer_neighbors(trained, *small, layers=[1, 9, 14, 20], k=12, progress=False, device="cpu")


@pytest.fixture(scope="module")
def explorer(neighbors, trained, small, one_thread):
    return explore(neighbors, *small, trained, device="cpu")


def choose(page, **values):
    page.evaluate("values => Object.entries(values).forEach(([name, value]) => explorer.set(name, value))", values)


READ = """() => {
  const read = (where, ...names) => [...document.querySelectorAll(where)].map(
    one => names.map(name => Number(one.dataset[name])));
  const [[vote, share]] = read(".ebe-said", "vote", "share");
  return { vote, share, strip: read(".ebe-column", "vote", "share"),
           bars: read(".ebe-bars tbody tr", "class", "share", "proba"),
           cards: read(".ebe-card", "index", "class", "distance", "weight") };
}"""
ACROSS = """() => { const tops = [...document.querySelectorAll("[role=option]")].map(cell => cell.offsetTop);
                    return tops.filter(top => top === tops[0]).length; }"""
INSIDE = """id => { const cell = document.getElementById(id), grid = document.querySelector("[role=listbox]");
                    return cell.offsetTop >= grid.scrollTop - 8
                      && cell.offsetTop + cell.offsetHeight <= grid.scrollTop + grid.clientHeight + 8; }"""
CONTROLS = "button, select, input, [role=option], [role=listbox], svg[role=img]"
NAMELESS = """all => all.filter(one => !(one.getAttribute("aria-label") || one.textContent.trim()
                                         || one.labels?.length)).map(one => one.outerHTML)"""
IDS = "[...document.querySelectorAll('[id]')].map(one => one.id)"


# --- the numbers ---


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_the_numbers_are_those_of_the_package(weights, explorer, neighbors, small, trained, opened, one_thread):
    page = opened(explorer)
    proba = softmax(predict_logits(trained, small[1].images, device="cpu"))
    layers = list(neighbors.names)
    classifiers = {k: EBEClassifier(trained, 14, k, weights=weights, device="cpu").fit(small[0]) for k in (1, 4, 12)}
    said = {k: ebe.explain_batch(small[1].images) for k, ebe in classifiers.items()}
    for image, layer, k in [(0, 14, 12), (0, 0, 4), (17, 14, 4), (17, 20, 1), (33, 1, 12), (59, 9, 4), (59, 14, 1)]:
        choose(page, image=image, layer=layer, k=k, weights=weights)
        shown = page.evaluate(READ)
        near, far = (part[layer][image, :k] for part in (neighbors.indices, neighbors.distances))
        cards = np.array(shown["cards"])
        np.testing.assert_array_equal(cards[:, 0], near)
        np.testing.assert_array_equal(cards[:, 1], small[0].labels[near])
        np.testing.assert_array_equal(cards[:, 2].astype(np.float32), far)
        np.testing.assert_allclose(cards[:, 3], vote_weights(far[None], weights)[0], rtol=1e-12)
        strip = []
        for one in layers:
            shares = vote_shares(neighbors.indices[one][[image], :k], small[0].labels,
                                 vote_weights(neighbors.distances[one][[image], :k], weights), 10)[0]
            strip.append([int(shares.argmax()), shares.max()])
            assert strip[-1][0] == neighbors.votes(one, weights, [k])[image, 0]
        np.testing.assert_allclose(shown["strip"], strip, rtol=0, atol=1e-12)
        assert [shown["vote"], shown["share"]] == shown["strip"][layers.index(layer)]
        if layer == 14:
            assert shown["vote"] == said[k].prediction[image]
            np.testing.assert_array_equal(cards[:, 0], said[k].indices[image])
            for c, share, network in shown["bars"]:
                np.testing.assert_allclose(share, said[k].proba[image, int(c)], atol=1e-9)
                np.testing.assert_allclose(network, proba[image, int(c)], atol=1e-6)


def test_of_equal_shares_the_smallest_class_wins_and_zeros_share_the_weight(opened):
    """Class 2 comes first, as often as class 1; and with votes by distance two examples that are the input itself."""
    labels = np.array([2, 1, 2, 1, 0, 1])
    near = {"a": [[0, 1, 2, 3]], "b": [[0, 5, 3, 1]], "c": [[0, 1, 3, 4]]}
    far = {"a": [[.1, .2, .3, .4]], "b": [[0, 0, .1, .1]], "c": [[2, 3, 6, 7]]}
    found = LayerNeighbors({layer: layer for layer in near},
                           {layer: np.array(at, np.int32) for layer, at in near.items()},
                           {layer: np.array(of, np.float32) for layer, of in far.items()}, labels, np.array([1]),
                           np.array([0]), dict.fromkeys(near, 1), n_outputs=3, n_classes=3)
    page = opened(explore(found, ["train"] * 6, ["test"], layer="a", k=4))
    assert page.evaluate(READ)["vote"] == 1 == found.votes("a", ks=[4])[0, 0]
    assert "As much is for 2, and of equal shares the first class wins." in page.inner_text(".ebe-said")
    assert [row[:2] for row in page.evaluate(READ)["bars"]] == [[1, .5], [2, .5]]
    choose(page, layer="b", weights="distance")
    shown = page.evaluate(READ)
    assert [card[3] for card in shown["cards"]] == [.5, .5, 0, 0] and (shown["vote"], shown["share"]) == (1, .5)
    choose(page, layer="c", k=3)  # 1/2 is 1/3 + 1/6, whatever their last bits say
    assert page.evaluate(READ)["vote"] == 1 == vote_shares(found.indices["c"][:, :3], labels, vote_weights(
        found.distances["c"][:, :3], "distance"))[0].argmax()


def test_filters_and_who_shares_an_example(explorer, neighbors, small, opened):
    page = opened(explorer)
    choose(page, layer=1, k=6)
    votes, truth, network = neighbors.votes(1, ks=[6])[:, 0], small[1].labels, neighbors.network
    top = vote_shares(neighbors.indices[1][:, :6], small[0].labels).max(1)
    for name, expected in {"wrong": network != truth, "divided": top < 0.6, "differ": votes != network,
                           "all": truth >= 0}.items():
        page.click(f"[data-filter={name}]")
        assert page.get_attribute(f"[data-filter={name}]", "aria-pressed") == "true"
        ids = page.eval_on_selector_all("[role=option]:not([hidden])", "all => all.map(one => one.id.split('-')[1])")
        assert [int(one) for one in ids] == np.flatnonzero(expected).tolist()
        assert int(page.inner_text(f"[data-filter={name}] .ebe-count")) == expected.sum()
    page.select_option("select", "3")
    assert page.locator("[role=option]:not([hidden])").count() == (truth == 3).sum()
    page.select_option("select", "-1")
    choose(page, image=5)
    page.locator(".ebe-card").nth(2).click()
    example = neighbors.indices[1][5, 2]
    users = page.eval_on_selector_all(".ebe-user", "all => all.map(one => Number(one.dataset.image))")
    rows, ranks = np.nonzero(neighbors.indices[1][:, :6] == example)
    assert users == rows[np.lexsort((rows, ranks))].tolist()[:24]
    assert f"Training image {example}" in page.inner_text(".ebe-which")
    page.locator(".ebe-user").last.click()
    assert page.evaluate("explorer.get('image')") == users[-1]


# --- what the reader does ---


def test_choosing_sliding_and_the_address(explorer, neighbors, small, opened):
    page = opened(explorer)
    page.locator("[role=option]").nth(8).click()
    slider = page.locator("input.ebe-layer")
    assert f"true class {small[1].labels[8]}" in page.inner_text(".ebe-shown")
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate("explorer.get('layer')") == 0 and "raw pixels" in page.inner_text(".ebe-said").lower()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("explorer.get('layer')") == 9
    assert slider.get_attribute("aria-valuetext").startswith("layer 9: ")
    first = page.evaluate(READ)["cards"]
    page.locator(".ebe-column").nth(4).click()
    assert page.evaluate("explorer.get('layer')") == 20 and page.input_value("input.ebe-layer") == "4"
    assert page.evaluate(READ)["cards"] != first
    page.locator("input.ebe-k").fill("3")
    page.locator("input[value=distance]").check()
    assert [card[0] for card in page.evaluate(READ)["cards"]] == neighbors.indices[20][8, :3].tolist()
    assert {*page.url.split("#")[1].split("&")} == {"image=8", "layer=20", "k=3", "weights=distance"}
    again = opened(page.url)
    assert again.evaluate(READ) == page.evaluate(READ)
    odd = opened(page.url.split("#")[0] + "#image=999&layer=x&k=-4&weights=best")  # what cannot be is brought in bounds
    assert len(odd.evaluate(READ)["cards"]) == 1


def test_the_grid_by_keyboard(explorer, opened):
    page = opened(explorer)
    choose(page, image=0)
    page.locator("[role=listbox]").focus()
    across = page.evaluate(ACROSS)
    for press, at in [("ArrowRight", 1), ("ArrowDown", 1 + across), ("ArrowLeft", across), ("ArrowUp", 0),
                      ("ArrowUp", 0), ("End", 59), ("ArrowRight", 59), ("Home", 0)]:
        page.keyboard.press(press)
        assert page.evaluate("explorer.get('image')") == at
        chosen = page.get_attribute("[role=listbox]", "aria-activedescendant")
        assert page.get_attribute(f"#{chosen}", "aria-selected") == "true" and chosen.endswith(f"-{at}")
        assert page.evaluate(INSIDE, chosen)
    assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"


def test_playing_goes_through_the_layers(explorer, opened):
    page = opened(explorer)
    choose(page, layer=20)
    page.click(".ebe-play")
    assert page.evaluate("explorer.get('layer')") == 0
    page.wait_for_selector(".ebe-column:nth-child(2)[aria-pressed=true]")
    page.click(".ebe-play")
    assert page.inner_text(".ebe-play") == "▶ play"


def test_every_control_has_a_name_and_no_id_is_given_twice(explorer, opened):
    page = opened(explorer)
    assert page.eval_on_selector_all(CONTROLS, NAMELESS) == []
    ids = page.evaluate(IDS)
    assert len(ids) == len({*ids}) > 60
    silent = page.eval_on_selector_all("canvas, svg:not([role])", "all => all.map(one => one.ariaHidden)")
    assert {*silent} == {"true"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out_and_text_is_readable(scheme, explorer, opened):
    page = opened(explorer, 390, 844, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    contrast = page.evaluate("""() => {
        const shade = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const light = colour => {
            shade.fillStyle = colour; shade.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...shade.getImageData(0, 0, 1, 1).data].map(v => v / 255).map(
                v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = light(getComputedStyle(document.querySelector(".ebe-answer")).backgroundColor);
        return [".ebe-said", ".ebe-note", ".ebe-card .ebe-number", ".ebe-count"].map(where => {
            const text = light(getComputedStyle(document.querySelector(where)).color);
            return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
        });
    }""")
    assert min(contrast) >= 4.5


# --- other inputs, other places ---


def test_words_are_shown_and_no_markup_is_carried_out(opened):
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(9, 4)), np.arange(9) % 2
    found = embedding_neighbors({EVIL: rows}, labels, {EVIL: rows[:4]}, labels[:4], 3)
    page = opened(explore(found, [f"{EVIL} {i}" for i in range(9)], [f"{EVIL} {i}" for i in range(4)],
                          classes=[EVIL, "b"], title=EVIL, embeddings={EVIL: (rows, rows[:4])}))
    choose(page, image=2)
    page.locator(".ebe-card").nth(1).click()
    assert page.inner_text("h1") == EVIL and page.locator("[role=option]").nth(2).inner_text() == f"{EVIL} 2"
    assert page.locator(".ebe-card").first.locator(".ebe-text").inner_text() == f"{EVIL} 2"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("window.hit") is None and page.locator("img, #explorer script").count() == 0
    assert "cannot be compared" in page.inner_text(".ebe-said") and page.locator("[data-filter=wrong]").count() == 0


def test_series_are_drawn_as_curves(opened):
    time = np.linspace(0, 6, 40)
    rows = np.stack([np.sin(time + shift) for shift in np.linspace(0, 3, 10)])
    found = embedding_neighbors({"a": rows}, np.arange(10) % 3, {"a": rows[:3]}, np.arange(3), 4, "euclidean")
    page = opened(explore(found, torch.from_numpy(rows), torch.from_numpy(rows[:3])))
    choose(page, image=1)
    points = page.locator(".ebe-shown polyline").get_attribute("points")
    heights = np.array([float(pair.split(",")[1]) for pair in points.split()])
    np.testing.assert_allclose(np.corrcoef(-heights, rows[1])[0, 1], 1, atol=1e-4)  # down is more in SVG
    assert page.locator(".ebe-examples polyline").count() == 4
    assert "Map of a" not in page.content() and "There is no map" in page.inner_text(".ebe-map")


def test_the_map_shows_the_input_and_its_nearest(explorer, neighbors, opened):
    page = opened(explorer)
    choose(page, image=4, layer=9, k=12)
    assert page.locator(".ebe-lit path").count() == page.locator(".ebe-ties line").count() == 10
    star = page.get_attribute(".ebe-ties line", "x1"), page.get_attribute(".ebe-ties line", "y1")
    choose(page, layer=20)
    assert star != (page.get_attribute(".ebe-ties line", "x1"), page.get_attribute(".ebe-ties line", "y1"))
    choose(page, k=3)
    assert page.locator(".ebe-lit path").count() == 3
    box = page.locator(".ebe-canvas svg").bounding_box()
    x, y = (float(page.locator(".ebe-ties line").nth(1).get_attribute(name)) / 600 for name in ("x2", "y2"))
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert page.locator(".ebe-tip").is_visible()


def test_as_a_frame_in_a_notebook(explorer, browser, tmp_path):
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{explorer._repr_html_()}", encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "cell.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator(".ebe-column").nth(1).click()
    assert frame.locator(".ebe-where").inner_text().startswith("Layer 1")
    page.close()


def test_the_module_keeps_the_contract_of_anywidget(explorer, browser, tmp_path):
    """A module whose default export has `render({ model, el })`, which returns what is called at the end."""
    (tmp_path / "blank.html").write_text("<!doctype html><div id='a'></div>", encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "blank.html").as_uri())
    done = page.evaluate("""async ([source, payload]) => {
        const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
        const values = { payload, ...payload.start }, heard = new Map(), el = document.getElementById("a");
        let saved = 0;
        const model = {
            get: name => values[name], save_changes: () => { saved += 1; }, off: event => heard.delete(event),
            set: (name, value) => { values[name] = value; heard.get(`change:${name}`)?.(); },
            on: (event, f) => heard.set(event, f) };
        const end = await module.default.render({ model, el });
        const columns = [...el.querySelectorAll(".ebe-column")];
        const pressed = () => columns.findIndex(c => c.getAttribute("aria-pressed") === "true");
        model.set("layer", 20);
        const byPython = pressed();
        el.querySelectorAll(".ebe-column")[1].click();
        const byReader = [values.layer, saved > 0], listening = heard.size;
        end();
        return { exports: Object.keys(module), byPython, byReader, listening, left: heard.size };
    }""", [_static("explorer.js"), explorer.payload])
    assert done == {"exports": ["default"], "byPython": 4, "byReader": [1, True], "listening": 4, "left": 0}
    page.close()


def test_the_style_reaches_nothing_but_the_explorer():
    """In Jupyter it stands beside other people's."""
    style = re.sub(r"/\*.*?\*/", "", _static("explorer.css"), flags=re.DOTALL)
    for rule in re.findall(r"([^{}]+)\{", style):
        if not rule.strip().startswith("@"):
            assert all("ebe-" in part for part in re.split(r",(?![^(]*\))", rule)), rule
