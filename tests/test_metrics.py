"""The metrics of an explanation: values worked out by hand, and worse ones for explanations made wrong on purpose."""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import skew, spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn
from torchvision import models

from ebe_utils import ImageSet, resnet18_for
from ebe_utils.conformal import conformal, credibility_confidence, nonconformity, prediction_depth, reliability
from ebe_utils.faithfulness import fidelity, reinitialised, removal_effects
from ebe_utils.label_errors import detection_curve, flip_labels, koh_liang_area, leave_one_out
from ebe_utils.layer_neighbors import LayerNeighbors, layer_neighbors
from ebe_utils.metrics import (
    completeness_error,
    examples_needed,
    identical_class,
    jaccard,
    k_occurrence,
    label_purity,
    log_loss,
    plant_shortcut,
    rank_biased_overlap,
    rank_correlation,
    shortcut_share,
    with_controls,
)
from ebe_utils.model import predict_logits
from ebe_utils.statistics import (
    bootstrap_interval,
    mean_interval,
    percentile_interval,
    proportion_error,
    proportion_interval,
)
from ebe_utils.training import train
from ebe_utils.votes import effective_number, vote_shares

LABELS = np.array([0, 0, 0, 1, 1, 1])
NEAR = np.array([[0, 1], [2, 0], [3, 4], [5, 3]])  # each image's own class
TRUTH = np.array([0, 0, 1, 1])


def neighbors(indices=NEAR, network=TRUTH):
    distances = np.tile(np.float32([0.1, 0.2]), (len(indices), 1))
    return LayerNeighbors({1: "one"}, {1: np.array(indices, np.int32)}, {1: distances}, LABELS, TRUTH,
                          np.asarray(network), {1: 2})


def wrong(indices, seed=0):
    """(shuffled over the training set, the neighbours of an image of the other class)."""
    return np.random.default_rng(seed).permutation(len(LABELS))[indices], indices[[2, 3, 0, 1]]


class TestControls:
    def test_random_rows_have_no_image_twice_and_no_image_keeps_its_own(self):
        n = np.arange(6)
        found = with_controls(neighbors(np.stack([n, (n + 1) % 6], 1)[:4]), 1)
        assert [*found.names] == [1, "random", "another's"]
        assert (found.indices["another's"][:, 0] != found.indices[1][:, 0]).all()
        assert sorted(found.indices["another's"][:, 0]) == [0, 1, 2, 3]
        assert all(len(set(row)) == 2 for row in found.indices["random"].tolist())
        assert found.accuracy("random", 1) <= 1

    def test_a_layer_that_was_not_searched_is_refused(self):
        with pytest.raises(ValueError, match="layer=2 was not searched; choose one of 1"):
            with_controls(neighbors(), 2)

    def test_are_drawn_by_seed(self):
        one, same, other = (with_controls(neighbors(), 1, seed).indices["random"] for seed in (0, 0, 1))
        assert (one == same).all()
        assert (one != other).any()


