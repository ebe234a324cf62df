"""Why an example is close: maps that sum to the cosine, properties of images made for it, effects counted by hand."""

import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from ebe_utils import ImageSet, embed
from ebe_utils.embeddings import feature_maps
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.properties import concept_effects, concepts, foreground, shared
from ebe_utils.similarity import contributions, grad_cam, pair_contributions, why_similar
from ebe_utils.study.run import Run
from ebe_utils.study.similarity_figures import read_similarities, similarity_figure, write_similarities
from ebe_utils.upkeep.similarities import keep_similarities

# --- positions -----------------------------------------------------------------------------------------------------

F = np.array([[[3., 0.]], [[0., 4.]]])  # two channels, one row of two positions: (3, 0) and (0, 4)
G = np.array([[[1., 2.]], [[2., 0.]]])  # (1, 2) and (2, 0): |F| = 5, |G| = 3


def test_contributions_by_hand():
    on_f, on_g = contributions(F, G)
    np.testing.assert_allclose(on_f, [[3 / 15, 0]])
    np.testing.assert_array_equal(on_f, on_g)
    np.testing.assert_allclose(contributions(F, G, "euclidean")[0], [[4 + 4, 4 + 16]])
    on_f, on_g = contributions(F, G, pooling="avg")  # means (1.5, 2) and (1.5, 1), lengths 2.5 and √3.25
    np.testing.assert_allclose(on_f * 2 * 2.5 * 3.25**0.5, [[3 * 1.5, 4 * 1]])
    np.testing.assert_allclose(on_g * 2 * 2.5 * 3.25**0.5, [[1.5 + 2 * 2, 2 * 1.5]])
    on_f, on_g = contributions(F, G, "euclidean", "avg")  # the means differ by (0, 1)
    np.testing.assert_allclose(on_f, [[-0.5, 1.5]])
    np.testing.assert_allclose(on_g, [[0, 1]])


@pytest.mark.parametrize("pooling", ["none", "avg"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("layer", ["conv1", 2])
def test_maps_sum_to_the_similarity_of_the_embeddings(tiny_net, stripes, pooling, metric, layer):
    images = stripes[1].images[:7]
    maps = feature_maps(tiny_net, images, layer)
    X = embed(tiny_net, images, layer, pooling).astype(float)
    whole = 1 - pairwise_distances(X[:1], X, "cosine") if metric == "cosine" else \
        pairwise_distances(X[:1], X, "sqeuclidean")
    for side in contributions(maps[0], maps, metric, pooling):
        np.testing.assert_allclose(side.sum((1, 2)), whole[0], atol=1e-6 * max(1, whole.max()))


def test_pairs_sum_to_the_maps_of_either_side():
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(5, 3, 4)), rng.normal(size=(5, 2, 6))
    pairs = pair_contributions(f, g)
    on_f, on_g = contributions(f, g, pooling="avg")
    assert pairs.shape == (3, 4, 2, 6)
    np.testing.assert_allclose(pairs.sum((2, 3)), on_f, atol=1e-12)
    np.testing.assert_allclose(pairs.sum((0, 1)), on_g, atol=1e-12)


def test_an_embedding_of_zeros_is_similar_to_nothing():
    for pooling in ("none", "avg"):
        assert all((side == 0).all() for side in contributions(0 * F, G, pooling=pooling))
    assert (pair_contributions(0 * F, G) == 0).all()


@pytest.mark.parametrize("f, g, pooling", [(F, G[:1], "avg"), (F, G[:, :, :1], "none"), (F[0], G[0], "none")])
def test_outputs_that_do_not_fit(f, g, pooling):
    with pytest.raises(ValueError, match="do not fit; pass two of one layer"):
        contributions(f, g, pooling=pooling)
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        contributions(F, G, "cosin")


def test_grad_cam_is_the_gradient_taken_by_hand(tiny_net, stripes):
    pytest.importorskip("captum")
    images, classes = stripes[1].images[:4], [2, 0, 1, 1]
    tiny_net.requires_grad_(False)
    cam = grad_cam(tiny_net, images, "conv2", classes, device="cpu")
    maps = torch.from_numpy(feature_maps(tiny_net, images, "conv2", "cpu")).requires_grad_()  # (4, 6, 3, 3)
    logits = tiny_net.head(tiny_net.flat(tiny_net.pool(maps)))
    logits[range(4), classes].sum().backward()
    expected = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1).clamp_min(0).detach()
    assert cam.shape == (4, 3, 3)
    np.testing.assert_allclose(cam, expected, atol=1e-6)
    own = logits.argmax(1).tolist()
    np.testing.assert_array_equal(grad_cam(tiny_net, images, 2), grad_cam(tiny_net, images, 2, own))
    assert all(p.grad is None for p in tiny_net.parameters())


