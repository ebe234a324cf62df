"""Anchors, concepts and moved images, each on a model whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_ind
from torch import nn

from ebe_utils.anchors import find_anchor, kl_bound, patch_sampler
from ebe_utils.concepts import CONCEPTS, concept_images, tcav_scores, tcav_test
from ebe_utils.counterfactual import moved_image

# --- anchors ---------------------------------------------------------------------------------------------------------

PATCHES = np.arange(64).reshape(8, 8) // 16 * 2 + np.arange(8) // 4  # 8 patches, 2 by 4 pixels each


def test_bounds_are_where_the_divergence_reaches_the_level():
    assert kl_bound(0, 50, 3, True) == pytest.approx(1 - np.exp(-3 / 50))  # (1 - q)^50 = e^-3
    assert kl_bound(1, 50, 3, False) == pytest.approx(np.exp(-3 / 50))
    for share in (0.2, 0.7):
        low, high = (kl_bound(share, 40, 2, upper) for upper in (False, True))
        assert low < share < high
        for q in (low, high):
            assert 40 * (share * np.log(share / q) + (1 - share) * np.log((1 - share) / (1 - q))) == pytest.approx(2)


def test_bounds_hold_as_often_as_they_promise():
    rng = np.random.default_rng(0)
    shares = rng.binomial(60, 0.9, 2000) / 60
    below = np.mean([kl_bound(share, 60, np.log(1 / 0.05), False) > 0.9 for share in shares])
    assert below <= 0.05


def test_the_rule_of_a_model_that_has_one_is_found():
    """The model looks at patches 2 and 5 alone."""
    rng = np.random.default_rng(0)
    image, background = rng.random((1, 8, 8)), rng.random((40, 1, 8, 8))

    def predict(images):
        same = np.abs(images - image).max(1) < 1e-9
        return np.array([one[(PATCHES == 2) | (PATCHES == 5)].all() for one in same]).astype(int)

    found = find_anchor(patch_sampler(predict, image, PATCHES, background), 8)
    assert found.parts == (2, 5) and found.precision == 1 and found.sure and found.coverage == 0.25
    assert found.low > 0.95


def test_the_promised_precision_holds_on_fresh_samples():
    """A noisy model: each patch that is kept adds to the chance of the answer."""
    gain, rng = np.array([0.5, 0.35, 0.1, 0.02, 0.02, 0.01]), np.random.default_rng(1)

    def sample(fixed):
        keep = fixed | (rng.random(fixed.shape) < 0.5)
        return rng.random(len(keep)) < 0.02 + keep @ gain

    kept = []
    for threshold in (0.8, 0.9) * 5:
        found = find_anchor(sample, 6, threshold)
        fixed = np.zeros((20_000, 6), bool)
        fixed[:, list(found.parts)] = True
        kept.append(not found.sure or sample(fixed).mean() > threshold - 0.005)
        assert found.sure and {0, 1} <= {*found.parts}
    assert all(kept)  # each with 95 %, so that less than half a rule of ten may fail
    hopeless = find_anchor(lambda fixed: rng.random(len(fixed)) < 0.3, 4, budget=3000)
    assert not hopeless.sure and hopeless.low < 0.95 and hopeless.samples < 3100
    with pytest.raises(ValueError, match="threshold=1.5 is no probability"):
        find_anchor(sample, 6, 1.5)


# --- concepts --------------------------------------------------------------------------------------------------------


def test_concepts_are_what_they_are_called():
    made = {name: concept_images(name, 30, (1, 24, 24), seed=1) for name in CONCEPTS}
    assert all(part.shape == (30, 1, 24, 24) and part.min() >= 0 and part.max() <= 1 for part in made.values())
    assert made["bright"].mean() > 0.65 > made["stripes"].mean() and made["round"].mean() < 0.5
    assert made["bright"].std((1, 2, 3)).max() < 0.1 < made["stripes"].std((1, 2, 3)).min()
    # A ring looks the same upside down as left to right, on average; stripes have one direction each.
    energy = {name: (part.diff(dim=2).abs().mean((1, 2, 3)) / part.diff(dim=3).abs().mean((1, 2, 3))).log().abs().mean()
              for name, part in made.items() if name != "bright"}
    assert energy["round"] < energy["stripes"] / 2
    torch.testing.assert_close(concept_images("round", 30, (1, 24, 24), seed=1), made["round"], rtol=0, atol=0)


class Brightness(nn.Module):
    """Class 1 for bright images; the layer is two numbers, the mean and the left half's less the right half's."""

    def __init__(self):
        super().__init__()
        self.look, self.head = nn.Linear(64, 2, bias=False), nn.Linear(2, 2)
        with torch.no_grad():
            self.look.weight[0] = 1 / 64
            self.look.weight[1] = torch.where(torch.arange(64) % 8 < 4, 1 / 32, -1 / 32)
            self.head.weight.copy_(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([2.0, -2.0]))

    def forward(self, x):
        return self.head(self.look(x.flatten(1)))


def test_the_class_depends_on_the_concept_that_decides_it_and_on_no_other():
    pytest.importorskip("captum", reason="Captum, of the extra methods, is not installed")
    rng, net = np.random.default_rng(0), Brightness()
    images = torch.from_numpy(rng.random((20, 1, 8, 8), np.float32))
    concepts = {"bright": concept_images("bright", 30, (1, 8, 8))}
    concepts["even"] = torch.from_numpy(rng.random((30, 1, 8, 8), np.float32))  # nothing but another random set
    randoms = [torch.from_numpy(rng.random((30, 1, 8, 8), np.float32)) for _ in range(8)]
    scores = tcav_scores(net, "look", images, 1, concepts, randoms)
    assert scores.groupby("concept").size().to_dict() == {"bright": 8, "even": 8, "random": 8}
    # The gradient is (8, 0) everywhere: the score is whether the concept's direction points to brightness, 0 or 1.
    assert (scores.loc[scores["concept"] == "bright", "score"] == 1).all()
    assert (tcav_scores(net, "look", images, 0, concepts, randoms).query("concept == 'bright'")["score"] == 0).all()
    tested = tcav_test(scores).set_index("concept")
    own, chance = (scores.loc[scores["concept"] == name, "score"] for name in ("even", "random"))
    assert tested["p"]["even"] == pytest.approx(ttest_ind(own, chance, equal_var=False).pvalue)
    with pytest.raises(ValueError, match="2 random sets"):
        tcav_scores(net, "look", images, 1, concepts, randoms[:2])


def test_significance_is_corrected_for_the_number_of_concepts():
    rng = np.random.default_rng(3)
    rows = [("random", rng.normal(0.5, 0.1)) for _ in range(20)] + [("far", rng.normal(0.9, 0.05)) for _ in range(20)]
    rows += [("near", rng.normal(0.5, 0.1)) for _ in range(20)]
    tested = tcav_test(pd.DataFrame(rows, columns=["concept", "score"])).set_index("concept")
    assert tested["significant"].tolist() == [True, False]
    flat = pd.DataFrame([("random", 1.0)] * 4 + [("all", 1.0)] * 4 + [("none", 0.0)] * 4, columns=["concept", "score"])
    assert tcav_test(flat)["significant"].tolist() == [False, True]


# --- counterfactuals -------------------------------------------------------------------------------------------------


def test_a_moved_image_crosses_the_border_where_it_is_nearest():
    """Of a linear network the border is a plane; the nearest point by mean absolute change moves the largest weight."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [8.0, 1, 1, -2]]))
    image = torch.tensor([[[0.2, 0.3], [0.5, 0.95]]])  # logit of class 1: 1.6 + 0.8 - 1.9 = 0.5
    found = moved_image(net, image, 0, steps=200, rate=0.002)
    assert found.reached and found.probability > 0.5
    change = (found.image - image).flatten()
    assert int(change.abs().argmax()) == 0 and change[0] < 0
    assert found.distance == pytest.approx(float(change.abs().mean()))
    assert found.distance < 3 * (0.5 / 8) / 4  # the least possible is 0.5 / 8 of one of four pixels
    assert found.image.min() >= 0 and found.image.max() <= 1
    assert int(net(found.image[None]).argmax()) == 0
    with pytest.raises(ValueError, match="target=2"):
        moved_image(net, image, 2)


def test_a_class_that_cannot_be_reached_is_said_to_be_so():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([5.0, 0.0]))
    found = moved_image(net, torch.rand(1, 2, 2), 1, steps=5, weights=2)
    assert not found.reached and found.steps == 2 * 10 and found.probability < 0.5


def test_a_sure_network_is_left_as_well():
    """Logits 100 apart: the square has no gradient in float32, the logarithm has."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [800.0, 100, 100, -600]]))
    image = torch.tensor([[[0.2, 0.3], [0.5, 0.3]]])  # logit of class 1: 160 + 80 - 180 = 60
    found = moved_image(net, image, 0, rate=0.002)
    assert found.reached and int(net(found.image[None]).argmax()) == 0
    assert found.distance < 0.05
