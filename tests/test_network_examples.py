"""Attributions of the network's own answer: the two-stage choice by hand and by brute force, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from torch import nn

from ebe_utils import EBEClassifier, embed, one_hot
from ebe_utils.model import predict_logits
from ebe_utils.network_examples import (
    by_influence,
    by_shares,
    convex_weights,
    hellinger,
    nearest_answers,
    total_variation,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_hellinger_and_total_variation_by_hand():
    p, q = [0.5, 0.5, 0], [0.5, 0, 0.5]
    assert hellinger(p, q) == pytest.approx(np.sqrt(1 - 0.5)) and total_variation(p, q) == pytest.approx(0.5)
    assert hellinger([1, 0], [0, 1]) == 1 and hellinger(p, p) == pytest.approx(0, abs=1e-7)
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 6)
    np.testing.assert_allclose(hellinger(a[:, None], b), cdist(np.sqrt(a), np.sqrt(b)) / np.sqrt(2), atol=1e-9)


def test_nearest_answers_by_hand():
    indices, distances = np.array([[4, 0, 2, 1]]), np.array([[0.1, 0.2, 0.3, 0.4]])
    train = np.array([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0, 1], [0.1, 0.9]])
    far, at, ranks = nearest_answers(indices, distances, train, np.array([[0.5, 0.5]]), 3)
    # 2 and 1 have the query's own answer; 4 and 0 are equally far from it, and 4 is nearer at the layer.
    assert at.tolist() == [[4, 2, 1]] and far.tolist() == [[0.1, 0.3, 0.4]] and ranks.tolist() == [[0, 2, 3]]
    with pytest.raises(ValueError, match="there are 4 candidates"):
        nearest_answers(indices, distances, train, np.array([[0.5, 0.5]]), 5)


def test_the_classifier_chooses_what_brute_force_chooses(trained, small):
    train, test = small
    ebe = EBEClassifier(trained, 14, 5, target="network", candidates=30, choice="answers").fit(train)
    near = EBEClassifier(trained, 14, 30).fit(train).kneighbors(test.images)[1]
    softmax = [np.exp(x - x.max(1, keepdims=True)) for x in (
        predict_logits(trained, part.images).astype(float) for part in small)]
    mine, theirs = (x / x.sum(1, keepdims=True) for x in softmax)
    found = ebe.explain_batch(test.images)
    for i, row in enumerate(found.indices):
        apart = np.sqrt(np.clip(1 - np.sqrt(mine[near[i]] * theirs[i]).sum(1), 0, None))
        assert np.sort(apart[np.isin(near[i], row)]).sum() == pytest.approx(np.sort(apart)[:5].sum(), abs=1e-5)
    np.testing.assert_allclose(found.attributions.sum(1), 1)
    plain = EBEClassifier(trained, 14, 5).fit(train).explain_batch(test.images)
    assert found.agreement.mean() >= plain.agreement.mean()
    e = found[0]
    np.testing.assert_allclose(e.proba, np.bincount(e.labels, e.weights, 10))


@pytest.mark.parametrize("choice", ["influence", "answers"])
def test_as_many_candidates_as_examples_are_the_papers(trained, small, choice):
    train, test = small
    plain = EBEClassifier(trained, 14, 5).fit(train)
    same = EBEClassifier(trained, 14, 5, target="network", candidates=5, choice=choice).fit(train)
    np.testing.assert_array_equal(same.explain_batch(test.images).indices, plain.explain_batch(test.images).indices)


def test_influence_is_the_gradient_that_an_example_gives(trained, small):
    """Of the answer's logit by the answer's row of the last layer: by autograd, one example at a time."""
    train, test = small
    ebe = EBEClassifier(trained, 14, 4, target="network", candidates=20).fit(train)
    near = EBEClassifier(trained, 14, 20).fit(train).kneighbors(test.images[:6])[1]
    found = ebe.explain_batch(test.images[:6])
    logits = torch.from_numpy(predict_logits(trained, test.images[:6]))
    weight, bias = (x.detach() for x in (trained.fc.weight, trained.fc.bias))
    ours = torch.from_numpy(embed(trained, test.images[:6], "input of fc"))
    theirs = torch.from_numpy(embed(trained, train.images, "input of fc"))
    np.testing.assert_allclose(ours @ weight.T + bias, logits, rtol=1e-3, atol=1e-3)
    for i, row in enumerate(near):
        answer, score = int(logits[i].argmax()), []
        for j in row:
            w = weight.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy((theirs[j] @ w.T + bias)[None], torch.tensor([train.labels[j]]))
            pull = torch.autograd.grad(loss, w)[0][answer]
            score.append(float(-pull @ ours[i]))
        best = np.sort(score)[::-1]
        assert np.sort([score[list(row).index(j)] for j in found.indices[i]])[::-1] == pytest.approx(best[:4], rel=1e-3)
    assert found.distances.tolist() == np.sort(found.distances, 1).tolist()


def test_the_choice_by_influence_by_hand():
    """Two of the answer's class, of which the network is less sure of the second; one of another class."""
    labels, train = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    features, at = np.array([[1.0, 0], [1, 0], [1, 0]]), np.array([[2, 0, 1]])
    query = {"proba": np.array([[0.8, 0.2]]), "features": np.array([[2.0, 0]])}
    assert by_influence(at, labels, train, features, **query).tolist() == [[2, 1, 0]]  # 0.6, 0.1, and -0.3
    far = features * [[1, 0], [-1, 0], [1, 0]]  # example 1 points away, and would pull against the answer
    assert by_influence(at, labels, train, far, **query).tolist() == [[1, 0, 2]]
    assert by_influence(at, labels, train, features * 0, **query).tolist() == [[0, 1, 2]]  # no influence: the nearest


