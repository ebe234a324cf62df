"""EBE as quanda calls an explainer: shapes, sums and ranks without quanda; its own metrics where it is installed."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.utils.data import TensorDataset

from ebe_utils import EBEClassifier, embed, one_hot
from ebe_utils.data import scale
from ebe_utils.label_errors import flip_labels
from ebe_utils.quanda_adapter import EBEExplainer, ranked_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def as_dataset(images, labels=None):
    return TensorDataset(scale(images.images), torch.from_numpy(images.labels if labels is None else labels))


@pytest.fixture(scope="module")
def explained(trained, small):
    """(explainer, classifier, queries) at layer 14 with uniform weights."""
    train, test = small
    return (EBEExplainer(trained, as_dataset(train), layer=14, k=7), EBEClassifier(trained, 14, 7).fit(train),
            scale(test.images))


def test_rows_are_the_attributions_with_their_ranks(explained, small):
    explainer, classifier, queries = explained
    scores = explainer.explain(queries, torch.zeros(len(queries)))
    assert scores.shape == (len(queries), len(small[0])) and scores.dtype == torch.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(scores, classifier.attributions(small[1].images).toarray(), atol=1e-3 / 7)
    # quanda's top-k gets the neighbours in their order: nearest first, although their weights are equal.
    np.testing.assert_array_equal(scores.topk(7, 1).indices, classifier.kneighbors(small[1].images)[1])


def test_ranked_weights_keep_order_sum_and_zeros():
    weights = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.5, 0.0, 0.4], [0.0, 0.0, 0.0, 0.0], [0.3, 0.4, 0.3, 0.0]])
    found = ranked_weights(weights)
    np.testing.assert_allclose(found.sum(1), weights.sum(1), rtol=1e-12)
    assert [np.argsort(-row, kind="stable").tolist() for row in found] == [[0, 1, 2, 3], [1, 3, 0, 2], [0, 1, 2, 3],
                                                                         [1, 0, 2, 3]]
    assert found[3, 0] > found[3, 2] and (found[weights == 0] == 0).all()
    np.testing.assert_allclose(found, weights, rtol=1e-3)
    # Many equal weights stay in order in float32, which is what quanda gets.
    many = ranked_weights(np.full((1, 500), 1 / 500)).astype(np.float32)
    assert (np.diff(many[0]) < 0).all()


def test_weights_that_differ_are_ranked_by_weight(trained, small):
    explainer = EBEExplainer(trained, as_dataset(small[0]), layer=14, k=20, weights="nnk")
    queries = scale(small[1].images[:10])
    scores, weights = explainer.explain(queries).numpy(), explainer.classifier.attributions(queries).toarray()
    np.testing.assert_allclose(scores, weights, rtol=1e-3)
    assert ((weights > 0).sum(1) < 20).any()  # NNK leaves some of the twenty without weight
    for row, expected in zip(scores, weights, strict=True):
        best = np.argsort(-expected, kind="stable")[:(expected > 0).sum()]
        assert np.argsort(-row, kind="stable")[:len(best)].tolist() == best.tolist()


def test_signed_rows_are_the_votes_for_and_against(trained, small):
    train, test = small
    explainer = EBEExplainer(trained, as_dataset(train), layer=14, k=7, signed=True)
    targets = torch.arange(len(test)) % 10
    shares = EBEClassifier(trained, 14, 7).fit(train).attributions(test.images) @ one_hot(train.labels, 10)
    chosen = shares[np.arange(len(test)), targets]
    scores = explainer.explain(scale(test.images), targets)
    np.testing.assert_allclose(scores.sum(1), 2 * chosen - 1, atol=2e-3)
    with pytest.raises(ValueError, match="signed attributions need targets"):
        explainer.explain(scale(test.images))


def test_the_network_s_answer_may_be_explained(trained, small):
    explainer = EBEExplainer(trained, as_dataset(small[0]), layer=14, k=5, target="network", candidates=30)
    found = EBEClassifier(trained, 14, 5, target="network", candidates=30).fit(small[0]).explain_batch(small[1].images)
    chosen = explainer.explain(scale(small[1].images)).topk(5, 1).indices.numpy()
    np.testing.assert_array_equal(chosen, found.indices)


def test_the_last_checkpoint_is_loaded(new_net, stripes, tmp_path):
    nets = [new_net(seed=seed).eval() for seed in (0, 1, 2)]
    files = [str(tmp_path / f"{i}.pt") for i in range(3)]
    for net, file in zip(nets, files, strict=True):
        torch.save(net.state_dict(), file)
    data, queries = as_dataset(stripes[0]), scale(stripes[1].images)
    wanted = EBEExplainer(nets[2], data, layer=2, k=3).explain(queries)
    net = new_net(seed=0).eval()
    torch.testing.assert_close(EBEExplainer(net, data, files, layer=2, k=3).explain(queries), wanted)
    called = []
    EBEExplainer(net, data, files, lambda model, file: called.append((model, file)), layer=2, k=3)
    assert called == [(net, files[2])]
    with pytest.raises(ValueError, match="task='causal_lm'"):
        EBEExplainer(net, data, task="causal_lm")


@pytest.mark.parametrize("settings", [{}, {"target": "network", "candidates": 4}])
def test_self_influence_is_what_the_others_say_of_the_label(trained, small, settings):
    train = small[0]
    labels, flipped = flip_labels(train.labels, 0.1, 10, seed=1)
    explainer = EBEExplainer(trained, as_dataset(train, labels), layer="avgpool", k=4, **settings)
    found = explainer.self_influence().numpy()
    assert found.shape == (200,) and explainer.classifier.k == 4
    rows = embed(trained, train.images, "avgpool")
    near = NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows).kneighbors(rows)[1]
    others = np.stack([row[row != i][:4] for i, row in enumerate(near)])
    against = (labels[others] != labels[:, None]).mean(1)
    if not settings:
        assert (np.abs(found - against) < 1e-6).mean() > 0.98  # but for neighbours that are equally far
    assert found[flipped].mean() > found[~flipped].mean() + 0.2


def test_quandas_own_metrics_take_it(trained, small, tmp_path):
    pytest.importorskip("quanda", reason="quanda is not installed; docs/guide.md has its environment")
    from quanda.metrics.downstream_eval import ClassDetectionMetric, MislabelingDetectionMetric
    from quanda.metrics.heuristics import ModelRandomizationMetric, TopKCardinalityMetric

    train, test = small
    data, queries = as_dataset(train), scale(test.images)
    explainer = EBEExplainer(trained, data, layer=14, k=5)
    scores = explainer.explain(queries)
    near = explainer.classifier.kneighbors(queries)[1]
    detection = ClassDetectionMetric(trained, data, s=3)
    detection.update(scores, torch.from_numpy(test.labels))
    by_hand = (train.labels[near[:, :3]] == test.labels[:, None]).mean()
    assert detection.compute()["score"] == pytest.approx(by_hand, abs=1e-6)
    cardinality = TopKCardinalityMetric(trained, data, top_k=5)
    cardinality.update(scores)
    assert cardinality.compute()["score"] == pytest.approx(len(np.unique(near)) / near.size)
    file = str(tmp_path / "network.pt")
    torch.save(trained.state_dict(), file)
    randomised = ModelRandomizationMetric(trained, "net", str(tmp_path), data, [file], EBEExplainer,
                                          {"layer": 14, "k": 5})
    randomised.update(scores[:10], queries[:10], torch.zeros(10, dtype=torch.long))
    assert -1 <= randomised.compute()["score"] < 1
    labels, flipped = flip_labels(train.labels, 0.1, 10)
    wrong = MislabelingDetectionMetric(
        trained, as_dataset(train, labels), np.flatnonzero(flipped).tolist(), EBEExplainer, {"layer": 14, "k": 5})
    assert wrong.compute()["score"] > 0.6