def test_grad_cam_without_captum(tiny_net, stripes, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"pip install captum"):
        grad_cam(tiny_net, stripes[1].images[:1], 1)


def test_why_similar_and_its_figure(tiny_net, stripes):
    pytest.importorskip("captum")
    image, neighbor, others = stripes[1].images[0], stripes[0].images[3], stripes[0].images[10:20]
    for pooling in ("none", "avg"):
        X = embed(tiny_net, torch.stack([image, neighbor, *others]), 2, pooling)
        cosine = 1 - pairwise_distances(X, metric="cosine")
        plain = why_similar(tiny_net, image, neighbor, 2, pooling)
        assert plain == plain and plain != why_similar(tiny_net, image, neighbor, 2, pooling)  # and does not raise
        np.testing.assert_allclose(plain.values, cosine[0, 1], atol=1e-6)
        above = why_similar(tiny_net, image, neighbor, 2, pooling, others)
        np.testing.assert_allclose(above.values, cosine[0, 1] - cosine[2:, :2].mean(0), atol=1e-6)
    figure, data = similarity_figure([plain, above])
    assert len(data) == 2 * 3 * 9
    for row, s in enumerate((plain, above)):
        panels = [figure.axes[8 * row + column] for column in (2, 3, 6)]
        heats = [panel.images[1].get_array() for panel in panels]
        for heat, values in zip(heats, (*s.maps, s.cam), strict=True):
            np.testing.assert_array_equal(heat, values)
        low, high = panels[0].images[1].get_clim()
        assert -low == high == max(np.abs(side).max() for side in s.maps)
    plt.close(figure)


def test_kept_maps_are_read_as_they_were_written(tiny_net, stripes, tmp_path):
    pytest.importorskip("captum")
    images = stripes[0].images
    groups = {"plain": [why_similar(tiny_net, images[0], images[i], layer) for i, layer in ((1, 1), (2, "conv2"))],
              "lead": [why_similar(tiny_net, images[0], images[1], 1, others=images[5:9])]}
    write_similarities(tmp_path / "maps.safetensors", groups, "from a test")
    read, about = read_similarities(tmp_path / "maps.safetensors")
    assert about == "from a test" and [*read] == ["plain", "lead"]
    for name, same in groups.items():
        assert [s.layer for s in read[name]] == [s.layer for s in same]
        for a, b in zip(read[name], same, strict=True):
            assert torch.equal(a.image, b.image) and torch.equal(a.neighbor, b.neighbor)
            assert a.values == b.values
            for x, y in zip((*a.maps, a.cam), (*b.maps, b.cam), strict=True):
                np.testing.assert_array_equal(x, y)


def test_maps_of_a_run_are_kept(small, trained, tmp_path, monkeypatch):
    pytest.importorskip("captum")
    train_set, test_set = small
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(Run, "open", lambda name: Run.start(run=name))
    monkeypatch.setattr(Run, "load_model", lambda run, data: trained)
    monkeypatch.setattr(Run, "load_data", lambda run: small)
    groups, about = read_similarities(keep_similarities("whole", 3, tmp_path / "kept"))
    assert about == "whole, test image 3"
    for plain, lead in zip(groups["plain"], groups["lead"], strict=True):
        rows, query = (embed(trained, part, plain.layer) for part in (train_set.images, test_set.images[3:4]))
        cosines = 1 - pairwise_distances(query, rows, metric="cosine")[0]
        assert plain.values == pytest.approx((cosines.max(),) * 2, abs=1e-5)
        assert torch.equal(plain.neighbor, train_set.images[int(cosines.argmax())])
        assert lead.values[0] == pytest.approx(cosines.max() - cosines.mean(), abs=1e-5)  # all 200 are the others


# --- properties ----------------------------------------------------------------------------------------------------


PROPERTIES = ("edges", "frequency", "structure", "shape")


