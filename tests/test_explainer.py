"""Step 5: votes, attributions and explanations, against scikit-learn's classifier and by hand."""

import copy
import pickle
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ebe_utils import EBEClassifier, Explanation, embed, kneighbors, one_hot
from ebe_utils.votes import SoftmaxWeights, nnk_weights, vote_shares, vote_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def by_rank(distances):
    """A function of the distances for `weights`: 1, 0.7, 0.49, ..."""
    return np.ones_like(distances) * 0.7 ** np.arange(distances.shape[1])


@pytest.fixture(scope="module")
def ebe(trained, small):
    return EBEClassifier(trained, layer=14, k=10).fit(small[0])


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights, distances, expected", [
    ("uniform", [[0, 1, 7, 9]], [[1 / 4] * 4]), ("distance", [[1, 2, 4]], [[4 / 7, 2 / 7, 1 / 7]]),
    ("distance", [[0, 0, 2], [1, 1, 2]], [[1 / 2, 1 / 2, 0], [2 / 5, 2 / 5, 1 / 5]]),
    (by_rank, [[5, 6]], [[10 / 17, 7 / 17]]),
    (lambda d: d == d.min(1, keepdims=True), [[1, 1, 3]], [[1 / 2, 1 / 2, 0]])])
def test_weights_by_hand(weights, distances, expected):
    np.testing.assert_allclose(vote_weights(distances, weights), expected)


def test_softmax_weights_by_hand():
    weights = vote_weights([[1, 2, 3], [10, 20, 30], [0, 0, 0]], SoftmaxWeights(0.5))
    raw = np.exp([0, -1, -2])
    np.testing.assert_allclose(weights, [raw / raw.sum()] * 2 + [[1 / 3] * 3])
    sharp = vote_weights([[0.1, 0.2]], SoftmaxWeights(0.001))
    np.testing.assert_allclose(sharp, [[1, 0]], atol=1e-12)
    with pytest.raises(ValueError, match="temperature=0"):
        SoftmaxWeights(0)


def test_softmax_weights_are_values():
    weights = pickle.loads(pickle.dumps(SoftmaxWeights(0.2)))
    assert weights == SoftmaxWeights(0.2) != SoftmaxWeights() and repr(weights) == "SoftmaxWeights(temperature=0.2)"
    distances = np.random.default_rng(0).random((4, 5))
    np.testing.assert_array_equal(vote_weights(distances, "softmax"), vote_weights(distances, SoftmaxWeights()))


@pytest.mark.parametrize("weights, distances, expected", [
    (lambda d: np.full_like(d, 1e308), [[1, 2, 3, 4]], [[1 / 4] * 4]),  # their sum is no float
    (lambda d: np.full_like(d, 5e-324), [[1, 2]], [[1 / 2] * 2]),
    ("distance", [[5e-324, 1]], [[1, 0]]), ("distance", [[1e-310, 1e-310]], [[1 / 2] * 2])])  # 1 / 5e-324 is none
def test_huge_and_tiny_weights_sum_to_one(weights, distances, expected):
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(vote_weights(distances, weights), expected, atol=1e-300)


@pytest.mark.parametrize("weights, error, words", [
    (lambda d: -d, ValueError, "negative"), (lambda d: d * np.nan, ValueError, "NaN"),
    (lambda d: d * np.inf, ValueError, "infinite"), (lambda d: 0 * d, ValueError, "a row without weight"),
    (lambda d: d[0], ValueError, r"shape \(3,\) for distances of shape \(2, 3\)"),
    ("nnk", ValueError, "follow from the embeddings.*or use EBEClassifier"),
    ("distances", ValueError, "Did you mean 'distance'"), (None, ValueError, "is unknown")])
def test_what_cannot_be_weights(weights, error, words):
    with pytest.raises(error, match=words):
        vote_weights(np.ones((2, 3)), weights)