def test_votes_by_influence_follow_the_network(trained, small):
    train, test = small
    ours = EBEClassifier(trained, 14, 5, target="network", candidates=60).fit(train).explain_batch(test.images)
    plain = EBEClassifier(trained, 14, 5).fit(train).explain_batch(test.images)
    assert ours.agreement.mean() > plain.agreement.mean()
    np.testing.assert_allclose(ours.attributions @ one_hot(train.labels, 10), ours.proba)


def test_shares_by_hand():
    """Ten examples for 64, 26 and 10 percent: 6, 3 (the largest remainder) and 1; of the third class there is none."""
    labels = np.array([0] * 8 + [1] * 2 + [2])
    train = np.full((11, 3), 0.1)
    train[:8, 0] = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]  # the first and the last of class 0 are the surest
    ones, at = np.ones((11, 2)), np.arange(10)[None]
    ranks, weights = by_shares(at, labels, train, ones, np.array([[0.64, 0.26, 0.1]]), np.ones((1, 2)), 10)
    assert ranks.tolist() == [list(range(10))]
    expected = np.array([0, *[0.64 / 6] * 6, 0, 0.13, 0.13]) / 0.9
    np.testing.assert_allclose(weights[0], expected)
    nobody = by_shares(at[:, :3], labels, train, ones, np.array([[0.0, 0, 1]]), np.ones((1, 2)), 2)
    assert nobody[0].tolist() == [[0, 1]] and nobody[1].tolist() == [[0.5, 0.5]]


def test_shares_rebuild_the_softmax(trained, small):
    train, test = small
    ebe = EBEClassifier(trained, 14, 10, target="network", candidates=len(train), choice="shares").fit(train)
    found = ebe.explain_batch(test.images)
    # Every class has candidates here, so that only classes with less than one of ten examples are missing.
    assert found.agreement.all()
    least = np.where(found.network_proba < 0.1, found.network_proba, 0).sum(1)
    assert (total_variation(found.proba, found.network_proba) <= least + 1e-9).all()
    np.testing.assert_allclose(found.attributions.sum(1), 1)
    near = EBEClassifier(trained, 14, 10).fit(train).explain_batch(test.images)
    assert total_variation(found.proba, found.network_proba).mean() < total_variation(
        near.proba, near.network_proba).mean()
    with pytest.raises(ValueError, match="gives each example its weight"):
        ebe.set_params(weights="distance").explain(test.images[0])