def like(a, b):
    """{property: similarity} of two images (C, H, W) of classes 0 and 1."""
    found = concepts(np.stack([a, b]), np.array([0, 1]), 2)
    return {name: float(shared(*values)) for name, values in found.items()}


def square(top, left, side=6, size=16, level=1.0):
    image = np.zeros((1, size, size))
    image[:, top:top + side, left:left + side] = level
    return image


def test_an_image_is_like_itself_but_for_its_class():
    image = np.random.default_rng(0).random((3, 12, 12))
    assert like(image, image) == dict.fromkeys(("colour", *PROPERTIES), 1) | {"class": 0}
    blank = np.zeros((1, 8, 8))
    assert like(blank, blank) == dict.fromkeys(("intensity", *PROPERTIES), 1) | {"class": 0}


def test_same_pixels_elsewhere_differ_in_structure_and_shape_only():
    found = like(square(2, 2), square(5, 5))
    assert found["intensity"] == 1
    assert found["edges"] == pytest.approx(1)
    assert found["frequency"] == pytest.approx(1, abs=1e-6)  # a shift changes the phase, not the amplitude
    assert found["structure"] < 0.5
    assert found["shape"] == pytest.approx(9 / (36 + 36 - 9))


def test_structure_is_edges_by_place():
    a, b = square(5, 5, 2), square(9, 9, 2)  # each with its edges in a cell of its own
    found = like(a, b)
    assert found["edges"] == pytest.approx(1)
    assert found["structure"] == 0
    assert like(a, square(5, 5, 2, level=0.4))["structure"] == pytest.approx(1)


def test_same_shape_in_another_grey_differs_in_intensity_only():
    found = like(square(4, 4), square(4, 4, level=0.5))
    assert found["intensity"] == pytest.approx((256 - 36) / (256 + 36))
    assert [found[name] for name in PROPERTIES] == pytest.approx([1] * 4)


def test_a_quarter_turn_changes_the_orientation_of_edges():
    stripes = np.tile(np.sin(np.arange(16) * np.pi / 2) / 2 + 0.5, (1, 16, 1))
    turned = stripes.transpose(0, 2, 1)
    found = like(stripes, turned)
    assert found["intensity"] == 1
    assert found["frequency"] == 1
    assert found["edges"] == 0


def test_wider_stripes_have_another_frequency():
    narrow, wide = (np.tile(np.sin(np.arange(16) * 2 * np.pi / period) / 2 + 0.5, (1, 16, 1)) for period in (4, 8))
    assert like(narrow, wide)["frequency"] == pytest.approx(0, abs=1e-6)
    rings = concepts(narrow[None], np.array([0]), 1)["frequency"][0]
    assert rings.argmax() == 3 and rings[3] == pytest.approx(1)  # four cycles per image: the fourth ring


def test_colour_is_more_than_brightness():
    red, blue = np.zeros((2, 3, 8, 8))
    red[0] = blue[2] = 0.9
    found = like(red, blue)
    assert found["colour"] == 0
    assert found["edges"] == 1


def test_the_foreground_is_the_side_with_less_border():
    bright, dark = square(4, 4)[0], 1 - square(4, 4)[0]
    masks = foreground(np.stack([bright, dark, np.ones((16, 16)), np.zeros((16, 16))]))
    np.testing.assert_array_equal(masks[0], bright == 1)
    np.testing.assert_array_equal(masks[1], bright == 1)
    assert not masks[2:].any()


def test_otsu_separates_two_noisy_levels():
    rng = np.random.default_rng(0)
    truth = square(4, 4)[0] == 1
    grey = np.where(truth, 0.7, 0.3) + rng.uniform(-0.15, 0.15, truth.shape)
    np.testing.assert_array_equal(foreground(grey[None])[0], truth)


def test_shared_of_many_pairs():
    a, b = np.array([[1, 1, 0], [0, 0, 0]]), np.array([[0, 1, 1], [0, 1, 0]])
    np.testing.assert_allclose(shared(a, b), [1 / 3, 0])
    np.testing.assert_allclose(shared(a[1], a), [0, 1])


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 8, 8)])
def test_images_without_colour_are_refused(shape):
    with pytest.raises(ValueError, match="pass \\(n, 1 or 3, H, W\\)"):
        concepts(np.zeros(shape, np.float32), np.zeros(4, int), 1)