class TestNNK:
    def test_by_hand(self):
        # Two axes with the diagonal between them share the vote; what lies behind one of them has no part in it.
        train = np.array([[1, 0], [0, 2], [-1, 0.0]])
        weights = nnk_weights(train, np.array([[3, 3.0]]), np.array([[0, 1, 2]]))
        np.testing.assert_allclose(weights, [[0.5, 0.5, 0]], atol=1e-9)
        # In the direction of one candidate, that candidate has everything.
        np.testing.assert_allclose(nnk_weights(train, np.array([[0, 5.0]]), np.array([[2, 0, 1]])), [[0, 0, 1]],
                                   atol=1e-9)

    def test_solves_the_quadratic_program(self):
        rng = np.random.default_rng(3)
        train, queries = rng.normal(size=(20, 5)), rng.normal(size=(6, 5))
        indices = kneighbors(train, queries, 7)[1]
        weights = nnk_weights(train, queries, indices)
        unit, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, queries))
        assert (weights > 0).sum() < weights.size  # some are left out
        for row, query, found in zip(indices, q, weights, strict=True):
            gram, to = (1 + unit[row] @ unit[row].T) / 2, (1 + unit[row] @ query) / 2
            best = minimize(lambda w, K=gram, b=to: w @ K @ w / 2 - w @ b, np.full(7, 0.1),
                            jac=lambda w, K=gram, b=to: K @ w - b, bounds=[(0, None)] * 7, method="L-BFGS-B",
                            options={"ftol": 1e-15, "gtol": 1e-10}).x
            np.testing.assert_allclose(found, best / best.sum(), atol=1e-5)

    def test_weights_are_a_vote(self):
        rng = np.random.default_rng(4)
        train, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
        indices = kneighbors(train, train[:9] + 0.01, 10)[1]
        weights = nnk_weights(train, train[:9] + 0.01, indices)
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(1), 1)
        full = np.zeros((9, 30))
        np.put_along_axis(full, indices, weights, 1)
        np.testing.assert_allclose(vote_shares(indices, labels, weights), full @ np.eye(3)[labels], atol=1e-11)

    def test_equal_candidates_and_zero_rows(self):
        train = np.array([[1, 1.0], [1, 1], [0, 0]])
        weights = nnk_weights(train, np.array([[1, 1.0], [0, 0]]), np.array([[0, 1, 2], [0, 1, 2]]))
        np.testing.assert_allclose(weights.sum(1), 1)
        assert weights[0, 2] < 1e-9
        same = np.ones((50, 30_000), np.float32) / 3
        np.testing.assert_allclose(nnk_weights(same, same[:2], np.arange(100).reshape(2, 50) % 50).sum(1), 1)


def test_one_hot():
    assert one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(np.array([1]), 4).tolist() == [[0, 1, 0, 0]]
    assert one_hot(np.array([[0, 1]], np.uint8)).tolist() == [[[1, 0], [0, 1]]]
    assert one_hot(np.array([], int)).shape == (0, 0)


@pytest.mark.parametrize("labels, classes, error, words", [
    ([0.0, 1.0], None, TypeError, "float64 are no class indices"), (["a"], None, TypeError, "pass integers from 0"),
    ([True, False], None, TypeError, "bool"), ([0, -1], None, ValueError, "labels run from -1 to 0"),
    ([0, 3], 3, ValueError, "run from 0 to 3; pass integers from 0 to 2"), ([0], 0, ValueError, "classes=0"),
    ([10**9], None, ValueError, "1000000001 columns for 1 labels"),
    ([0, 2**62], None, ValueError, "number the classes from 0")])
def test_what_cannot_be_labels(labels, classes, error, words):
    with pytest.raises(error, match=words):
        one_hot(labels, classes)


def test_votes_for_what_cannot_be_labels():
    for labels, error in (([0.5], TypeError), ([-1], ValueError)):
        with pytest.raises(error, match="labels"):
            vote_shares(np.array([[0]]), labels)


