"""Sweeps of the network's own answer: the classifier's choice at every layer, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from ebe_utils import EBEClassifier, layer_neighbors, layer_sweep, select
from ebe_utils.forward import predict_logits
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.network_sweep import for_network, with_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(trained, small):
    return layer_neighbors(trained, *small, [3, 14, "avgpool"], k=30, pixels=False, progress=False)


def test_the_logits_of_both_sets_are_kept(found, trained, small, tmp_path):
    for logits, part in ((found.train_logits, small[0]), (found.network_logits, small[1])):
        np.testing.assert_allclose(logits, predict_logits(trained, part.images), rtol=1e-4, atol=1e-4)
    found.save(tmp_path / "n.safetensors")
    again = LayerNeighbors.load(tmp_path / "n.safetensors")
    assert again == found
    np.testing.assert_array_equal(again.train_logits, found.train_logits)


def test_logits_do_not_depend_on_parts_and_passes(found, trained, small):
    pieces = layer_neighbors(trained, *small, [3, 14, "avgpool"], k=30, pixels=False, progress=False, parts=3)
    assert pieces == found
    np.testing.assert_allclose(pieces.train_logits, found.train_logits, rtol=1e-4, atol=1e-4)
    assert pieces.train_logits.argmax(1).tolist() == found.train_logits.argmax(1).tolist()


@pytest.mark.parametrize("layer", [3, 14, "avgpool"])
@pytest.mark.parametrize("choice", ["influence", "answers"])
def test_every_layer_chooses_as_the_classifier_does(found, trained, small, layer, choice):
    known = with_features(found, trained, *small) if choice == "influence" else found
    mine = for_network(known, 30, 10, choice)
    for k in (1, 4, 10):
        ebe = EBEClassifier(trained, layer, k, target="network", candidates=30, choice=choice).fit(small[0])
        theirs = ebe.explain_batch(small[1].images)
        np.testing.assert_array_equal(np.sort(mine.indices[layer][:, :k], 1), np.sort(theirs.indices, 1))
        np.testing.assert_array_equal(mine.votes(layer, ks=[k])[:, 0], theirs.prediction)
    # Distances stay with their examples.
    for i in (0, 7):
        there = dict(zip(found.indices[layer][i].tolist(), found.distances[layer][i].tolist(), strict=True))
        assert [there[j] for j in mine.indices[layer][i].tolist()] == mine.distances[layer][i].tolist()


@pytest.mark.parametrize("choice", ["influence", "answers"])
def test_a_sweep_and_a_choice_of_the_networks_answer(trained, small, choice):
    plain = layer_sweep(trained, *small, [3, 14], [5], progress=False, pixels=False)
    options = {"target": "network", "candidates": 30, "choice": choice}
    table = layer_sweep(trained, *small, [3, 14], [5], progress=False, pixels=False, **options)
    for layer in (3, 14):
        ebe = EBEClassifier(trained, layer, 5, **options).fit(small[0])
        agreement = ebe.explain_batch(small[1].images).agreement.mean()
        assert table.set_index("layer")["agreement"][layer] == pytest.approx(agreement)
    assert table["agreement"].mean() > plain["agreement"].mean()
    streams = [TensorDataset(part.images.float() / 255, torch.from_numpy(part.labels)) for part in small]
    if choice == "answers":
        again = layer_sweep(trained, *streams, [3, 14], [5], **options)
        np.testing.assert_allclose(again["agreement"], table["agreement"])
    else:
        with pytest.raises(ValueError, match="choice='answers'"):
            layer_sweep(trained, *streams, [3, 14], [5], **options)
    options["candidates"] = 20
    chosen = select(trained, small[0], [3, 14], [5], "cosine", "uniform", criterion="agreement", **options)
    assert options.items() <= chosen.settings.items()
    assert chosen.score == chosen.table["agreement"].max()
    ebe = chosen.classifier(trained, small[0])
    assert (ebe.target, ebe.candidates, ebe.choice) == ("network", 20, choice)


@pytest.mark.parametrize("call, words", [
    (lambda found, net, small: for_network(found, 31), "candidates=31.*so many neighbours were searched"),
    (lambda found, net, small: for_network(found, 10, 11), "k=11.*there are 10 candidates"),
    (lambda found, net, small: for_network(found, 10, 5, "shares"), "divides each number of examples anew"),
    (lambda found, net, small: for_network(found, 10, 5), "goes into the network's last layer"),
    (lambda found, net, small: layer_sweep(net, *small, [14], [5], target="network", choice="x"), "choice='x'"),
    (lambda found, net, small: layer_sweep(net, *small, [14], [5], target="netwrok"), "Did you mean 'network'"),
    (lambda found, net, small: layer_sweep(net, *small, [14], [5], target="network", candidates=10**6), "1000000"),
    (lambda found, net, small: layer_sweep(None, ({"a": np.eye(3)}, [0, 1, 2]), ({"a": np.eye(3)}, [0, 1, 2]), ks=[1],
                                           target="network"), "pass a network"),
    (lambda found, net, small: select(net, small[0], [14], [5], target="network", candidates=10**6), "1000000")])
def test_what_is_refused(found, trained, small, call, words):
    with pytest.raises(ValueError, match=words):
        call(found, trained, small)


def test_features_bring_the_logits_along_where_they_lack(found, trained, small):
    bare = with_features(replace(found, train_logits=None, network_logits=None), trained, *small)
    np.testing.assert_allclose(bare.train_logits, found.train_logits, rtol=1e-4, atol=1e-4)
    assert [len(part) for part in bare.features] == [len(part) for part in small]


def test_neighbours_of_an_earlier_version_say_what_they_lack(found):

    with pytest.raises(ValueError, match="what the network says of every example"):
        for_network(replace(found, train_logits=None), 10, 5)
