"""The explorer: what its page holds, how much of it fits, and what it refuses. Its page in a browser:
test_explorer_page.py."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from ebe_utils import ImageSet, layer_neighbors, save_model
from ebe_utils.explorer import Explorer, explore
from ebe_utils.explorer_maps import Projection, aligned, arranged
from ebe_utils.explorer_pictures import packed, pictures
from ebe_utils.forward import predict_logits
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.streams import embedding_neighbors
from ebe_utils.study.cli import main
from ebe_utils.study.run import Run
from ebe_utils.tables import save_tables


def unpacked(part):
    """What `packed` packed, read by its own rule: type, shape, little-endian bytes."""
    kind = np.dtype(part["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(part["data"]), kind).reshape(part["shape"])


@pytest.fixture(scope="module")
def neighbors(trained, small, one_thread):
    return layer_neighbors(trained, *small, layers=[1, 9, 14, 20], k=12, progress=False, device="cpu")


@pytest.fixture(scope="module")
def explorer(neighbors, trained, small, one_thread):
    return explore(neighbors, *small, trained, device="cpu")


def made_up(n_test=200, layers=20, k=50, n_train=60_000, classes=10, seed=0):
    """Neighbours without any order, which share as little as neighbours can."""
    rng = np.random.default_rng(seed)
    names = {layer: f"layer{layer}" for layer in range(1, layers + 1)}
    near = {layer: rng.integers(0, n_train, (n_test, k), dtype=np.int32) for layer in names}
    far = {layer: np.sort(rng.random((n_test, k), np.float32), 1) for layer in names}
    labels = rng.integers(0, classes, n_train), rng.integers(0, classes, n_test)
    return LayerNeighbors(names, near, far, *labels, rng.integers(0, classes, n_test), dict.fromkeys(names, 64),
                          n_outputs=classes, n_classes=classes)


# --- what the page holds ---


def test_the_page_holds_the_neighbours_of_every_layer(explorer, neighbors, small, trained):
    p = explorer.payload
    at, slots = unpacked(p["positions"]), unpacked(p["slots"])
    assert at.tolist() == list(range(60)) and p["chosen"] == "all" and (p["n_train"], p["n_test"]) == (200, 60)
    assert [layer["key"] for layer in p["layers"]] == [0, 1, 9, 14, 20] and p["layers"][3]["name"] == "layer3.1.conv1"
    near, far = slots[unpacked(p["neighbors"])], unpacked(p["distances"])
    for i, layer in enumerate(neighbors.names):
        np.testing.assert_array_equal(near[:, i], neighbors.indices[layer])
        np.testing.assert_array_equal(far[:, i], neighbors.distances[layer])
    np.testing.assert_array_equal(unpacked(p["labels"]), small[0].labels[slots])
    np.testing.assert_array_equal(unpacked(p["truths"]), small[1].labels)
    np.testing.assert_array_equal(unpacked(p["network"]), neighbors.network)
    logits = predict_logits(trained, small[1].images, device="cpu").astype(float)
    np.testing.assert_allclose(unpacked(p["proba"]), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-6)
    assert p["classes"] == list("0123456789") and p["metric"] == "cosine"


def test_the_sprite_holds_every_picture_unchanged(explorer, small):
    shown = explorer.payload["pictures"]
    assert (shown["kind"], shown["width"], shown["height"], shown["lossless"]) == ("image", 28, 28, True)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["sprite"].split(",")[1]))))
    slots = unpacked(explorer.payload["slots"])
    assert shown["count"] == len(slots) and shown["rank"] == 12
    for number, image in enumerate([*small[1].images, *small[0].images[slots.tolist()]]):
        row, column = divmod(number, shown["columns"])
        tile = sheet[28 * row:28 * row + 28, 28 * column:28 * column + 28]
        np.testing.assert_array_equal(tile, image[0])


def test_where_there_are_many_test_inputs_half_are_chosen_for_their_mistakes():
    found, images = made_up(300, 2, 5, 50), torch.zeros(350, 3)
    page = explore(found, images[:50], images[:300], images=40, layer=1, k=5)
    at = unpacked(page.payload["positions"])
    assert len(at) == 40 and page.payload["chosen"] == "mixed" and (np.diff(at) > 0).all()
    votes = found.votes(1, ks=[5])[:, 0]
    odd = (found.network != found.test_labels) | (votes != found.network)
    rest = explore(found, images[:50], images[:300], images=40, layer=1, k=5, seed=1)
    assert not np.array_equal(unpacked(rest.payload["positions"]), at)
    assert odd[at].sum() >= 20
    right = LayerNeighbors(found.names, found.indices, found.distances, found.train_labels, votes, votes,
                           found.dimensions, n_outputs=10, n_classes=10)  # nothing is odd at layer 1
    assert explore(right, images[:50], images[:300], images=40, layer=1, k=5).payload["chosen"] == "random"
    given = explore(found, images[:50], images[:300], positions=[7, 3])
    assert unpacked(given.payload["positions"]).tolist() == [7, 3] and given.payload["chosen"] == "given"


def test_it_is_the_same_page_every_time(neighbors, trained, small, explorer):
    assert explore(neighbors, *small, trained, device="cpu").to_html() == explorer.to_html()


def test_a_network_of_other_classes_is_not_compared(neighbors, small):
    fewer = LayerNeighbors(neighbors.names, neighbors.indices, neighbors.distances, neighbors.train_labels,
                           neighbors.test_labels, neighbors.network, neighbors.dimensions, n_outputs=1000, n_classes=10)
    assert "network" not in explore(fewer, *small).payload


# --- how much fits ---


@pytest.mark.parametrize("channels", [1, 3])
def test_200_inputs_at_20_layers_with_50_neighbours_fit_into_5_megabytes(channels, tmp_path):
    found, rng = made_up(), np.random.default_rng(1)
    noise = rng.integers(0, 256, (2000, channels, 32, 32), dtype=np.uint8)  # nothing is harder to compress
    images = torch.from_numpy(np.concatenate([noise] * 30))
    page = explore(found, ImageSet(images, found.train_labels), ImageSet(images[:200], found.test_labels),
                   network_proba=np.eye(10)[found.network])
    size = page.save(tmp_path / "page.html").stat().st_size
    assert 4_700_000 < size <= 5_000_000
    shown, slots = page.payload["pictures"], unpacked(page.payload["slots"])
    assert len(slots) > 50_000 and 0 < shown["count"] < len(slots)
    drawn = {*slots[:shown["count"]].tolist()}
    up_to = shown["rank"]
    near = np.stack([found.indices[layer] for layer in found.names], 1)
    assert {*near[..., :up_to].ravel().tolist()} <= drawn
    assert not {*near[..., :up_to + 1].ravel().tolist()} <= drawn


def test_photographs_are_made_smaller_and_kept_as_jpeg(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:100, :200]
    waves = np.stack([127 + 60 * np.sin(x / a + c) + 60 * np.cos(y / b) for a, b, c in rng.uniform(5, 20, (90, 3))])
    waves = np.stack([waves] * 3, 1) + rng.normal(0, 6, (90, 3, 100, 200))
    images = torch.from_numpy(waves.clip(0, 255).astype(np.uint8))
    shown = pictures(images, np.arange(30), images, np.arange(60), room=150_000)
    assert (shown["width"], shown["height"]) == (64, 32) and not shown["lossless"] and shown["count"] > 10
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["sprite"].split(",")[1]))), float)
    small = np.asarray(Image.fromarray(images[7].numpy().transpose(1, 2, 0)).resize((64, 32), 1), float)
    row, column = divmod(7, shown["columns"])
    tile = sheet[row * shown["down"]:][:32, column * shown["across"]:][:, :64]
    assert np.abs(tile - small).mean() < 4


def test_texts_and_curves():
    texts = ["a </script><b>", "x" * 1000, "ü 😀"]
    shown = pictures(texts, np.array([0, 2]), texts, np.array([1]), 10_000)
    assert shown["test"] == [texts[0], texts[2]] and len(shown["train"][0]) == 400 and shown["count"] == 1
    assert pictures(texts, np.array([0]), texts, np.array([2, 1]), 160)["count"] < 2
    series = torch.linspace(-1, 3, 300).reshape(1, 1, 300).repeat(4, 2, 1)
    series[:, 1] = 0
    shown = pictures(series, np.array([0]), series, np.array([1, 2]), 10_000)
    steps = unpacked(shown["curves"])
    assert shown["kind"] == "series" and steps.shape == (3, 2, 128)
    values = shown["low"] + steps / 65535 * (shown["high"] - shown["low"])
    np.testing.assert_allclose(values[0, 0], np.linspace(-1, 3, 128), atol=1e-4)
    np.testing.assert_allclose(values[:, 1], 0, atol=1e-4)
    flat = pictures(torch.zeros(2, 5), np.array([0]), torch.zeros(2, 5), np.array([1]), 10_000)
    assert unpacked(flat["curves"]).shape == (2, 1, 5)
    said = pictures(torch.arange(6).reshape(3, 2), np.array([0]), torch.arange(6).reshape(3, 2), np.array([2]), 1000,
                    describe=lambda row: f"{row.tolist()}")
    assert (said["test"], said["train"]) == (["[0, 1]"], ["[4, 5]"])


def test_arrays_are_packed_little_endian():
    for values in (np.array([[1, 258]], np.uint16), np.array([1.5], ">f4"), np.arange(6, dtype=np.uint32)[::2]):
        np.testing.assert_array_equal(unpacked(packed(values)), values)


# --- maps ---


def test_components_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 30)) * np.geomspace(3, 0.01, 30)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    exact = PCA(2, svd_solver="full").fit(unit)
    found = Projection(rows, "cosine", 2, 0)
    np.testing.assert_allclose(np.abs(found(rows[:9])), np.abs(exact.transform(unit[:9])), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(found.explained, exact.explained_variance_ratio_.sum(), rtol=1e-2)
    assert Projection(np.ones((5, 3)), "euclidean", 2, 0).explained == 0
    assert Projection(rng.normal(size=(5, 1)), "euclidean", 2, 0)(np.ones((4, 1))).shape == (4, 2)


def test_a_map_is_turned_to_fit_the_one_before():
    rng = np.random.default_rng(0)
    before = aligned(rng.normal(size=(40, 2)), None, 30)
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # and mirrored
    moved = 3 * before @ turn + [5, -7]
    np.testing.assert_allclose(aligned(moved, before, 30), before, atol=1e-9)


def test_points_in_a_plane_are_drawn_as_they_lie():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(80, 2)) * [4, 1], rng.normal(size=(9, 2))
    labels = rng.integers(0, 3, 80), rng.integers(0, 3, 9)
    found = embedding_neighbors({"a": train}, labels[0], {"a": test}, labels[1], 5, "euclidean")
    page = explore(found, train, test, embeddings={"a": (train, test)})
    drawn = page.payload["map"]["layers"][0]
    slots = unpacked(page.payload["slots"])[unpacked(drawn["slots"])]
    assert {*slots.tolist()} == {*range(80)} and drawn["explained"] == 1
    places = unpacked(drawn["places"]) / 65535
    assert places.min() >= 0 and places.max() <= 1
    ratio = pdist(places) / pdist(np.concatenate([test, train[slots]]))
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-2)


def test_tsne_is_seeded_and_keeps_groups_together():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(30, 10)), 20 + rng.normal(size=(30, 10))])
    found = arranged(rows, "tsne", 0)
    np.testing.assert_array_equal(found, arranged(rows, "tsne", 0))
    gap = np.linalg.norm(found[:30].mean(0) - found[30:].mean(0))
    assert gap > 2 * found[:30].std() and found.shape == (60, 2)


# --- what is refused ---


@pytest.mark.parametrize("change, error, words", [
    ({"images": 0}, ValueError, "images=0"), ({"layer": 7}, ValueError, "layer=7 was not searched"),
    ({"projection": "umap"}, ValueError, "choose one of pca, tsne, none"), ({"k": 0}, ValueError, "k=0"),
    ({"positions": [1, 1]}, ValueError, "none twice"), ({"positions": []}, ValueError, "at least one"),
    ({"positions": [60]}, ValueError, "from 0 to 59"), ({"classes": ["a"]}, ValueError, "labels run up to 9"),
    ({"k_max": 13}, ValueError, "k=13 is out of range"),
    ({"max_bytes": 30_000}, ValueError, "show fewer .images., or keep fewer neighbours"),
    ({"network_proba": np.ones((3, 10))}, ValueError, "a row for each of the 60 test inputs"),
    ({"network_proba": np.eye(10)[np.zeros(60, int)]}, ValueError, "pass the same network")])
def test_what_is_refused(change, error, words, neighbors, small):
    with pytest.raises(error, match=words):
        explore(neighbors, *small, **change)


def test_sets_that_were_not_searched_are_refused(neighbors, small, new_net):
    train, test = small
    with pytest.raises(ValueError, match="there are 199 training inputs, but 200 were searched"):
        explore(neighbors, train.subset(range(199)), test)
    with pytest.raises(ValueError, match="labels of the test set are not those"):
        explore(neighbors, train, test.subset(range(60)[::-1]))
    with pytest.raises(ValueError, match="the network says something else of"):
        explore(neighbors, train, test, new_net(classes=10), projection="none", device="cpu")
    with pytest.raises(TypeError, match="pass describe="):
        explore(neighbors, torch.zeros(200, 5, dtype=torch.int64), torch.zeros(60, 5, dtype=torch.int64))
    with pytest.raises(TypeError, match="of type dict"):
        pictures({"a": 1}, np.array([0]), {"a": 1}, np.array([0]), 1000)


# --- HTML, widget, command ---


def test_names_and_texts_cannot_end_the_script():
    evil = "</script><script>alert(1)</script>{module}"
    found = embedding_neighbors({"a": np.eye(3)}, np.array([0, 1, 1]), {"a": np.eye(3)}, np.array([0, 1, 1]), 2)
    page = explore(found, [evil] * 3, [evil] * 3, classes=[evil, "<!--"], title=evil).to_html()
    assert page.count("<script") == 2 and page.count("</script>") == 2 and "<!--" not in page
    inside = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(inside)["classes"] == [evil, "<!--"]


def test_the_page_asks_for_nothing_from_elsewhere(explorer):
    page = explorer.to_html()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|@import|url\((?!["']?data:)""", page)
    assert {*re.findall(r"https?://[^\s\"']+", page)} == {"http://www.w3.org/2000/svg"}


