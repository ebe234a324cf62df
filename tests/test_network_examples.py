"""Attributions of the network's own answer: the two-stage choice by hand and by brute force, and what it refuses."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from ebe_utils import EBEClassifier
from ebe_utils.model import predict_logits
from ebe_utils.network_examples import convex_weights, hellinger, nearest_answers, total_variation

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
    ebe = EBEClassifier(trained, 14, 5, target="network", candidates=30).fit(train)
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


def test_as_many_candidates_as_examples_are_the_papers(trained, small):
    train, test = small
    plain = EBEClassifier(trained, 14, 5).fit(train)
    same = EBEClassifier(trained, 14, 5, target="network", candidates=5).fit(train)
    np.testing.assert_array_equal(same.explain_batch(test.images).indices, plain.explain_batch(test.images).indices)


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
    with pytest.raises(ValueError, match="there is no network"):
        EBEClassifier.from_embeddings(rows, [0, 1, 0, 1], k=1, target="network").predict(rows)