class TestInterval:
    def test_of_a_mean_is_about_two_standard_errors_wide(self):
        values = np.random.default_rng(0).normal(size=400)
        low, high = bootstrap_interval(values)
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)

    def test_of_a_statistic_of_two_samples_draws_them_together(self):
        truth = np.tile([0, 1], 50)
        assert bootstrap_interval(truth, truth + 0.5, statistic=roc_auc_score, resamples=50) == (1, 1)

    def test_of_equal_values_is_a_point_unless_they_are_successes(self):
        assert mean_interval(np.full(5, 0.3)) == pytest.approx((0.3, 0.3))
        low, high = mean_interval(np.ones(20))
        assert (low, high) == pytest.approx((20 / (20 + 1.959964**2), 1))  # Wilson's, at its end

    def test_of_a_share_is_wilsons(self):
        for right, n in ((0, 7), (3, 7), (100, 130)):
            values = np.arange(n) < right
            low, high = proportion_interval(values, alpha=0.1)
            for end in {low, high} - {0, 1}:  # where the share seen is 1.645 standard errors of the true share away
                assert abs(right / n - end) == pytest.approx(1.644854 * np.sqrt(end * (1 - end) / n))
            assert low <= right / n <= high and low < high
            assert mean_interval(values, alpha=0.1) == proportion_interval(values, alpha=0.1)

    def test_error_of_a_share(self):
        assert proportion_error(0.5, 96) == pytest.approx(0.05)
        assert proportion_error(1, 20) == pytest.approx(np.sqrt(22 * 2 / 24**3))
        assert proportion_error(np.array([0, 1]), 20) == pytest.approx([proportion_error(1, 20)] * 2)
        found = proportion_error(pd.Series({"a": 0.5, "b": 1.0}), 96)
        assert found.to_dict() == pytest.approx({"a": 0.05, "b": proportion_error(1, 96)})

    def test_percentiles(self):
        assert percentile_interval(np.arange(101), alpha=0.1) == pytest.approx((5, 95))

    def test_is_drawn_by_seed(self):
        values = np.random.default_rng(0).normal(size=30)
        assert bootstrap_interval(values) == bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


class TestWeights:
    def test_complete_by_hand(self):
        weights = np.array([[0.75, 0.25]] * 4)
        indices = np.array([[0, 3], [0, 1], [3, 4], [4, 0]])
        proba = np.array([[0.75, 0.25], [1, 0], [0, 1], [0.25, 0.75]])
        assert vote_shares(indices, LABELS, weights) == pytest.approx(proba)
        assert completeness_error(indices, LABELS, weights, proba) == pytest.approx(0)
        assert completeness_error(indices, LABELS, weights * 0.9, proba) == pytest.approx([0.1] * 4)
        for bad in wrong(indices):
            assert completeness_error(bad, LABELS, weights, proba).max() >= 0.5

    def test_weights_of_another_shape_are_refused(self):
        with pytest.raises(ValueError, match=r"weights has shape \(4, 3\); pass one of shape \(4, 2\)"):
            vote_shares(NEAR, LABELS, np.ones((4, 3)))

    def test_concentration_by_hand(self):
        weights = np.array([[0.25] * 4, [1, 0, 0, 0], [0.1, 0.5, 0.4, 0]])
        assert effective_number(weights) == pytest.approx([4, 1, 1 / 0.42])
        assert examples_needed(weights).tolist() == [4, 1, 2]
        assert examples_needed(weights, 0.5).tolist() == [2, 1, 1]
        assert examples_needed(np.full((1, 10), 0.1)).tolist() == [9]


class TestFidelity:
    def test_by_hand(self):
        network = np.array([[0.9, 0.1], [0.5, 0.5 - 1e-9], [0.2, 0.8], [0.6, 0.4]])  # the last one is wrong
        proba = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
        found = fidelity(proba, network, TRUTH)
        assert found["agreement"] == 0.75
        assert found["where right"] == 1
        assert found["where wrong"] == 0
        assert found["kl"] == pytest.approx(-np.log([0.9, 1, 0.8, 0.4]).sum() / 4)
        assert np.isnan(fidelity(proba[:3], network[:3], TRUTH[:3])["where wrong"])

    def test_log_loss_by_hand(self):
        shares = np.array([[1, 0], [0.5, 0.5], [0, 1]])
        assert log_loss(shares, 2, np.zeros(3, int)) == pytest.approx(-np.log([2.5 / 3, 0.5, 0.5 / 3]))
        assert log_loss(shares, 2, np.array([0, 1, 1])) == pytest.approx(-np.log([2.5 / 3, 0.5, 2.5 / 3]))
        good = log_loss(vote_shares(NEAR, LABELS), NEAR.shape[1], TRUTH).mean()
        for indices in wrong(NEAR):
            assert log_loss(vote_shares(indices, LABELS), NEAR.shape[1], TRUTH).mean() > good

    def test_is_worse_for_wrong_examples(self):
        network = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
        good = fidelity(vote_shares(NEAR, LABELS), network, TRUTH)
        for indices in wrong(NEAR):
            bad = fidelity(vote_shares(indices, LABELS), network, TRUTH)
            assert bad["agreement"] < good["agreement"]
            assert bad["kl"] > good["kl"]

    def test_does_not_warn_for_a_softmax_of_zero(self):
        assert np.isfinite(fidelity(np.array([[1., 0]]), np.array([[0., 1]]), np.array([1]))["kl"])