def test_vote_shares_take_no_more_memory_than_their_result():
    indices, labels = np.random.default_rng(0).integers(0, 5000, (2000, 50)), np.arange(5000)
    weights = np.random.default_rng(1).random((2000, 50))
    tracemalloc.start()
    shares = vote_shares(indices, labels, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * shares.nbytes  # one number for each image, neighbour and class would be 50 times as much
    expected = sp.csr_array((weights.ravel(), indices.ravel(), np.arange(2001) * 50), shape=(2000, 5000)).toarray()
    np.testing.assert_allclose(shares, expected, atol=1e-11)


# --- the classifier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "distance", by_rank])
def test_attributions_are_weights_whose_vote_is_the_prediction(ebe, small, weights):
    ebe = clone(ebe).set_params(weights=weights).fit(small[0])
    found = ebe.attributions(small[1].images)
    assert sp.issparse(found) and found.format == "csr" and found.shape == (60, 200)
    dense = found.toarray()
    np.testing.assert_allclose(dense.sum(1), 1)
    assert (dense >= 0).all() and ((dense > 0).sum(1) == 10).all()
    proba = ebe.predict_proba(small[1].images)
    np.testing.assert_allclose(proba, dense @ np.eye(10)[small[0].labels])
    np.testing.assert_array_equal(ebe.predict(small[1].images), proba.argmax(1))
    distances, indices = ebe.kneighbors(small[1].images)
    assert (np.diff(distances) >= 0).all()
    np.testing.assert_allclose(np.take_along_axis(dense, indices, 1), vote_weights(distances, weights))


def test_nnk_votes_are_an_attribution_of_a_part_of_the_k(trained, small):
    ebe = EBEClassifier(trained, layer=14, k=30, weights="nnk").fit(small[0])
    found = ebe.attributions(small[1].images)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found.data > 0).all() and (np.diff(found.indptr) < 30).all()
    np.testing.assert_allclose(ebe.predict_proba(small[1].images), found @ np.eye(10)[small[0].labels])
    train, test = (embed(trained, part.images, 14) for part in small)
    indices = kneighbors(train, test, 30)[1]
    expected = np.zeros((60, 200))
    np.put_along_axis(expected, indices, nnk_weights(train, test, indices), 1)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-7)
    explanation = ebe.explain(small[1].images[3])
    np.testing.assert_allclose(explanation.weights, expected[3][explanation.indices], atol=1e-4)
    assert set(np.flatnonzero(expected[3] > 1e-3)) <= set(explanation.indices) <= set(indices[3])
    assert (explanation.weights > 0).all() and (np.diff(explanation.distances) >= 0).all()
    np.testing.assert_allclose(explanation.proba, explanation.weights @ np.eye(10)[explanation.labels])
    assert len(explanation.examples) == len(explanation.weights) == explanation._repr_html_().count("<tr><td>")
    with pytest.raises(ValueError, match="weights='nnk' compares examples by their angles; pass metric='cosine'"):
        clone(ebe).set_params(metric="euclidean").fit(small[0])


def test_the_mean_of_attributions_at_several_layers_is_one_and_sums_their_votes(trained, small):
    layers, queries = (9, 14, "avgpool"), small[1].images
    both = sum(EBEClassifier(trained, layer=at, k=5).fit(small[0]).attributions(queries) for at in layers) / 3
    assert sp.issparse(both) and both.max() == pytest.approx(1 / 5) and np.diff(both.indptr).max() > 5
    np.testing.assert_allclose(both.sum(1), 1)
    expected = 0
    for at in layers:
        train, test = (embed(trained, part.images, at).astype(float) for part in small)
        knn = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(train, small[0].labels)
        expected = expected + knn.predict_proba(test) / 3
    np.testing.assert_allclose(both @ one_hot(small[0].labels), expected, atol=1e-9)


