"""How embeddings lie, against scikit-learn and against data whose directions are known."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ebe_utils import ImageSet, embed
from ebe_utils.geometry import layer_geometry, principal_axes, whiten


@pytest.fixture
def hidden():
    """Two classes that differ along one direction, under two directions a hundred times as large that both share."""
    rng = np.random.default_rng(3)
    labels = np.arange(400) % 2
    X = rng.normal(size=(400, 6)) * [0.3, 100, 60, 0.3, 0.3, 0.3] + [500, 0, 0, 0, 0, 0]
    X[:, 3] += 3 * labels
    return X, labels


def as_images(X, labels):
    return ImageSet(X.astype(np.float32).reshape(len(X), -1), labels, ("a", "b"), "points")


def test_principal_axes_are_those_of_scikit_learn(hidden):
    X, _ = hidden
    mean, variances, axes = principal_axes(X)
    theirs = PCA().fit(X)
    np.testing.assert_allclose(mean, theirs.mean_)
    np.testing.assert_allclose(variances, theirs.explained_variance_)
    np.testing.assert_allclose(np.abs(np.sum(axes.T * theirs.components_, 1)), 1, atol=1e-9)


def test_whitened_data_have_the_unit_matrix_as_covariance(hidden):
    X, _ = hidden
    white, other = whiten(X, X[:5], ridge=0)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(other, white[:5])


def test_classes_hidden_under_large_directions_are_seen_after_whitening(hidden):
    X, labels = hidden
    net = nn.Sequential(nn.Identity(), nn.Linear(6, 2))
    train, test = as_images(X[:300], labels[:300]), as_images(X[300:], labels[300:])
    row = layer_geometry(net, train, test, ["0"], k=5).iloc[0]
    assert row["whitened"] > 0.97 and row["removed"] > 0.97
    assert max(row["raw"], row["centred"]) < 0.75
    A, B = X[:300].astype(np.float32), X[300:].astype(np.float32)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(A, labels[:300]).score(B, labels[300:])
    assert row["raw"] == pytest.approx(theirs)
    cosines = cosine_similarity(A.astype(float))
    assert row["mean_cosine"] == pytest.approx((cosines.sum() - 300) / (300 * 299), abs=1e-6)
    assert row["top"] == pytest.approx(PCA().fit(A).explained_variance_ratio_[:2].sum(), abs=1e-5)
    assert row["between"] < 0.02
    assert row["common"] == pytest.approx((A.mean(0)**2).sum() / (A**2).sum(1).mean(), rel=1e-5)


def test_between_is_one_where_a_direction_is_the_class():
    X = np.zeros((40, 3))
    X[:20, 0], X[20:, 0] = 5, -5
    X[:, 1] = 3
    labels = np.repeat([0, 1], 20)
    row = layer_geometry(nn.Sequential(nn.Identity(), nn.Linear(3, 2)), as_images(X, labels), as_images(X, labels),
                         "0", k=3).iloc[0]
    assert row["between"] == pytest.approx(1) and row["top"] == pytest.approx(1) and row["raw"] == 1


def test_layers_of_a_network_and_bad_k(tiny_net, stripes):
    train, test = stripes
    table = layer_geometry(tiny_net, train, test, k=3)
    assert list(table["layer"]) == list(embed(tiny_net, test.images[:2]))
    assert table["raw"].between(0, 1).all()
    with pytest.raises(ValueError, match="k=99"):
        layer_geometry(tiny_net, train, test, k=99)
