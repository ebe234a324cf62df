"""Measures that are not circular: by hand, against independent computations, and on explanations made wrong."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr
from torch import nn

from ebe_utils import EBEClassifier, ImageSet, embed, one_hot, train
from ebe_utils.circularity import change_alignment, changed_images, exchanged_answers, sign_agreement
from ebe_utils.datamodels import answer_margins, linear_datamodeling_score, random_subsets
from ebe_utils.forward import softmax
from ebe_utils.layer_neighbors import layer_neighbors
from ebe_utils.metrics import ANOTHER, RANDOM, with_controls
from ebe_utils.model import predict_logits
from ebe_utils.network_examples import total_variation
from ebe_utils.selection_relevance import same_class_examples, selection_relevance
from ebe_utils.upkeep.judged import small_network

pytestmark = pytest.mark.usefixtures("one_thread")


def dirichlet(n, seed=0, classes=4):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


@pytest.fixture(scope="module")
def taught(digits):
    """(network, training images, test images): a small network that is right on most digits."""
    train_set, test_set = (part.subset(np.arange(n)) for part, n in zip(digits, (800, 200), strict=True))
    net = train(small_network(train_set, 0), train_set, epochs=16, batch_size=50, progress=False)
    assert (predict_logits(net, test_set.images).argmax(1) == test_set.labels).mean() > 0.8
    return net, train_set, test_set


# --- the changed image -----------------------------------------------------------------------------------------------


def test_changed_images_by_hand():
    images = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    assert changed_images(images, "shift").tolist() == [[[[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10]]]]
    assert torch.equal(changed_images(images, "shift", 0), images)
    grey = torch.full((4, 1, 50, 50), 128, dtype=torch.uint8)
    noisy = changed_images(grey, "noise", seed=1)
    assert noisy.dtype == torch.uint8 and noisy.float().std().item() == pytest.approx(0.05 * 255, rel=0.05)
    assert torch.equal(noisy, changed_images(grey, "noise", seed=1))
    assert not torch.equal(noisy, changed_images(grey, "noise", seed=2))
    halves = changed_images(grey / 255, "noise")
    assert halves.dtype == torch.float32 and halves.std().item() == pytest.approx(0.05, rel=0.05)
    edge = changed_images(torch.zeros(1, 1, 20, 20), "noise", 0.5)
    assert edge.min() >= 0 and edge.max() <= 1
    with pytest.raises(ValueError, match="choose one of noise, shift"):
        changed_images(images, "turn")
    with pytest.raises(ValueError, match="amount=4"):
        changed_images(images, "shift", 4)


def test_alignment_by_hand():
    proba = np.array([[0.5, 0.3, 0.2]] * 4)
    moved = proba + [[0.2, -0.2, 0], [0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0, 0]]
    shares = np.array([[0.6, 0.4, 0.0]] * 4)
    voted = shares + [[0.1, -0.1, 0], [-0.3, 0.3, 0], [0, 0, 0], [0.1, -0.1, 0]]
    np.testing.assert_allclose(change_alignment(shares, voted, proba, moved), [1, -1, 0, np.nan])
    np.testing.assert_allclose(sign_agreement(shares, voted, proba, moved), [1, 0, 0.5, np.nan])
    one = change_alignment(shares[:1], shares[:1] + [[0, -0.1, 0.1]], proba[:1], moved[:1])
    assert one[0] == pytest.approx(1 / 2)  # 60 degrees
    with pytest.raises(ValueError, match="proba has shape"):
        change_alignment(shares, voted, proba[:2], moved)


@pytest.fixture(scope="module")
def moved(taught):
    """({explanation: shares}, {explanation: shares of the changed images}, softmax, changed softmax) of the digits."""
    net, train, test = taught
    changed = changed_images(test.images, "shift")
    proba, changed_proba = (softmax(predict_logits(net, x)) for x in (test.images, changed))

    def shares(images):
        found = with_controls(layer_neighbors(net, train, ImageSet(images, test.labels, test.classes), ["avgpool"], 10,
                                              pixels=False, progress=False), "avgpool")
        return {name: one_hot(train.labels, 10)[found.indices[name]].mean(1) for name in found.names}

    return shares(test.images), shares(changed), proba, changed_proba


@pytest.mark.parametrize("measure, chance", [(change_alignment, 0), (sign_agreement, 0.5)])
def test_votes_move_with_the_network_and_wrong_explanations_do_not(moved, measure, chance):
    before, after, proba, changed_proba = moved
    score = {name: np.nanmean(measure(before[name], after[name], proba, changed_proba)) for name in before}
    assert score["avgpool"] > chance + 0.1
    assert abs(score[RANDOM] - chance) < 0.1
    assert max(score[RANDOM], score[ANOTHER]) < score["avgpool"] - 0.1


# --- another image's answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["nearest", "convex"])
def test_near_candidates_cannot_rebuild_another_answer_and_random_ones_can(way):
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    train = 0.8 * np.eye(3)[classes] + 0.2 * dirichlet(300, classes=3)
    said = np.arange(60) % 3
    proba = 0.8 * np.eye(3)[said] + 0.2 * dirichlet(60, 1, 3)
    near = np.stack([rng.choice(np.flatnonzero(classes == c), 20, replace=False) for c in said])
    own, other = exchanged_answers(near, train, proba, way, k=5)
    assert own.shape == other.shape == (60,)
    assert other.min() > own.max() + 0.3
    chance = np.stack([rng.choice(300, 60, replace=False) for _ in said])  # of all classes: they rebuild anything
    own, other = exchanged_answers(chance, train, proba, way, k=5)
    assert abs(own.mean() - other.mean()) < 0.03
    with pytest.raises(ValueError, match="same class"):
        exchanged_answers(near[:1], train, proba[:1])


def test_exchanged_answers_by_hand():
    train = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    proba = np.array([[0.8, 0.2], [0.2, 0.8]])
    own, other = exchanged_answers(np.array([[0, 1, 2], [1, 2, 3]]), train, proba, "nearest", 1)
    np.testing.assert_allclose(own, [0, 0.1])  # 1 for the first; 3 for the second
    np.testing.assert_allclose(other, [0.5, 0])  # 2, the nearest to (0.2, 0.8); 1, that is (0.8, 0.2)
    own, other = exchanged_answers(np.array([[0, 1, 2], [1, 2, 3]]), train, proba, "convex")
    np.testing.assert_allclose(own, [0, 0], atol=1e-5)
    np.testing.assert_allclose(other, [0.5, 0], atol=1e-5)


def test_on_a_network_other_answers_cost_more(taught):
    net, train, test = taught
    near = EBEClassifier(net, "avgpool", 30).fit(train).kneighbors(test.images)[1]
    proba, train_proba = (softmax(predict_logits(net, part.images)) for part in (test, train))
    own, other = exchanged_answers(near, train_proba, proba)
    assert other.mean() > own.mean() + 0.2
    assert own.mean() == pytest.approx(np.mean([total_variation(
        train_proba[row[np.linalg.norm(np.sqrt(train_proba[row]) - np.sqrt(p), axis=1).argsort(kind="stable")[:10]]
                    ].mean(0), p) for row, p in zip(near, proba, strict=True)]), abs=1e-3)


# --- networks trained on other examples -------------------------------------------------------------------------------


def test_the_exact_attributions_of_a_linear_model_score_one_and_wrong_ones_do_not():
    rng = np.random.default_rng(0)
    x, queries, y = rng.standard_normal((80, 3)), rng.standard_normal((12, 3)), rng.choice([-1, 1], 80)
    exact = np.exp(-((queries[:, None] - x) ** 2).sum(2)) * y  # of a Parzen window classifier, linear in its examples
    subsets = random_subsets(80, 40, 0.5, seed=1)
    outputs = np.stack([(np.exp(-((queries[:, None] - x[s]) ** 2).sum(2)) * y[s]).sum(1) for s in subsets])
    np.testing.assert_allclose(linear_datamodeling_score(exact, subsets, outputs), 1)
    np.testing.assert_allclose(linear_datamodeling_score(sp.csr_array(exact * 1e-9), subsets, outputs), 1)
    np.testing.assert_allclose(linear_datamodeling_score(-exact, subsets, outputs), -1)
    some = exact + rng.normal(0, 0.02, exact.shape)
    found = linear_datamodeling_score(some, subsets, outputs)
    np.testing.assert_allclose(found, [spearmanr(subsets @ a, o)[0] for a, o in zip(some, outputs.T, strict=True)])
    wrong = {"random": rng.standard_normal(exact.shape), "another's": np.roll(exact, 1, 0)}
    for values in wrong.values():
        assert linear_datamodeling_score(values, subsets, outputs).mean() < 0.5 * found.mean()
    nothing = exact.copy()
    nothing[0] = 1  # the same of every subset of the same size
    assert np.isnan(linear_datamodeling_score(nothing, subsets, outputs)[0])


def test_subsets_and_margins():
    subsets = random_subsets(10, 300, 0.3, seed=2)
    assert subsets.shape == (300, 10) and (subsets.sum(1) == 3).all()
    assert (np.abs(subsets.mean(0) - 0.3) < 0.1).all()
    np.testing.assert_array_equal(subsets, random_subsets(10, 300, 0.3, seed=2))
    logits = np.random.default_rng(0).standard_normal((5, 7, 3))
    answers = np.arange(7) % 3
    p = softmax(logits.reshape(35, 3)).reshape(5, 7, 3)[:, np.arange(7), answers]
    np.testing.assert_allclose(answer_margins(logits, answers), np.log(p / (1 - p)))
    for share in (0.01, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            random_subsets(10, 3, share)
    with pytest.raises(ValueError, match="do not match"):
        linear_datamodeling_score(np.ones((4, 10)), subsets, np.ones((4, 300)))


# --- few examples as a set --------------------------------------------------------------------------------------------


def test_relevance_is_that_of_autograd_and_least_squares():
    rng = np.random.default_rng(0)
    layer, k = nn.Linear(5, 3).double(), 4
    train, queries = rng.standard_normal((30, 5)), rng.standard_normal((6, 5))
    labels = rng.integers(0, 3, 30)
    with torch.no_grad():
        proba, train_proba = (torch.softmax(layer(torch.from_numpy(x)), 1).numpy() for x in (queries, train))
    answers = proba.argmax(1)
    indices = np.stack([rng.permutation(30)[:k] for _ in queries])

    def gradient(x, y):
        loss = nn.functional.cross_entropy(layer(torch.from_numpy(x)[None]), torch.tensor([y]))
        return np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, [layer.weight, layer.bias])])

    found = selection_relevance(indices, queries, proba, answers, train, train_proba, labels)
    for q, row in enumerate(indices):
        wanted = gradient(queries[q], answers[q])
        system = np.stack([gradient(train[i], labels[i]) for i in row], 1)
        rest = lsq_linear(system, wanted, (0, np.inf), tol=1e-12).fun
        assert found[q] == pytest.approx(1 - rest @ rest / (wanted @ wanted), abs=1e-6)
    assert (found > 0).any() and (found < 0.99).any()


def test_relevance_of_itself_of_the_opposite_and_of_nothing():
    features, train = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    proba, train_proba = np.array([[0.6, 0.4]]), np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    labels = np.array([0, 0, 1])
    args = (features, proba, [0], train, train_proba, labels)
    assert selection_relevance(np.array([[1, 0]]), *args)[0] == pytest.approx(1)  # the same image, the same label
    # Features (2, 1) against (1, 1): cosine 3/√10. Those of 2, (-1, 1), are at right angles to it.
    assert selection_relevance(np.array([[0]]), *args)[0] == pytest.approx(0.9)
    assert selection_relevance(np.array([[2]]), *args)[0] == pytest.approx(0)
    against = selection_relevance(np.array([[1]]), features, proba, [1], train, train_proba, labels)
    assert against[0] == 0  # it pulls the other way
    sure = selection_relevance(np.array([[1]]), features, np.array([[1.0, 0.0]]), [0], train, train_proba, labels)
    assert np.isnan(sure[0])


def test_wrong_explanations_are_less_relevant(taught):
    net, train, test = taught
    neighbors = with_controls(layer_neighbors(net, train, test, ["avgpool"], 10, pixels=False, progress=False),
                              "avgpool")
    features, train_features = (embed(net, part.images, "avgpool") for part in (test, train))
    proba, train_proba = (softmax(predict_logits(net, part.images)) for part in (test, train))
    score = {name: np.nanmean(selection_relevance(at, features, proba, proba.argmax(1), train_features, train_proba,
                                                  train.labels)) for name, at in neighbors.indices.items()}
    assert score["avgpool"] > max(score[RANDOM], score[ANOTHER]) + 0.1, score


def test_same_class_examples():
    labels = np.arange(40) % 4
    indices = np.array([[0, 4, 1, 7], [3, 7, 11, 15]])
    found = same_class_examples(indices, labels, seed=3)
    np.testing.assert_array_equal(labels[found], labels[indices])
    for row, own in zip(found, indices, strict=True):
        assert len(set(row)) == 4 and not set(row) & set(own)
    np.testing.assert_array_equal(found, same_class_examples(indices, labels, seed=3))
    with pytest.raises(ValueError, match="class 3 has 1 other"):
        same_class_examples(np.array([[3, 7]]), labels[:12])