def test_what_has_no_weight_is_no_part_of_an_explanation(ebe, small):
    nearest = clone(ebe).set_params(weights=lambda d: np.arange(d.shape[1])[None] < np.full((len(d), 1), 3))
    explanation = nearest.fit(small[0]).explain(small[1].images[0])
    np.testing.assert_array_equal(explanation.indices, ebe.explain(small[1].images[0]).indices[:3])
    np.testing.assert_allclose(explanation.weights, 1 / 3)


@pytest.mark.parametrize("layer, metric, pooling", [(14, "cosine", "none"), (3, "euclidean", "none"),
                                                    (9, "manhattan", "avg"), ("layer4", "cosine", "avg")])
def test_predictions_are_scikit_learns_on_the_embeddings(trained, small, layer, metric, pooling):
    ebe = EBEClassifier(trained, layer, k=7, metric=metric, pooling=pooling).fit(small[0])
    images, labels = small[1].images, small[1].labels
    train, test = (embed(trained, part.images, layer, pooling).astype(float) for part in small)
    for weights in ("uniform", "distance", by_rank):
        ebe.set_params(weights=weights)
        knn = KNeighborsClassifier(7, weights=weights, metric=metric, algorithm="brute").fit(train, small[0].labels)
        np.testing.assert_array_equal(ebe.predict(images), knn.predict(test))
        np.testing.assert_allclose(ebe.predict_proba(images)[:, knn.classes_], knn.predict_proba(test), atol=1e-3)
    assert ebe.score(images, labels) == knn.score(test, labels)


def test_of_several_classes_with_most_votes_the_first_wins(points):
    """At distance 1 on either side: the nearest by index has class 1, the next class 0."""
    net, data = points
    ebe = EBEClassifier(net, "flat", k=2, metric="euclidean").fit(data)
    assert ebe.kneighbors([[2., 0.]])[1].tolist() == [[1, 2]]
    assert ebe.predict_proba([[2., 0.]]).tolist() == [[1 / 2, 1 / 2, 0]] and ebe.predict([[2., 0.]]).tolist() == [0]


def test_the_network_speaks_for_itself(ebe, trained, small):
    with torch.inference_mode():
        train, test = (trained(part.images / 255).argmax(1).numpy() for part in small)
    np.testing.assert_array_equal(ebe.network_predict(small[1].images), test)
    np.testing.assert_array_equal(ebe.network_predictions_, train)


def test_attributes_after_fit(ebe, small):
    assert ebe.layer_name_ == "layer3.1.conv1" and ebe.class_names_ == tuple("0123456789")
    assert ebe.classes_.tolist() == list(range(10)) and ebe.train_.images is small[0]
    np.testing.assert_array_equal(ebe.labels_, small[0].labels)