class TestRandomisation:
    def test_cascade_goes_down_from_the_top(self, tiny_net):
        def changed(stages):
            net = reinitialised(tiny_net, stages)
            return {name for (name, a), b in zip(tiny_net.named_parameters(), net.parameters(), strict=True)
                    if not torch.equal(a, b)}

        assert changed(0) == set()
        assert changed(1) == {"head.weight", "head.bias"}
        assert changed(2) == {"head.weight", "head.bias", "conv2.weight", "conv2.bias"}
        assert "conv1.weight" in changed(4)
        assert tiny_net.norm.running_mean.any()  # the network itself is left alone
        assert not reinitialised(tiny_net, 4).norm.running_mean.any()
        state = torch.get_rng_state()
        reinitialised(tiny_net, 4)
        assert torch.equal(state, torch.get_rng_state())
        with pytest.raises(ValueError, match="stages=5 is out of range; pass an integer from 0 to 4"):
            reinitialised(tiny_net, 5)

    def test_an_explanation_of_the_network_changes_with_it(self, tiny_net):
        images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        a, b = (predict_logits(net, images) for net in (tiny_net, reinitialised(tiny_net, 4)))
        assert rank_correlation(a, a) == pytest.approx(1)
        assert rank_correlation(a, b).mean() < 0.99

    def test_rank_correlation_is_scipys(self):
        a, b = np.random.default_rng(0).integers(0, 9, (2, 4, 12))  # with ties
        expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
        assert rank_correlation(a, b) == pytest.approx(expected)
        assert rank_correlation(a, -a) == pytest.approx(-1)
        assert abs(rank_correlation(a, b)).max() < 1
        a[1] = 3  # no order
        np.testing.assert_array_equal(np.isnan(rank_correlation(a, b)), [False, True, False, False])


class TestRemoval:
    def test_by_hand(self):
        """A "network" whose probability is the share of what remains that has class 0."""
        found = removal_effects(lambda kept: (LABELS[kept] == 0).mean(), 6, {"own": [0, 1], "other": [3, 4]})
        assert found == pytest.approx({"own": 1 / 2 - 1 / 4, "other": 1 / 2 - 3 / 4})
        assert found["own"] > found["other"]


class TestLabels:
    def test_purity_and_identical_class_by_hand(self):
        indices = np.array([[0, 3], [4, 1], [3, 4], [5, 3]])
        assert label_purity(indices, LABELS, TRUTH).tolist() == [0.5, 0.5, 1, 1]
        assert identical_class(indices, LABELS, TRUTH).tolist() == [1, 0, 1, 1]

    def test_identical_subclass_by_hand(self):
        fine = np.array([0, 0, 2, 1, 1, 3])  # 0 and 2 are merged to class 0, 1 and 3 to class 1
        assert identical_class(NEAR, fine, np.array([0, 2, 1, 1])).tolist() == [1, 1, 1, 0]

    def test_are_worse_for_wrong_examples(self):
        for indices in wrong(NEAR):
            assert label_purity(indices, LABELS, TRUTH).mean() < 1
            assert identical_class(indices, LABELS, TRUTH).mean() < 1


