"""Step 7, the figures: what is returned is what is drawn. And what notebooks print."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba

from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.study.figures import (
    RIGHT,
    WRONG,
    accuracy_figure,
    image_grid,
    layers_figure,
    neighbors_figure,
    plain,
    save_figure,
    structure_figure,
    style,
)
from ebe_utils.study.report import check, show_table


@pytest.fixture(autouse=True)
def own_style():
    with plt.rc_context():
        style()
        yield
    plt.close("all")


@pytest.fixture
def neighbors(stripes):
    """Of 21 test images at layers 0, 3 and 14, drawn at random: 12 of 48 training images each."""
    rng = np.random.default_rng(0)
    train, test = stripes
    indices = {layer: np.array([rng.permutation(48)[:12] for _ in range(21)]) for layer in (0, 3, 14)}
    distances = {layer: np.sort(rng.random((21, 12)), 1) for layer in (0, 3, 14)}
    return LayerNeighbors({0: "pixels", 3: "a", 14: "b"}, indices, distances, train.labels, test.labels,
                          test.labels, {0: 64, 3: 5, 14: 6})


@pytest.fixture
def explanations(neighbors, stripes):
    return [neighbors.explain(*stripes, position, layer=14, k=12) for position in (4, 8)]


@pytest.fixture
def sweep():
    rng = np.random.default_rng(0)
    rows = [(layer, f"layer {layer}", k, rng.random(), rng.random(), 0.75) for layer in range(21) for k in range(1, 21)]
    return pd.DataFrame(rows, columns=["layer", "name", "k", "accuracy", "agreement", "network_accuracy"])


def shown_in(axis):
    return np.asarray(axis.images[0].get_array())


def frame(axis):
    return axis.spines["left"].get_edgecolor()


# --- accuracy against layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["accuracy", "agreement"])
def test_accuracy_figure_draws_the_sweep(sweep, column):
    figure, data = accuracy_figure(sweep, ks=(1, 5, 10), column=column)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for k in (1, 5, 10):
        expected = sweep[(sweep["k"] == k) & (sweep["layer"] > 0)].sort_values("layer")[column]
        np.testing.assert_array_equal(lines[f"k = {k}"].get_xdata(), range(1, 21))
        np.testing.assert_allclose(lines[f"k = {k}"].get_ydata(), 100 * expected)
        np.testing.assert_array_equal(data[(data["k"] == k) & (data["layer"] > 0)][column], expected)
    pixels = sweep[(sweep["k"] == 10) & (sweep["layer"] == 0)][column].iloc[0]
    np.testing.assert_allclose(lines["raw pixels, k = 10"].get_ydata(), 100 * pixels)
    assert set(data["k"]) == {1, 5, 10} and set(data["layer"]) == set(range(21))
    if column == "accuracy":
        np.testing.assert_allclose(lines["network"].get_ydata(), 75)
    assert ("network" in lines) == ("network_accuracy" in data) == (column == "accuracy")
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == len(lines)


def test_accuracy_figure_of_many_ks_draws_them_all(sweep):
    figure, data = accuracy_figure(sweep, ks=range(1, 10))
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert [f"k = {k}" for k in range(1, 10)] == labels[:9] and set(data["k"]) == set(range(1, 10))


def test_accuracy_figure_without_pixels_and_with_the_ks_that_are_there(sweep):
    figure, data = accuracy_figure(sweep[sweep["layer"].isin([3, 14]) & (sweep["k"] < 6)], title="Some layers")
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["k = 1", "k = 3", "k = 5", "network"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["3", "14"]
    assert axes.get_title() == "Some layers" and len(data) == 6


# --- pictures ------------------------------------------------------------------------------------------------------


def test_neighbors_figure_without_a_network(explanations):
    figure, data = neighbors_figure([replace(explanations[0], network_prediction=None)], [0])
    assert "network: none" in figure.axes[0].get_xlabel().replace("\n", " ") and set(data["network"]) == {"none"}


def test_neighbors_figure_draws_the_examples(explanations, stripes):
    """12 examples take two rows of ten for each of the two images explained."""
    train, test = stripes
    figure, data = neighbors_figure(explanations, [test.labels[4], test.labels[8]])
    assert len(data) == 24 and len(figure.axes) == 4 * 11
    axes = np.array(figure.axes).reshape(4, 11)
    for e, position in enumerate((4, 8)):
        explanation, truth, rows = explanations[e], test.labels[position], data[data["image"] == e]
        np.testing.assert_allclose(shown_in(axes[2 * e, 0]), test.images[position, 0] / 255, atol=1e-6)
        assert test.classes[truth] in axes[2 * e, 0].get_title()
        assert test.classes[explanation.prediction] in axes[2 * e, 0].get_xlabel()
        np.testing.assert_array_equal(rows["index"], explanation.indices)
        np.testing.assert_array_equal(rows["weight"], explanation.weights)
        np.testing.assert_array_equal(rows["distance"], explanation.distances)
        assert list(rows["rank"]) == list(range(1, 13)) and set(rows["truth"]) == {test.classes[truth]}
        assert list(rows["class"]) == [train.classes[label] for label in explanation.labels]
        for rank, index in enumerate(explanation.indices):
            axis = axes[2 * e + rank // 10, 1 + rank % 10]
            np.testing.assert_allclose(shown_in(axis), train.images[index, 0] / 255, atol=1e-6)
            assert axis.get_title().split() == [str(rank + 1), train.classes[train.labels[index]]]
            assert frame(axis) == to_rgba(RIGHT if train.labels[index] == truth else WRONG)
    assert {frame(axis) for axis in axes[:, 1:].flat if axis.images} == {to_rgba(RIGHT), to_rgba(WRONG)}


def test_layers_figure_draws_the_neighbors(neighbors, stripes):
    train, test = stripes
    figure, data = layers_figure(neighbors, test, train, 5, layers=(3, 9, 14), k=4)
    assert sorted(set(data["layer"])) == [3, 14] and len(data) == 8
    (axes,) = figure.axes
    drawn = [np.asarray(image.get_array()) for image in axes.images]
    corners = [(image.get_extent()[0], image.get_extent()[3]) for image in axes.images]
    assert corners == [patch.get_xy() for patch in axes.patches]
    assert all(patch.get_width() < 1 and patch.get_height() < 1 for patch in axes.patches)  # none over another
    np.testing.assert_allclose(drawn[0], test.images[5, 0] / 255, atol=1e-6)
    labels = {text.get_text(): text.get_position() for text in axes.texts}
    for row, layer in enumerate((3, 14)):
        indices, rows = neighbors.indices[layer][5, :4], data[data["layer"] == layer]
        np.testing.assert_array_equal(rows["index"], indices)
        np.testing.assert_array_equal(rows["distance"], neighbors.distances[layer][5, :4])
        assert rows["class"].tolist() == [train.classes[label] for label in train.labels[indices]]
        assert rows["rank"].tolist() == [1, 2, 3, 4] and set(rows["truth"]) == {test.classes[test.labels[5]]}
        for rank, index in enumerate(indices):
            at = 1 + 4 * row + rank
            np.testing.assert_allclose(drawn[at], train.images[index, 0] / 255, atol=1e-6)
            color = to_rgba(RIGHT if train.labels[index] == test.labels[5] else WRONG)
            assert axes.patches[at].get_edgecolor() == color
            x, y = corners[at]
            assert labels[f"{rank + 1}"][0] == pytest.approx(x + 0.46)
            assert y == row < labels[f"layer {layer}"][1] < y + 1
            assert labels[f"layer {layer}"][0] < corners[1][0] <= x
    assert any("rank 1 to 4" in text for text in labels)


def test_structure_figure_names_what_it_shows(explanations):
    figure, data = structure_figure(explanations[0])
    explanation = explanations[0]
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    for words in ("$l$ = 14", "$k$ = 12", "cosine", "20 convolutions",
                  f"mode of the labels: {explanation.classes[explanation.prediction]}"):
        assert words in texts
    assert list(data["class"]) == [explanation.classes[label] for label in explanation.labels[:3]]
    np.testing.assert_array_equal(data["weight"], explanation.weights[:3])


def test_image_grid_and_colour_images():
    images = torch.arange(3 * 3 * 4 * 5).reshape(3, 3, 4, 5).to(torch.uint8)
    figure = image_grid(images, ["a", "b", "c"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
    for axis, image in zip(figure.axes[:3], images, strict=True):
        np.testing.assert_allclose(shown_in(axis), image.permute(1, 2, 0) / 255, atol=1e-6)


def test_dollars_in_names_of_classes_are_drawn_as_dollars(neighbors, stripes, tmp_path):
    """matplotlib takes what is between two of them for a formula, and fails if it is none."""
    names = (r"$\frac$", "a $b^$ c", "$")
    train, test = (replace(part, classes=names) for part in stripes)
    explanation = neighbors.explain(train, test, 4, layer=14, k=12)
    drawn = [structure_figure(explanation)[0], neighbors_figure([explanation], [0])[0],
             layers_figure(neighbors, test, train, 5, layers=(3, 14), k=4)[0],
             image_grid(train.images[:3], names)]
    for number, figure in enumerate(drawn):
        save_figure(tmp_path, str(number), figure, pd.DataFrame())
        svg = (tmp_path / f"{number}.svg").read_text()
        shown = [test.labels[5]] if number == 2 else explanation.labels[:2]
        for label in shown:
            assert f">{names[label]}<" in svg
    figure, axes = plt.subplots()
    axes.set_title(plain(names[0]))
    save_figure(tmp_path, "plain", figure, pd.DataFrame())
    assert names[0] in (tmp_path / "plain.svg").read_text()


# --- files ---------------------------------------------------------------------------------------------------------


def test_saved_figures_have_their_numbers_beside_them(sweep, tmp_path):
    figure, data = accuracy_figure(sweep)
    folder = tmp_path / "new" / "figures"
    assert save_figure(folder, "accuracy", figure, data) == folder / "accuracy.png"
    assert sorted(f.name for f in folder.iterdir()) == ["accuracy.csv", "accuracy.png", "accuracy.svg"]
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "accuracy.svg").read_text() and "raw pixels" in (folder / "accuracy.svg").read_text()
    again = pd.read_csv(folder / "accuracy.csv")
    pd.testing.assert_frame_equal(again, data.reset_index(drop=True), rtol=1e-5)


def test_the_same_figure_is_saved_as_the_same_files(sweep, tmp_path):
    for name in "ab":
        save_figure(tmp_path / name, "x", *accuracy_figure(sweep))
    for suffix in ("png", "svg", "csv"):
        assert (tmp_path / "a" / f"x.{suffix}").read_bytes() == (tmp_path / "b" / f"x.{suffix}").read_bytes()


# --- what notebooks print ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, bounds, line", [
    (0.98123, {"at_least": 0.95}, "accuracy 0.9812 ≥ 0.95"), (0.95, {"at_least": 0.95}, "accuracy 0.9500 ≥ 0.95"),
    (0.1, {"at_most": 0.1}, "accuracy 0.1000 ≤ 0.1"), (np.float32(2), {"at_least": 2}, "accuracy 2.0000 ≥ 2"),
    (0.5, {"at_least": 0.25, "at_most": 0.75}, "accuracy 0.5000 ≥ 0.25 ≤ 0.75"), (True, {}, "accuracy")])
def test_check_passes(capsys, value, bounds, line):
    check("accuracy", value, **bounds)
    assert capsys.readouterr().out == f"PASS {line}\n"


@pytest.mark.parametrize("value, bounds, line", [
    (0.9499, {"at_least": 0.95}, "accuracy 0.9499 ≥ 0.95"), (0.2, {"at_most": 0.1}, "accuracy 0.2000 ≤ 0.1"),
    (float("nan"), {"at_least": 0}, "accuracy nan ≥ 0"), (float("nan"), {"at_most": 9}, "accuracy nan ≤ 9"),
    (0.1, {"at_least": 0.25, "at_most": 0.75}, "accuracy 0.1000 ≥ 0.25 ≤ 0.75"), (False, {}, "accuracy"),
    (0, {}, "accuracy")])
def test_check_fails(capsys, value, bounds, line):
    with pytest.raises(AssertionError) as caught:
        check("accuracy", value, **bounds)
    assert str(caught.value) == f"FAIL {line}" and not capsys.readouterr().out


def test_tables_mark_what_was_measured(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda found: shown.append(found.data))
    show_table(pd.DataFrame({"name": ["<b>", "c"], "accuracy": [0.12345, 1.0]}), measured=["accuracy"])
    assert '<span class="measured">0.123</span>' in shown[0] and '<span class="measured">1.000</span>' in shown[0]
    assert "&lt;b&gt;" in shown[0] and "<b>" not in shown[0] and shown[0].count("measured") == 2
    show_table(pd.DataFrame({"share": np.array([0.115110055], dtype=np.float32), "images": np.array([7])}), digits=2)
    assert ">0.12<" in shown[1] and ">7<" in shown[1]