def test_images_in_all_forms_mean_the_same(ebe, small):
    images = small[1].images[:5]
    distances, indices = ebe.kneighbors(images)
    for same in (images.numpy(), images / 255, (images / 255).numpy().astype(np.float64), (images / 255).tolist()):
        again = ebe.kneighbors(same)
        np.testing.assert_array_equal(again[1], indices)
        np.testing.assert_allclose(again[0], distances, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(ebe.kneighbors(images[2])[1], indices[2:3])


def test_a_training_image_is_its_own_nearest_example(ebe, small):
    distances, indices = ebe.kneighbors(small[0].images[:20], k=1)
    assert indices[:, 0].tolist() == list(range(20)) and distances.max() < 1e-5


def test_images_with_labels_instead_of_a_data_set(ebe, small, trained):
    images = small[1].images[:9]
    for given in ((small[0].images, small[0].labels), (small[0].images.numpy(), small[0].labels.tolist()),
                  ((small[0].images, small[0].labels),)):
        found = EBEClassifier(trained).fit(*given)
        np.testing.assert_array_equal(found.predict_proba(images), ebe.predict_proba(images))


def test_the_classifier_follows_scikit_learns_conventions(ebe, points):
    net, data = points
    mine = EBEClassifier(net, "flat", k=2, metric="euclidean")
    assert set(mine.get_params(deep=False)) == {"model", "layer", "k", "metric", "weights", "pooling", "batch_size",
                                                "device", "memory_budget", "describe", "target", "candidates", "choice"}
    copied = clone(mine)
    assert copied.k == 2 and copied.layer == "flat"
    with pytest.raises(NotFittedError):
        copied.predict(data.images)
    assert mine.fit(data) is mine
    assert mine.set_params(k=1).predict(data.images).tolist() == [2, 1, 0, 0, 2]
    np.testing.assert_array_equal(copied.fit(data).kneighbors(data.images)[1], mine.kneighbors(data.images, k=2)[1])


def test_a_failed_fit_leaves_the_classifier_unfitted(points):
    net, data = points
    ebe = EBEClassifier(net, "flat", k=2, metric="euclidean")
    for _ in range(2):
        with pytest.raises(ValueError, match="there are 2 classes"):
            ebe.fit(data.images, data.labels, classes=["a", "b"])
        with pytest.raises(NotFittedError):
            ebe.predict(data.images)
        ebe.fit(data)


def test_the_network_is_not_changed(points):
    net, data = points
    net.train()
    before = copy.deepcopy(net.state_dict())
    ebe = EBEClassifier(net, "flat", k=2).fit(data)
    ebe.explain(data.images[1])
    assert net.training and not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_any_torch_classifier():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 2, 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(OrderedDict(hidden=nn.Linear(5, 16), act=nn.ReLU(), head=nn.Linear(16, 2)))
    ebe = EBEClassifier(net, layer="act", k=3, metric="euclidean").fit(rows, labels)
    hidden = np.maximum(rows @ net.hidden.weight.detach().numpy().T + net.hidden.bias.detach().numpy(), 0)
    knn = KNeighborsClassifier(3).fit(hidden, labels)
    np.testing.assert_array_equal(ebe.predict(rows), knn.predict(hidden))
    assert "an input of shape (5,)" in ebe.explain(rows[0])._repr_html_()


# --- explanations --------------------------------------------------------------------------------------------------


@pytest.fixture
def explanation(points):
    """Of the point (2, 0): distances 1, 1, 2 to the points 1, 2, 0, of classes b, a, <c>."""
    net, data = points
    return EBEClassifier(net, "flat", k=3, metric="euclidean", weights="distance").fit(data).explain([2., 0.])


def test_explanation_by_hand(explanation, points):
    assert explanation.indices.tolist() == [1, 2, 0] and explanation.labels.tolist() == [1, 0, 2]
    np.testing.assert_allclose(explanation.distances, [1, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(explanation.weights, [0.4, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(explanation.proba, [0.4, 0.4, 0.2], rtol=1e-6)
    assert (explanation.network_prediction, explanation.layer, explanation.layer_name, explanation.metric) == (
        1, "flat", "flat", "euclidean")
    assert explanation.classes == ("a", "b", "<c>") and explanation.image.tolist() == [2, 0]
    assert torch.equal(explanation.examples, points[1].images[[1, 2, 0]])


def test_agreement_is_that_of_ebe_and_network(points):
    net, data = points
    ebe = EBEClassifier(net, "flat", k=1, metric="euclidean").fit(data)
    yes, no = ebe.explain(data.images[1]), ebe.explain(data.images[2:3])
    assert (yes.prediction, yes.network_prediction, yes.agreement) == (1, 1, True)
    assert (no.prediction, no.network_prediction, no.agreement) == (0, 1, False)


def test_explanation_agrees_with_the_other_methods(ebe, small):
    image = small[1].images[4]
    explanation = ebe.explain(image)
    np.testing.assert_array_equal(explanation.indices, ebe.kneighbors(image)[1][0])
    np.testing.assert_allclose(explanation.proba, ebe.predict_proba(image)[0])
    assert explanation.prediction == ebe.predict(image)[0]
    assert explanation.network_prediction == ebe.network_predict(image)[0]


def test_explanation_as_text(points):
    net, data = points
    ebe = EBEClassifier(net, "flat", k=2, metric="euclidean", weights="distance").fit(data)
    lines = str(ebe.explain([9., 0.])).splitlines()
    assert lines[0] == "Layer flat (flat). EBE predicts <c> (75% of the weight), the network b: another class."
    assert lines[1].split() == ["rank", "index", "class", "weight", "euclidean", "distance"]
    assert [line.split() for line in lines[2:]] == [["1", "4", "<c>", "0.750", "1.0000"],
                                                    ["2", "3", "a", "0.250", "3.0000"]]
    assert repr(ebe.explain([9., 0.])) == "Explanation(layer='flat', k=2, metric='euclidean')"


def test_explanation_needs_no_images():
    one = np.array([0])
    explanation = Explanation(one, one, one + 1.0, one * 1.0, one + 1.0, 0, 0, ("a",), 1, "conv", "cosine")
    assert "EBE predicts a (100% of the weight), the network a: the same." in str(explanation)


def test_explanation_as_html(explanation, ebe, small):
    found = explanation._repr_html_()
    assert "&lt;c&gt;" in found and "<c>" not in found and found.count("<tr>") == 4
    found = ebe.explain(small[1].images[0])._repr_html_()
    assert found.count("data:image/png;base64,") == 11


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, error, words", [
    ({"k": 0}, ValueError, "k=0"), ({"k": 201}, ValueError, "there are 200 training images"),
    ({"k": "10"}, TypeError, "k='10' is a str"), ({"layer": 21}, ValueError, "from 1 to 20"),
    ({"layer": "layer9"}, ValueError, "Did you mean 'layer"),
    ({"metric": "cos"}, ValueError, "Did you mean 'cosine'"), ({"weights": "even"}, ValueError, "is unknown"),
    ({"pooling": "max"}, ValueError, "is unknown"), ({"batch_size": 0}, ValueError, "of at least 1"),
    ({"device": "gpu"}, ValueError, "cannot be used here")])
def test_parameters_that_are_refused(trained, small, options, error, words):
    """Before any work: the network is not run."""
    seen = []
    handle = trained.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        with pytest.raises(error, match=words):
            EBEClassifier(trained, **options).fit(small[0])
    finally:
        handle.remove()
    assert not seen


@pytest.mark.parametrize("images, error, words", [
    (np.zeros((1, 8, 8), np.uint8), ValueError, r"\(1, 8, 8\) do not fit.*\(1, 28, 28\)"),
    (np.zeros((28, 28), np.uint8), ValueError, r"\(28, 28\) do not fit"),
    (np.zeros((0, 1, 28, 28), np.uint8), ValueError, "are empty"),
    (np.full((1, 28, 28), 255.), ValueError, "between 0 and 1.*Divide by 255"),
    (np.full((1, 28, 28), -0.5), ValueError, "between 0 and 1"),
    (np.full((1, 28, 28), np.nan), ValueError, "NaN"), (np.ones((1, 28, 28), int), TypeError, "dtype torch.int64"),
    (np.full((1, 28, 28), "x"), TypeError, "dtype <U1")])
def test_images_that_are_refused(ebe, images, error, words):
    for method in (ebe.predict, ebe.kneighbors, ebe.attributions, ebe.network_predict, ebe.explain):
        with pytest.raises(error, match=words):
            method(images)


def test_integers_where_the_training_images_are_floats(points):
    net, data = points
    with pytest.raises(TypeError, match="the training images torch.float32"):
        EBEClassifier(net, "flat", k=1).fit(data).predict(np.array([[1, 0]]))


def test_explain_takes_one_image(ebe, small):
    with pytest.raises(ValueError, match="one image, not 2"):
        ebe.explain(small[1].images[:2])


def test_another_layer_after_fit_is_noticed(trained, small):
    ebe = EBEClassifier(trained, layer=14).fit(small[0]).set_params(layer=1)
    with pytest.raises(ValueError, match="fitted with layer=14; call fit again"):
        ebe.predict(small[1].images)
