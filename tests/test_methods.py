"""Other example-based methods: against scikit-learn and Captum, by definition and by hand."""

import builtins

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics.pairwise import rbf_kernel

from ebe_utils import EBEClassifier, embed, layer_neighbors, one_hot
from ebe_utils.methods import (
    captum_neighbors,
    counterfactuals,
    criticisms,
    forest_attributions,
    layer_attributions,
    prototypes,
)

pytestmark = pytest.mark.usefixtures("one_thread")
X, y = load_iris(return_X_y=True)


# --- random forests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forest", [
    RandomForestClassifier(30, random_state=0), RandomForestClassifier(30, bootstrap=False, random_state=0),
    RandomForestClassifier(30, max_samples=0.3, min_samples_leaf=7, random_state=0),
    ExtraTreesClassifier(30, bootstrap=True, max_depth=3, random_state=0)])
def test_forest_weights_times_labels_are_its_probabilities(forest):
    seen, new = X[::2], X[1::2]
    forest.fit(seen, y[::2])
    weights = forest_attributions(forest, seen, new)
    assert weights.shape == (len(new), len(seen))
    assert weights.data.min() > 0
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights @ one_hot(y[::2]), forest.predict_proba(new), atol=1e-12)


def test_forest_weights_by_hand():
    line, labels = np.array([[0.], [1.], [2.], [3.]]), np.array([0, 0, 1, 1])
    forest = RandomForestClassifier(1, bootstrap=False, random_state=0).fit(line, labels)  # splits at 1.5
    weights = forest_attributions(forest, line, [[0.4], [9.]]).toarray()
    np.testing.assert_allclose(weights, [[1 / 2, 1 / 2, 0, 0], [0, 0, 1 / 2, 1 / 2]])


def test_an_object_drawn_twice_counts_twice():
    labels = np.arange(6) % 2
    forest = RandomForestClassifier(1, max_depth=1, min_samples_leaf=6, random_state=3).fit(X[:6], labels)  # one leaf
    times = np.bincount(forest.estimators_samples_[0], minlength=6)
    assert times.max() > 1
    np.testing.assert_allclose(forest_attributions(forest, X[:6], X[:1]).toarray()[0], times / 6)


@pytest.mark.parametrize("rows", [X[::-1], X[:100], X + 1])
def test_other_rows_than_the_forest_was_fitted_on(rows):
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="pass the rows that the forest was fitted on"):
        forest_attributions(forest, rows, X[:2])


def test_forests_that_were_weighted_or_not_fitted():
    forest = RandomForestClassifier(5, bootstrap=False, class_weight={0: 3}, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="class_weight"):
        forest_attributions(forest, X, X[:2])
    with pytest.raises(NotFittedError):
        forest_attributions(RandomForestClassifier(), X, X)


# --- several layers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(trained, small):
    return layer_neighbors(trained, *small, layers=[10, 14], k=6, progress=False)


def test_one_layer_is_ebe_and_two_are_their_mean(found, trained, small):
    both = layer_attributions(found, [10, 14], 5).toarray()
    alone = [layer_attributions(found, [layer], 5).toarray() for layer in (10, 14)]
    np.testing.assert_allclose(alone[1], EBEClassifier(trained, 14, 5).fit(small[0]).attributions(
        small[1].images).toarray())
    np.testing.assert_allclose(both, np.mean(alone, axis=0))
    np.testing.assert_allclose(both.sum(1), 1)


@pytest.mark.parametrize("layers, k, words", [([10, 15], 5, r"layers=\[10, 15\].*10, 14"), ([], 5, "empty"),
                                              ([10], 7, "k=7 is out of range")])
def test_layers_and_k_that_were_not_searched(found, layers, k, words):
    with pytest.raises(ValueError, match=words):
        layer_attributions(found, layers, k)


# --- prototypes and criticisms -------------------------------------------------------------------------------------


def discrepancy(kernel, chosen):
    """Squared maximum mean discrepancy between all objects and the chosen, by definition."""
    return kernel.mean() - 2 * kernel[:, chosen].mean() + kernel[np.ix_(chosen, chosen)].mean()


def greedy(kernel, m, value, barred=()):
    chosen = []
    for _ in range(m):
        free = [i for i in range(len(kernel)) if i not in {*chosen, *barred}]
        chosen.append(max(free, key=lambda i: value([*chosen, i])))
    return chosen