def test_a_damaged_module_is_noticed(explorer, monkeypatch):
    monkeypatch.setattr("ebe_utils.explorer._static", lambda name: "")
    with pytest.raises(ValueError, match="install the package again"):
        explorer.to_html()


def test_the_widget_without_its_package(explorer, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'ebe-utils\[notebooks\]'"):
        explorer.widget()


def test_the_widget_says_what_is_chosen(explorer):
    pytest.importorskip("anywidget", reason="anywidget, of the extra notebooks, is not installed")
    widget = explorer.widget()
    assert (widget.layer, widget.k, widget.weights) == (14, 10, "uniform") and widget.payload == explorer.payload
    assert repr(widget) == repr(explorer) == "Explorer of 60 test inputs at 5 layers, k up to 12"
    assert {"payload", "image", "layer", "k", "weights", "_esm", "_css"} <= {*widget.get_state()}
    assert "export default { render };" in widget.get_state()["_esm"]


def test_in_a_notebook_it_is_a_frame_that_holds_the_page():
    page = Explorer({"neighbors": {"shape": [1, 2, 3]}, "name": 'a"b'}, 'A "page"')
    shown = page._repr_html_()
    assert shown.count("<") == 2 and 'title="A &quot;page&quot;"' in shown and "a\\&quot;b" in shown


@pytest.fixture
def swept(neighbors, trained, tmp_path, monkeypatch):
    """A run whose steps "train" and "sweep" are done."""
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    run = Run.start(n_train=200, n_test=60, run="explored", device="cpu")
    train_set, test_set = run.load_data()
    with run.step("train", inputs={"train": train_set.fingerprint(), "test": test_set.fingerprint()}) as step:
        save_model(step.path("model.safetensors"), trained, train_set)
    found = layer_neighbors(trained, train_set, test_set, layers=[1, 14], k=50, progress=False, device="cpu")
    with run.step("sweep", needs=["train"], settings={"pooling": "none"}) as step:
        found.save(step.path("neighbors.safetensors"))
        save_tables(found, step.folder)
    return run


def test_the_command_writes_the_page_of_a_run(swept, capsys, tmp_path):
    capsys.readouterr()
    assert main(["explore", "explored"]) == 0
    said = f"{swept.path / 'explorer.html'}  (Explorer of 60 test inputs at 3 layers"
    assert capsys.readouterr().out.startswith(said)
    page = (swept.path / "explorer.html").read_text(encoding="utf-8")
    assert "<title>Which training examples vote? explored</title>" in page and '"map"' in page
    elsewhere = str(tmp_path / "x.html")
    few = ["--images", "5", "--layer", "1", "--k-max", "7", "--projection", "none", "--output", elsewhere]
    assert main(["explore", "explored", *few]) == 0
    assert "Explorer of 5 test inputs at 3 layers, k up to 7" in capsys.readouterr().out


@pytest.mark.parametrize("words, code, message", [
    (["other"], 1, "there is no run other yet"), (["mnist-paper-seed0"], 1, "is a committed result"),
    (["explored", "--sweep", "sweep-avg"], 1, "has no sweep 'sweep-avg', but sweep;"),
    (["explored", "--layer", "99"], 2, "layer=99 was not searched"), (["../x"], 2, "cannot name a folder"),
    (["explored", "--image", "3"], 2, "Did you mean '--images'?"), (["explored", "--images", "0"], 2, "images=0")])
def test_what_the_command_refuses(words, code, message, swept, capsys):
    assert main(["explore", *words]) == code
    assert message in capsys.readouterr().err and not (swept.path / "explorer.html").exists()


def test_a_run_without_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    Run.start(run="young")
    assert main(["explore", "young"]) == 1
    assert "step 'sweep' of run young has not run yet: run notebooks/04_layer_sweep.ipynb" in capsys.readouterr().err