class TestMislabels:
    def test_flips_as_many_as_asked_and_each_to_another_class(self):
        labels = np.arange(200) % 5
        flipped_labels, flipped = flip_labels(labels, 0.1, 5)
        assert flipped.sum() == 20
        assert ((flipped_labels != labels) == flipped).all()
        assert set(flipped_labels) == set(range(5))
        assert (flip_labels(labels, 0.1, 5, seed=1)[1] != flipped).any()
        with pytest.raises(ValueError, match="share=0 is out of range"):
            flip_labels(labels, 0, 5)

    def test_an_image_is_no_example_of_itself(self):
        found = leave_one_out(np.array([[0, 2, 1], [0, 1, 2], [0, 1, 3], [3, 1, 2]]))
        assert found.tolist() == [[2, 1], [0, 2], [0, 1], [1, 2]]  # the third was crowded out by its copies

    def test_curve_by_hand(self):
        flipped, suspicion = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.7, 0.3])
        checked, found = detection_curve(flipped, suspicion)
        assert checked == pytest.approx([0, 0.25, 0.5, 0.75, 1])
        assert found == pytest.approx([0, 0.5, 0.5, 1, 1])
        assert koh_liang_area(flipped, suspicion) == pytest.approx(0.25 * (0.25 + 0.5 + 0.75 + 1))
        assert koh_liang_area(flipped, flipped) == pytest.approx(1 - 0.5 / 2)
        assert koh_liang_area(flipped, np.zeros(4)) == 0.5

    def test_area_follows_from_roc_auc(self):
        rng = np.random.default_rng(0)
        flipped, suspicion = rng.random(300) < 0.1, rng.integers(0, 5, 300)
        p = flipped.mean()
        assert koh_liang_area(flipped, suspicion) == pytest.approx(
            p / 2 + (1 - p) * roc_auc_score(flipped, suspicion))

    def test_is_worse_for_wrong_examples(self):
        """Two clusters of 20, each of one class, with two labels flipped in each."""
        cluster, rng = np.repeat([0, 1], 20), np.random.default_rng(0)
        labels = cluster.copy()
        labels[[0, 1, 20, 21]] ^= 1
        flipped = labels != cluster

        def area(indices):
            share = vote_shares(leave_one_out(indices), labels)
            return koh_liang_area(flipped, 1 - share[np.arange(40), labels])

        near = np.stack([np.r_[i, rng.permutation(np.setdiff1d(np.arange(20) + 20 * cluster[i], i))[:9]]
                         for i in range(40)])
        good = area(near)
        assert good == pytest.approx(1 - 0.1 / 2)
        assert area(rng.permutation(40)[near]) < good - 0.2
        assert area(np.roll(near, 20, 0)) < good - 0.2


class TestShortcut:
    @pytest.mark.parametrize("dtype, bright", [(torch.uint8, 255), (torch.float32, 1)])
    def test_mark_is_in_the_lower_right_corner_of_a_copy(self, dtype, bright):
        images = torch.zeros(2, 1, 6, 6, dtype=dtype)
        marked = plant_shortcut(images, 2)
        assert (marked[:, :, -2:, -2:] == bright).all()
        assert marked.sum() == 8 * bright
        assert not images.any()

    def test_carrying_by_hand_and_wrong(self):
        marked = np.array([True, True, False, False, False, False])
        assert shortcut_share(NEAR[:2], marked).tolist() == [1, 0.5]
        assert shortcut_share(wrong(NEAR)[1][:2], marked).tolist() == [0, 0]


class TestStability:
    def test_jaccard_by_hand(self):
        assert jaccard(np.array([[0, 1, 2], [0, 1, 2]]), np.array([[2, 1, 9], [7, 8, 9]])).tolist() == [0.5, 0]

    def test_rank_biased_overlap_by_hand(self):
        a, b = np.array([[1, 2, 3]] * 3), np.array([[1, 2, 3], [4, 5, 6], [2, 9, 1]])
        # Agreement at depth 1, 2, 3 is 0, 1/2 (the 2), 2/3 (the 1 as well).
        by_hand = 2 / 3 * 0.9**3 + 0.1 / 0.9 * (0 + 1 / 2 * 0.9**2 + 2 / 3 * 0.9**3)
        assert rank_biased_overlap(a, b) == pytest.approx([1, 0, by_hand])

    def test_rank_biased_overlap_sees_the_order_and_jaccard_does_not(self):
        a = np.arange(10)[None]
        assert jaccard(a, a[:, ::-1]) == 1
        assert rank_biased_overlap(a, a[:, ::-1]) < 0.8

    def test_are_worse_for_wrong_examples(self):
        for indices in wrong(NEAR):
            assert jaccard(NEAR, indices).mean() < 1
            assert rank_biased_overlap(NEAR, indices).mean() < 1
        with pytest.raises(ValueError, match=r"b has shape \(2, 2\); pass one of shape \(4, 2\)"):
            jaccard(NEAR, NEAR[:2])

    def test_k_occurrence_by_hand_and_wrong(self):
        counts = k_occurrence(NEAR, 7)
        assert counts.tolist() == [2, 1, 1, 2, 1, 1, 0]
        hub = k_occurrence(NEAR[[0, 0, 0, 0]], 7)  # one image's examples for all
        assert (hub > 0).mean() < (counts > 0).mean()
        assert skew(hub) > skew(counts)


