"""Reliance on examples: first-order effects against real refits, and shares by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

from ebe_utils.reliance import LastLayer, like_network, reliance


def blobs(classes, n=240, d=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.standard_normal((classes, d))[labels] * 1.5 + rng.standard_normal((n, d)), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_layer_minimises_the_penalised_loss(classes):
    X, y = blobs(classes)
    layer = LastLayer(X, y, ridge=2.0)

    def loss(theta):
        coef, bias = theta[:classes * 5].reshape(classes, 5), theta[classes * 5:]
        logits = X @ coef.T + bias
        return (np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]).sum() + (coef**2).sum()

    best = minimize(loss, np.zeros(classes * 6), method="BFGS", options={"gtol": 1e-7})
    assert loss(np.append(layer.coef.ravel(), layer.bias)) == pytest.approx(best.fun, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_effects_are_those_of_refits(classes):
    X, y = blobs(classes)
    queries, _ = blobs(classes, 9, seed=1)
    layer = LastLayer(X, y, ridge=1.0)
    answers = layer.predict_proba(queries).argmax(1)
    effects = np.concatenate(list(layer.effects(queries, answers, batch=4)))
    assert effects.shape == (9, 240)
    some = np.abs(effects).max(0).argsort()[-12:]  # those that matter most to any query
    real = np.stack([layer.refitted(queries, answers, [i]) for i in some], 1)
    np.testing.assert_allclose(effects[:, some], real, atol=0.4 * np.abs(real).max())
    assert np.corrcoef(effects[:, some].ravel(), real.ravel())[0, 1] > 0.98
    # Of groups the order is right; the effects of the strongest compound, so that a refit moves more than their sum.
    groups = [row.argsort()[at] for row in effects[:4] for at in (slice(-8, None), slice(100, 108), slice(0, 8))]
    sums = [effects[i // 3, group].sum() for i, group in enumerate(groups)]
    moved = [layer.refitted(queries[[i // 3]], answers[[i // 3]], group)[0] for i, group in enumerate(groups)]
    assert spearmanr(sums, moved)[0] > 0.95 and min(moved[::3]) > 0
    tiny = LastLayer(np.repeat(X, 20, 0), np.repeat(y, 20), ridge=20.0)  # one of 20 copies: nearly infinitesimal
    one = np.concatenate(list(tiny.effects(queries, answers)))[:, 20 * some[0]]
    np.testing.assert_allclose(one, tiny.refitted(queries, answers, [20 * some[0]]), rtol=0.03, atol=1e-6)


def test_reliance_by_hand():
    effects = np.array([[3.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    at = np.array([[0, 2], [0, 1]])
    found = reliance(effects, at)
    assert found[0] == 1 and np.isnan(found[1])
    assert reliance(effects[:1], np.array([[1, 3]]))[0] == pytest.approx(-1 / 5)
    assert reliance(effects[:1], np.array([[2, 1]]), np.array([[1.0, 0.0]]))[0] == pytest.approx(2 / 3)


def test_random_examples_are_not_relied_on():
    X, y = blobs(3, 600)
    queries, _ = blobs(3, 60, seed=2)
    layer = LastLayer(X, y)
    answers = layer.predict_proba(queries).argmax(1)
    effects = np.concatenate(list(layer.effects(queries, answers)))
    rng = np.random.default_rng(0)
    random = reliance(effects, np.array([rng.choice(600, 10, replace=False) for _ in queries]))
    best = reliance(effects, (-effects).argsort(1)[:, :10])
    assert np.allclose(best, 1) and abs(random.mean()) < 0.1


def test_a_class_that_is_missing():
    X, y = blobs(3)
    with pytest.raises(ValueError, match="2 of 3 classes"):
        LastLayer(X[y < 2], y[y < 2], classes=3)
    with pytest.raises(ValueError, match="has none left"):
        LastLayer(X, y).refitted(X[:1], y[:1], np.flatnonzero(y == 0))


@pytest.mark.parametrize("classes", [2, 3])
def test_refits_of_many_queries_are_scikit_learns(classes):
    X, y = blobs(classes)
    queries, _ = blobs(classes, 7, seed=1)
    layer = LastLayer(X, y, ridge=5.0)
    answers = layer.predict_proba(queries).argmax(1)
    effects = np.concatenate(list(layer.effects(queries, answers)))
    strong, rng = (-effects).argsort(1)[:, :6], np.random.default_rng(0)
    for gone in (strong, rng.integers(0, len(y), (7, 6))):
        real = [layer.refitted(queries[[i]], answers[[i]], gone[i])[0] for i in range(7)]
        np.testing.assert_allclose(layer.without(queries, answers, gone, batch=3), real, rtol=1e-3, atol=1e-5)


def test_a_refit_that_newton_does_not_reach_is_scikit_learns(monkeypatch):
    """Half of a class taken away from a layer with hardly any ridge: the second derivatives there are others."""
    X, y = blobs(2, 60)
    layer, calls = LastLayer(X, y, ridge=0.01), []
    gone = np.flatnonzero(y == 0)[None, :-3]
    fit = layer._fit
    monkeypatch.setattr(layer, "_fit", lambda *given: calls.append(1) or fit(*given))
    found = layer.without(X[:1], np.array([0]), gone)
    assert len(calls) == 1
    np.testing.assert_allclose(found, layer.refitted(X[:1], np.array([0]), gone[0]), rtol=1e-3)


def test_the_ridge_that_answers_as_the_network_does():
    """Where the network is such a layer itself, its own ridge is found."""
    X, y = blobs(3, 600)
    others, _ = blobs(3, 90, seed=4)
    for ridge in (1, 100):
        proba = LastLayer(X, y, ridge).predict_proba(others)
        assert like_network(X, y, others, proba, (1, 10, 100, 1000)).ridge == ridge