# --- effects -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_class():
    """Neighbours of the same class at layer 2, at random at layers 0 and 1; images of ten levels, four classes."""
    rng = np.random.default_rng(0)
    train, test = (ImageSet(rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8), np.arange(n) % 4, tuple("abcd"))
                   for n in (80, 40))
    same = np.stack([rng.permutation(20)[:5] * 4 + label for label in test.labels])
    indices = {0: rng.integers(0, 80, (40, 5)), 1: rng.integers(0, 80, (40, 5)), 2: same}
    found = LayerNeighbors({i: str(i) for i in indices}, indices, {i: np.zeros((40, 5)) for i in indices},
                           train.labels, test.labels, test.labels, dict.fromkeys(indices, 1))
    return found, train, test


def test_effects_by_hand(by_class):
    effects, peaks = concept_effects(*by_class, k=5, random=2000)
    table = effects.set_index(["layer", "property"])
    perfect = table.loc[(2, "class")]  # one of four: mean 1/4, standard deviation √(3/16), so 0.75/0.433 = √3
    assert perfect["neighbours"] == 1
    assert perfect["others"] == pytest.approx(0.25, abs=0.01)
    assert perfect["effect"] == perfect["ceiling"] == pytest.approx(3**0.5, rel=0.02)
    chance = table[table.index.get_level_values(0) == 1]
    assert (chance["low"] < 0.02).all() and (chance["high"] > -0.02).all()
    assert (effects["low"] <= effects["effect"]).all() and (effects["effect"] <= effects["high"]).all()
    peak = peaks.set_index("property").loc["class"]
    assert (peak["peak"], peak["low"], peak["high"], peak["effect"]) == (2, 2, 2, perfect["effect"])
    assert 0 not in set(peaks["peak"])


def test_what_only_the_class_shares_is_no_effect_within_it(by_class):
    neighbors, train, test = by_class
    rng = np.random.default_rng(1)
    # Brightness is the class, but for a little.

    def bright(part):
        images = part.labels[:, None, None, None] * 60 + rng.integers(0, 8, part.images.shape)
        return ImageSet(images.astype(np.uint8), part.labels, part.classes)

    sets = bright(train), bright(test)
    chance, within = (concept_effects(neighbors, *sets, k=5, against=against)[0].set_index(["layer", "property"])
                      for against in ("chance", "class"))
    assert chance.loc[(2, "intensity"), "effect"] > 1.5
    assert within.loc[(2, "intensity"), "low"] < 0.1
    assert abs(within.loc[(2, "intensity"), "effect"]) < 0.3
    assert "class" not in set(within.reset_index()["property"])


def test_effects_against_another_network(by_class):
    neighbors, train, test = by_class
    worse = replace(neighbors, indices=dict.fromkeys((0, 1, 2), neighbors.indices[1]))
    plain, other, itself = (concept_effects(neighbors, train, test, k=5, against=against)[0]
                            .set_index(["layer", "property"]) for against in ("chance", worse, neighbors))
    assert (itself[["effect", "low", "high"]] == 0).all(axis=None)
    assert (other.loc[1, "effect"] == 0).all()
    difference = plain.loc[(2, "class"), "effect"] - plain.loc[(1, "class"), "effect"]
    assert other.loc[(2, "class"), "effect"] == pytest.approx(difference)


def test_no_scale_where_all_random_pairs_are_alike(by_class):
    neighbors, train, test = by_class
    blank = (ImageSet(np.zeros((len(part), 1, 8, 8), np.uint8), part.labels, part.classes) for part in (train, test))
    effects, peaks = concept_effects(neighbors, *blank, k=5)
    assert effects.set_index("property").loc[["intensity", *PROPERTIES], "effect"].isna().all()
    assert peaks["property"].tolist() == ["class"]


def test_the_same_every_time_and_refused_beyond_what_was_searched(by_class):
    first, second = (concept_effects(*by_class, k=3, draws=50)[0] for _ in range(2))
    assert first.equals(second)
    with pytest.raises(ValueError, match="k=6 is out of range"):
        concept_effects(*by_class, k=6)
    with pytest.raises(ValueError, match="against='clas' is unknown; .* Did you mean 'class'"):
        concept_effects(*by_class, k=5, against="clas")