class TestCredibility:
    def test_by_hand(self):
        two = neighbors([[0, 1], [2, 3], [3, 4], [0, 3]])
        scores = nonconformity(two, [1, 1], 2, 2)  # the same layer twice: all counts double
        assert scores == pytest.approx(np.array([[0, 4], [2, 2], [4, 0], [2, 2]]))
        p = conformal(scores, TRUTH, scores)  # the calibration images' own: 0, 2, 0, 2
        assert p == pytest.approx(np.array([[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5]]))
        credibility, confidence = credibility_confidence(p)
        assert credibility.tolist() == [1, 0.5, 1, 0.5]
        assert confidence.tolist() == [1, 0.5, 1, 0.5]

    def test_is_lower_for_examples_of_all_classes(self):
        good = nonconformity(neighbors(), [1], 2, 2)
        mixed = nonconformity(neighbors([[0, 3], [1, 4], [2, 5], [0, 4]]), [1], 2, 2)
        high, low = (credibility_confidence(conformal(good, TRUTH, s))[0].mean() for s in (good, mixed))
        assert high == 1
        assert low == 0

    def test_p_values_are_uniform_at_least(self):
        """A class that conforms as the calibration images do is rejected at level e at most that often, about."""
        rng = np.random.default_rng(0)
        calibration, scores = rng.random((2, 2000, 3))
        p = conformal(calibration, np.zeros(2000, int), scores)[:, 0]
        assert [(p <= e).mean() for e in (0.1, 0.5)] == pytest.approx([0.1, 0.5], abs=0.04)

    def test_reliability_by_hand(self):
        table = reliability(np.array([0.1, 0.2, 1, 0.9]), np.array([True, False, True, True]), bins=2)
        assert table["confidence"].tolist() == pytest.approx([0.15, 0.95])
        assert table["accuracy"].tolist() == [0.5, 1]
        assert table["images"].tolist() == [2, 2]

    def test_prediction_depth_by_hand_and_wrong(self):
        votes = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
        assert prediction_depth(votes, np.ones(4)).tolist() == [0, 1, 2, 3]
        assert prediction_depth(votes[[3, 3, 3, 3]], np.ones(4)).mean() > 1.5


@pytest.fixture(scope="module")
def case(new_net, stripes, one_thread):
    """(neighbours with controls, the network's softmax on the test images)."""
    train_set, test_set = stripes
    net = train(new_net(), train_set, epochs=25, batch_size=16, learning_rate=0.01, progress=False)
    found = layer_neighbors(net, train_set, test_set, layers=[2], k=5, progress=False)
    softmax = torch.from_numpy(predict_logits(net, test_set.images)).softmax(1).numpy()
    return with_controls(found, 2), softmax


