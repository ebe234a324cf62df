"""NNK votes in a sweep: the same as a classifier's with these weights, at every layer and for every k."""

import numpy as np
import pandas as pd
import pytest

from ebe_utils import EBEClassifier, layer_neighbors, layer_sweep
from ebe_utils.layer_neighbors import PIXELS, LayerNeighbors
from ebe_utils.nnk import _in_groups, with_nnk
from ebe_utils.study.parameters import Parameters
from ebe_utils.tables import save_tables, vote_table
from ebe_utils.votes import SoftmaxWeights, named_weights, nnk_weights, vote_shares

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS, KS = [1, 2], [1, 4, 9]


@pytest.fixture(scope="module")
def case(new_net, stripes):
    """(network, training set, test set, their neighbours with NNK weights)."""
    net = new_net().eval()
    found = layer_neighbors(net, *stripes, LAYERS, k=9, device="cpu", progress=False)
    return net, *stripes, with_nnk(found, net, *stripes, KS, device="cpu")


@pytest.mark.parametrize("weights", ["uniform", "distance", "softmax", "nnk", SoftmaxWeights(0.02)])
def test_a_sweep_says_what_the_classifier_says(case, weights):
    net, train_set, test_set, _ = case
    swept = layer_sweep(net, train_set, test_set, LAYERS, KS, weights=weights, device="cpu", pixels=False,
                        progress=False).set_index(["layer", "k"])
    assert len(swept) == len(LAYERS) * len(KS)
    for layer, k in swept.index:
        ebe = EBEClassifier(net, layer, k, weights=weights, device="cpu").fit(train_set)
        assert swept.loc[(layer, k), "accuracy"] == ebe.score(test_set.images, test_set.labels)
        agreement = (ebe.predict(test_set.images) == ebe.network_predict(test_set.images)).mean()
        assert swept.loc[(layer, k), "agreement"] == agreement


def test_weights_are_those_of_the_k_nearest_alone(case):
    net, train_set, test_set, found = case
    for k in KS:
        ebe = EBEClassifier(net, 2, k, weights="nnk", device="cpu").fit(train_set)
        mine = np.zeros((len(test_set), len(train_set)))
        np.put_along_axis(mine, found.indices[2][:, :k].astype(int), found.weights(2, k, "nnk"), 1)
        np.testing.assert_allclose(mine, ebe.attributions(test_set.images).toarray(), atol=1e-12)
    assert (found.weights(2, 9, "nnk")[:, :4] != found.weights(2, 4, "nnk")).any()


def test_pixels_have_weights_too(case):
    _, train_set, test_set, found = case
    rows, queries = (part.images.flatten(1).numpy().astype(np.float32) / 255 for part in (train_set, test_set))
    expected = nnk_weights(rows, queries, found.indices[PIXELS][:, :4])
    np.testing.assert_allclose(found.weights(PIXELS, 4, "nnk"), expected, atol=1e-9)


def test_votes_and_explanations_follow_from_the_weights(case):
    _, train_set, test_set, found = case
    votes = found.votes(1, "nnk", KS)
    for i, k in enumerate(KS):
        shares = vote_shares(found.indices[1][:, :k], train_set.labels, found.nnk[1][k])
        assert votes[:, i].tolist() == shares.argmax(1).tolist()
        x = found.explain(train_set, test_set, 3, 1, k, "nnk")
        assert x.prediction == votes[3, i] and x.weights.sum() == pytest.approx(1) and (x.weights > 0).all()
    assert found.accuracy(1, 4, "nnk") == (votes[:, 1] == test_set.labels).mean()


def test_what_was_not_computed_is_refused(case):
    net, train_set, test_set, found = case
    with pytest.raises(ValueError, match="no NNK weights of 3 examples at layer 1, but of 1, 4, 9"):
        found.votes(1, "nnk", [3])
    bare = layer_neighbors(net, train_set, test_set, LAYERS, k=9, metric="euclidean", progress=False)
    with pytest.raises(ValueError, match="of 4 examples at layer 2, but of none"):
        bare.explain(train_set, test_set, 0, 2, 4, "nnk")
    with pytest.raises(ValueError, match="pass metric='cosine' with it, not 'euclidean'"):
        with_nnk(bare, net, train_set, test_set, [1])
    with pytest.raises(ValueError, match="k=10 is out of range"):
        with_nnk(found, net, train_set, test_set, [10])
    with pytest.raises(ValueError, match="weights='nnk' compares examples by their angles"):
        layer_sweep(net, train_set, test_set, LAYERS, KS, "manhattan", "nnk")


def test_layers_in_groups_give_the_same_weights(case):
    net, train_set, test_set, found = case
    again = with_nnk(found, net, train_set, test_set, KS, memory_budget=1e-9, device="cpu")  # one layer at a time
    for layer, by_k in found.nnk.items():
        for k, weights in by_k.items():
            np.testing.assert_array_equal(again.nnk[layer][k], weights)


def test_layers_come_in_groups_that_fit():
    sizes = {"a": 1, "b": 1, "c": 2, 7: 1}
    assert _in_groups(sizes, 10, 35) == [["a", "b"], ["c", 7]]
    assert _in_groups(sizes, 10, -1) == [["a"], ["b"], ["c"], [7]]
    assert _in_groups(sizes, 10, 50) == [["a", "b", "c", 7]]


def test_are_saved_and_shown_with_the_examples(case, tmp_path):
    _, train_set, test_set, found = case
    found.save(tmp_path / "found.safetensors")
    again = LayerNeighbors.load(tmp_path / "found.safetensors")
    for layer in found.names:
        assert list(again.nnk[layer]) and {*again.nnk[layer]} == {*KS}
        for k in KS:
            np.testing.assert_array_equal(again.nnk[layer][k], found.nnk[layer][k])
    save_tables(found, tmp_path, "nnk")
    swept = pd.read_csv(tmp_path / "sweep.csv")
    assert swept["k"].unique().tolist() == KS
    assert set(pd.read_csv(tmp_path / "votes.csv")["weights"]) == {"uniform", "distance", "softmax", "nnk"}
    kept = LayerNeighbors.of_examples(found.examples([5, 2], 4), swept, train_set, test_set)
    for i, position in enumerate((5, 2)):
        one, other = kept.explain(train_set, test_set.subset([5, 2]), i, 2, 4, "nnk"), found.explain(
            train_set, test_set, position, 2, 4, "nnk")
        np.testing.assert_allclose(one.weights, other.weights)
    assert "nnk" not in found.examples([5], 3)


def test_tables_take_names_or_named_weights(case):
    found = case[3]
    names = vote_table(found, [4], ["softmax", "nnk"])
    named = vote_table(found, [4], {"softmax": SoftmaxWeights(), "nnk": "nnk"})
    pd.testing.assert_frame_equal(names, named)
    assert list(named_weights("distance")) == ["distance"]


@pytest.mark.parametrize("weights", ["uniform", "distance", "softmax", "nnk"])
def test_a_run_takes_all_names(weights):
    assert Parameters(weights=weights).sweep_step == ("sweep" if weights == "uniform" else f"sweep-{weights}")


def test_a_run_refuses_others():
    with pytest.raises(ValueError, match="weights='nnk' compares examples by their angles; pass metric='cosine'"):
        Parameters(weights="nnk", metric="euclidean")
    with pytest.raises(ValueError, match="Did you mean 'softmax'"):
        Parameters(weights="softmac")