def test_prototypes_and_criticisms_by_hand():
    kernel = np.array([[1, .9, .9, 0], [.9, 1, .6, 0], [.9, .6, 1, 0], [0, 0, 0, 1]])
    # One prototype: 2 mean - 1 is largest for object 0 (2 * 0.7 - 1). With a second, object 3: 0.7 + 0.25 - 2 / 4
    # = 0.45; object 1: 0.7 + 0.625 - (1 + 1 + 1.8) / 4 = 0.375.
    np.testing.assert_array_equal(prototypes(kernel, 2), [0, 3])
    # Criticism of object 0 alone: object 3 has witness 0.25 and no likeness; object 1 0.275, object 2 the same.
    np.testing.assert_array_equal(criticisms(kernel, [0], 2), [1, 3])


def test_choices_are_greedy_by_definition():
    kernel = rbf_kernel(X[::5], gamma=0.5)
    chosen = prototypes(kernel, 6)
    assert chosen.tolist() == greedy(kernel, 6, lambda c: -discrepancy(kernel, c))
    assert discrepancy(kernel, chosen) < discrepancy(kernel, chosen[:1]) / 5
    witness = abs(kernel.mean(1) - kernel[:, chosen].mean(1))
    expected = greedy(kernel, 5, lambda c: witness[c].sum() + np.linalg.slogdet(kernel[np.ix_(c, c)])[1], chosen)
    assert criticisms(kernel, chosen, 5).tolist() == expected


def test_copies_are_not_criticised_twice():
    kernel = rbf_kernel(np.repeat([[0.], [1.], [4.], [9.]], 3, axis=0))
    found = criticisms(kernel, prototypes(kernel, 2), 4)
    assert len(set(found)) == 4
    assert np.isfinite(kernel[found]).all()


@pytest.mark.parametrize("call, error, words", [
    (lambda: prototypes(np.ones((2, 3)), 1), ValueError, r"shape \(2, 3\)"),
    (lambda: prototypes(np.eye(3), 4), ValueError, "m=4 is out of range.*3 objects"),
    (lambda: prototypes(np.eye(3), 1.5), TypeError, "pass an integer"),
    (lambda: criticisms(np.eye(3), [0], 3), ValueError, "m=3.*1 prototypes")])
def test_bad_kernels_and_numbers(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- counterfactuals -----------------------------------------------------------------------------------------------


def test_counterfactuals_by_hand():
    line, classes = np.array([[0.], [1.], [3.], [6.], [10.]]), np.array([2, 1, 0, 0, 2])
    distances, indices = counterfactuals(line, classes, np.array([[3.5], [0.], [7.]]), np.array([0, 2, 0]), 2,
                                         "euclidean")
    np.testing.assert_array_equal(indices, [[1, 0], [1, 2], [4, 1]])
    np.testing.assert_allclose(distances, [[2.5, 3.5], [1, 3], [3, 6]])
    with pytest.raises(ValueError, match="3 training objects are not predicted as class 0"):
        counterfactuals(line, classes, line, classes, k=4)


def test_counterfactuals_are_the_first_of_all_neighbours_with_another_class(trained, small):
    ebe = EBEClassifier(trained, 14, 10).fit(small[0])
    classes = ebe.network_predictions_
    rows, queries = (embed(trained, part.images, 14) for part in small)
    predictions = ebe.network_predict(small[1].images)
    _, everyone = ebe.kneighbors(small[1].images, len(small[0]))
    _, indices = counterfactuals(rows, classes, queries, predictions)
    first = [next(i for i in row if classes[i] != p) for row, p in zip(everyone, predictions, strict=True)]
    np.testing.assert_array_equal(indices[:, 0], first)


# --- Captum --------------------------------------------------------------------------------------------------------


def test_captum_finds_the_same_neighbours(trained, small, same_neighbors):
    ebe = EBEClassifier(trained, 14, 10).fit(small[0])
    distances, indices = ebe.kneighbors(small[1].images)
    cosines, theirs = captum_neighbors(trained, 14, small[0].images, small[1].images, 10)
    np.testing.assert_allclose(1 - cosines, distances, atol=2e-6)
    rows, queries = (embed(trained, part.images, 14) for part in small)
    assert same_neighbors(theirs, rows, queries, "cosine", rtol=1e-3) < 0.05  # Captum computes in float32
    assert (indices == theirs).mean() > 0.95


def test_captum_leaves_the_network_as_it_was(tiny_net, stripes):
    before = {name: value.clone() for name, value in tiny_net.state_dict().items()}
    _, indices = captum_neighbors(tiny_net, "conv2", stripes[0].images, stripes[1].images[:3], 2)
    assert indices.shape == (3, 2)
    assert all(torch.equal(value, before[name]) for name, value in tiny_net.state_dict().items())
    assert not any(module._forward_hooks for module in tiny_net.modules())


def test_without_captum_the_error_says_what_to_install(monkeypatch, tiny_net, stripes):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("captum"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"ebe-utils\[methods\]"):
        captum_neighbors(tiny_net, 1, stripes[0].images, stripes[1].images, 1)