class TestOnATrainedNetwork:
    """Retrieval that works has every mark above those of the two that do not."""

    @pytest.mark.parametrize("control", ["random", "another's"])
    def test_controls_fail(self, case, control):
        found, softmax = case
        calibration = nonconformity(found, [2], 5, 3)

        def marks(layer):
            near, labels = found.indices[layer], found.train_labels
            faith = fidelity(vote_shares(near, labels), softmax, found.test_labels)
            p = conformal(calibration, found.test_labels, nonconformity(found, [layer], 5, 3))
            return {"purity": label_purity(near, labels, found.test_labels).mean(),
                    "identical class": identical_class(near, labels, found.network).mean(),
                    "agreement": faith["agreement"], "kl": -faith["kl"],
                    "jaccard": jaccard(found.indices[2], near).mean(),
                    "overlap": rank_biased_overlap(found.indices[2], near).mean(),
                    "credibility of the network's class": p[np.arange(len(p)), found.network].mean(),
                    "depth": -prediction_depth(found.votes(layer)[:, -1:], found.network).mean()}

        good, bad = marks(2), marks(control)
        assert [name for name in good if not good[name] > bad[name]] == [], (good, bad)


def distinct(tensor):
    return (tensor != tensor.flatten()[0]).any()


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(OrderedDict(encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                                     head=nn.Linear(16, 3)))


class Tokens(nn.Module):
    """Parameters that no module resets, on the network itself and in a child."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.body = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
        self.body.register_parameter("gamma", nn.Parameter(torch.full((8,), 0.1)))


ARCHITECTURES = {
    "resnet18": lambda: models.resnet18(num_classes=7),
    "vit": lambda: models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5),
    "swin": lambda: models.SwinTransformer([2, 2], 8, [1, 1], [1, 2], [4, 4], num_classes=5),
    "transformer": transformer, "tokens": Tokens,
    "ours": lambda: resnet18_for(ImageSet(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2))}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_trained_parameter_survives(name):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = ARCHITECTURES[name]()
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # trained: nothing is a constant any more
    parts = [child for child in net.children() if next(child.parameters(), None) is not None]
    new = reinitialised(net, len(parts))
    kept = [key for (key, a), b in zip(net.named_parameters(), new.parameters(), strict=True)
            if torch.equal(a, b) and distinct(a)]
    assert kept == []
    assert all(torch.isfinite(p).all() for p in new.parameters())
    assert [key for (key, a), b in zip(net.named_buffers(), new.named_buffers(), strict=True)
            if a.dtype != torch.float32 and not torch.equal(a, b[1])] in ([], ["bn1.num_batches_tracked"])
    upper = reinitialised(net, 1)
    same = [torch.equal(a, b) for a, b in zip(net.parameters(), upper.parameters(), strict=True)]
    drawn = {id(p) for p in parts[-1].parameters()}
    assert len(parts) == 1 or same == [id(p) not in drawn for p in net.parameters()]
    again = reinitialised(net, len(parts))
    assert all(torch.equal(a, b) for a, b in zip(new.parameters(), again.parameters(), strict=True))


def test_new_parameters_follow_the_rule_of_the_architecture():
    def spread(net):
        return {key: p.std().item() for key, p in net.named_parameters() if p.numel() > 2000}

    net = models.resnet18(num_classes=100)
    fresh = spread(net)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(7).add_(1)
    assert spread(reinitialised(net, 7)) == pytest.approx(fresh, rel=0.05)
    attention = nn.Sequential(nn.MultiheadAttention(32, 4))
    fresh = spread(attention)
    with torch.no_grad():
        attention[0].in_proj_weight.mul_(7)
        attention[0].out_proj.bias.add_(1)
    new = reinitialised(attention, 1)[0]
    assert new.in_proj_weight.std().item() == pytest.approx(fresh["0.in_proj_weight"], rel=0.1)
    assert not new.out_proj.bias.any()


def test_what_no_rule_reaches_keeps_mean_and_spread():
    net = Tokens()
    with torch.no_grad():
        net.token = nn.Parameter(5 + 2 * torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0)))
    new = reinitialised(net, 1).token
    assert (new.mean().item(), new.std().item()) == pytest.approx((5, 2), rel=0.05)
    assert not torch.isclose(new, net.token).all()


def test_a_network_without_parameters_has_nothing_to_initialise():
    with pytest.raises(ValueError, match="stages=1 is out of range"):
        reinitialised(nn.Sequential(nn.ReLU()), 1)