class Tail(nn.Module):
    """Something comes after the last linear layer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x))) * 3 - 1


def test_what_influence_needs_and_what_is_refused(trained, small, tmp_path):
    train, test = small
    X, y = torch.rand(12, 4), np.arange(12) % 3
    with pytest.raises(ValueError, match="not those of its last linear layer.*choice='answers'"):
        EBEClassifier(Tail(), "body", 3, target="network").fit(X, y)
    assert EBEClassifier(Tail(), "body", 3, target="network", choice="answers", candidates=9).fit(X, y).explain(X[0])
    with pytest.raises(ValueError, match="does not end in a linear layer.*choice='answers'"):
        EBEClassifier(nn.Sequential(nn.Conv1d(1, 3, 4), nn.Flatten()), 1, 3, target="network").fit(X[:, None], y)
    with pytest.raises(ValueError, match="Did you mean 'influence'"):
        EBEClassifier(trained, 14, 5, choice="influense").fit(train)
    ebe = EBEClassifier(trained, 14, 5, candidates=20).fit(train).set_params(target="network")
    with pytest.raises(ValueError, match="was not kept.*call fit again"):
        ebe.explain(test.images[0])
    assert ebe.set_params(choice="answers").explain(test.images[0]).agreement in (True, False)
    points = EBEClassifier.from_embeddings(np.eye(6), np.arange(6) % 2, target="network", k=2)
    with pytest.raises(ValueError, match="what the network says of every example"):
        points.explain(np.eye(6)[0])
    with pytest.warns(UserWarning, match="3 outputs and the labels 2 classes"):
        other = EBEClassifier(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), "0", 2, target="network",
                              candidates=4).fit(X, y % 2)
    with pytest.raises(ValueError, match="no label speaks for its answer.*choice='answers'"):
        other.explain(X[0])


def test_a_network_with_one_output(tmp_path):
    X, y = torch.rand(20, 4), np.arange(20) % 2
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)).eval()
    found = EBEClassifier(net, "0", 3, target="network", candidates=12).fit(X, y).explain_batch(X)
    assert found.network_proba.shape == (20, 2)


def test_a_saved_classifier_chooses_the_same(trained, small, tmp_path):
    train, test = small
    ebe = EBEClassifier(trained, 14, 5, target="network", candidates=40).fit(train)
    again = EBEClassifier.load(ebe.save(tmp_path / "saved"), trained)
    mine, theirs = ebe.explain_batch(test.images), again.explain_batch(test.images)
    np.testing.assert_array_equal(mine.indices, theirs.indices)
    assert again.choice == "influence" and mine.proba.tolist() == theirs.proba.tolist()


def test_convex_weights_are_the_least_squares_solution():
    rng = np.random.default_rng(0)
    train, query = rng.dirichlet(np.ones(5), 12), rng.dirichlet(np.ones(5), 3)
    indices = np.array([rng.permutation(12)[:6] for _ in query])
    weights = convex_weights(train, query, indices)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    for w, row, q in zip(weights, indices, query, strict=True):
        best = minimize(lambda v, rows=train[row], q=q: ((v @ rows - q) ** 2).sum(), np.full(6, 1 / 6),
                        bounds=[(0, 1)] * 6, constraints={"type": "eq", "fun": lambda v: v.sum() - 1}, tol=1e-12)
        assert ((w @ train[row] - q) ** 2).sum() <= best.fun + 1e-6


@pytest.mark.parametrize("options, words", [
    ({"target": "softmax"}, "Did you mean|choose one of labels, network"), ({"candidates": 3}, "candidates=3")])
def test_what_is_refused(trained, small, options, words):
    with pytest.raises(ValueError, match=words):
        EBEClassifier(trained, 14, 5, **({"target": "network"} | options)).fit(small[0]).predict(small[1].images[:2])


def test_without_a_network_there_is_no_answer_to_explain():
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="what the network says of every example"):
        EBEClassifier.from_embeddings(rows, [0, 1, 0, 1], k=1, target="network").predict(rows)
