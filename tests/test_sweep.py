"""Step 6: every layer and every k from one pass, against the classifier and scikit-learn."""

import copy
import itertools
import re
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ebe_utils import EBEClassifier, ImageSet, embed, layer_neighbors, layer_sweep, sweep_table, train
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.memory import Plan
from ebe_utils.passes import together
from ebe_utils.tables import joint_correctness, save_tables, vote_table
from ebe_utils.upkeep.benchmark_engines import FaissFlat, ScikitLearn

pytestmark = pytest.mark.usefixtures("one_thread")

K = 15


@pytest.fixture(scope="module")
def found(trained, small):
    return layer_neighbors(trained, *small, k=K, progress=False)


@pytest.fixture(scope="module")
def table(found):
    return sweep_table(found, range(1, K + 1))


def row(table, layer, k):
    return table[(table["layer"] == layer) & (table["k"] == k)].iloc[0]


def test_neighbors_of_every_layer_are_scikit_learns(found, trained, small, same_neighbors):
    train, test = (embed(trained, part.images) for part in small)
    assert list(found.names) == list(range(21)) and found.names[14] == "layer3.1.conv1"
    for layer in range(1, 21):
        assert found.indices[layer].shape == found.distances[layer].shape == (60, K)
        assert same_neighbors(found.indices[layer], train[layer], test[layer], "cosine", rtol=2e-5) < 0.01
        assert found.dimensions[layer] == train[layer].shape[1]


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_neighbors_by_other_metrics(trained, small, metric, same_neighbors):
    found = layer_neighbors(trained, *small, [14, "avgpool"], 5, metric, pixels=False, shard=70, progress=False)
    assert list(found.names) == [14, "avgpool"] and found.metric == metric
    for layer in found.names:
        train, test = (embed(trained, part.images, layer) for part in small)
        assert same_neighbors(found.indices[layer], train, test, metric, rtol=2e-5) < 0.01


@pytest.mark.parametrize("layer, k", [(1, 1), (8, 4), (14, 10), (20, 15)])
def test_accuracy_and_agreement_are_the_classifiers(table, trained, small, layer, k):
    ebe = EBEClassifier(trained, layer, k).fit(small[0])
    predicted, network = ebe.predict(small[1].images), ebe.network_predict(small[1].images)
    line = row(table, layer, k)
    assert line["accuracy"] == (predicted == small[1].labels).mean()
    assert line["agreement"] == (predicted == network).mean()
    assert line["network_accuracy"] == (network == small[1].labels).mean()
    assert line["name"] == ebe.layer_name_ and line["dimension"] == ebe._index.shape[1]


def test_raw_pixels_are_layer_0(table, small):
    train, test = (part.images.numpy().reshape(len(part), -1) / 255 for part in small)
    for k in (1, 5, 15):
        knn = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, small[0].labels)
        assert row(table, 0, k)["accuracy"] == knn.score(test, small[1].labels)
    assert row(table, 0, 1)["name"] == "pixels" and row(table, 0, 1)["dimension"] == 784


def test_the_table_is_tidy(table):
    assert list(table.columns) == ["layer", "name", "dimension", "k", "accuracy", "agreement", "where wrong",
                                   "network_accuracy"]
    assert len(table) == 21 * K and not table[["layer", "k"]].duplicated().any()
    assert table["network_accuracy"].nunique() == 1


def test_agreement_where_the_network_is_wrong(found, table, small):
    wrong = found.network != small[1].labels
    assert wrong.any()
    for layer, k in ((0, 1), (14, 5), (20, K)):
        said = found.votes(layer)[:, k - 1]
        assert row(table, layer, k)["where wrong"] == pytest.approx(np.mean(said[wrong] == found.network[wrong]))
    right = replace(found, test_labels=found.network)
    assert sweep_table(right, [1])["where wrong"].isna().all()


def test_layer_sweep_is_neighbors_and_table_in_one(table, trained, small):
    found = layer_sweep(trained, *small, layers=[8, 14], ks=(3, 10), progress=False)
    assert len(found) == 6
    for _, line in found.iterrows():
        assert line["accuracy"] == row(table, line["layer"], line["k"])["accuracy"]


@pytest.mark.parametrize("weights", ["distance", lambda d: np.exp(-d / d.max(1, keepdims=True))])
def test_weighted_votes_are_the_classifiers(found, trained, small, weights):
    for layer, k in ((14, 10), (3, 4), (20, 1)):
        expected = EBEClassifier(trained, layer, k, weights=weights).fit(small[0]).predict(small[1].images)
        np.testing.assert_array_equal(found.votes(layer, weights)[:, k - 1], expected)
        assert found.accuracy(layer, k, weights) == (expected == small[1].labels).mean()


def test_one_pass_over_each_set(trained, small):
    seen = []
    handle = trained.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        layer_neighbors(trained, *small, k=3, batch_size=100, progress=False)
    finally:
        handle.remove()
    assert seen == [1, 1, 60, 100, 100]  # dimensions, memory of one image, the test images, the training images


@pytest.fixture
def no_memory_yet(monkeypatch):
    """Budgets count what the process has already, which differs from test to test."""
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))
    monkeypatch.setattr("ebe_utils.memory.psutil.Process", lambda: process)
    monkeypatch.setattr("ebe_utils.memory._FIXED", 0)


@pytest.mark.parametrize("engine, budget, most", [("torch", 0.15, 4), ("torch", 0.085, 12), ("bounded", 0.02, 9)])
def test_several_passes_give_the_same(found, trained, small, no_memory_yet, engine, budget, most, caplog):
    caplog.set_level("INFO", "ebe_utils")
    seen = []
    handle = trained.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        again = layer_neighbors(trained, *small, k=K, engine=engine, memory_budget=budget, shard=64, batch_size=32)
    finally:
        handle.remove()
    passes = int(re.search(r"(\d+) passes", caplog.text)[1])
    assert 1 < passes <= most and 260 * 2 <= sum(seen) <= 2 + 260 * passes
    close = [np.mean(again.indices[layer] != found.indices[layer]) for layer in found.names]
    assert max(close) < 0.01  # batches of another size are rounded differently
    np.testing.assert_array_equal(again.network, found.network)


def test_plans(no_memory_yet):
    dimensions = {1: 65536, 2: 65536, 20: 2048}
    whole = Plan.of(dimensions, 50_000, 10_000, 50, memory_budget=64)
    assert len(whole.passes) == 1 and whole.passes[0] == ([1, 2, 20], slice(0, 10_000))
    assert "1 pass over 50,000 training images" in str(whole) and whole.peak < 64 * 2**30
    tight = Plan.of(dimensions, 50_000, 10_000, 50, memory_budget=4)
    assert tight.peak <= tight.budget == 4 * 2**30 and 1 < len(tight.passes) <= 3
    split = Plan.of(dimensions, 50_000, 10_000, 50, memory_budget=1)
    assert split.peak <= 2**30
    for layer in dimensions:  # each layer meets each test image once
        parts = sorted((part.start, part.stop) for layers, part in split.passes if layer in layers)
        assert parts[0][0] == 0 and parts[-1][1] == 10_000
        assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))
    with pytest.raises(ValueError, match="too small for layer 1: it takes .* pooling='avg'"):
        Plan.of(dimensions, 50_000, 10_000, 50, memory_budget=0.05)
    with pytest.raises(ValueError, match="memory_budget=0 is out of range"):
        Plan.of(dimensions, 50_000, 10_000, 50, memory_budget=0)


@pytest.mark.parametrize("engine", ["bounded", FaissFlat, ScikitLearn])
def test_every_engine_finds_the_same(found, trained, small, engine):
    again = layer_neighbors(trained, *small, k=K, engine=engine, progress=False)
    for layer in found.names:
        np.testing.assert_array_equal(again.indices[layer], found.indices[layer])
        np.testing.assert_allclose(again.distances[layer], found.distances[layer], rtol=2e-7)
        assert 0 < again.notes[layer]["exact"] <= 1


class Half(ScikitLearn):
    """Every other neighbour only, as an approximate search might find."""

    def result(self):
        distances, indices = super().result()
        return np.repeat(distances[:, ::2], 2, 1)[:, :self.k], np.repeat(indices[:, ::2], 2, 1)[:, :self.k]

    def notes(self):
        return {"recall": 0.5}


def test_an_approximate_engine_says_how_good_it_is(trained, small):
    found = layer_neighbors(trained, *small, [1, 14], k=K, engine=Half, pixels=False, progress=False)
    assert (sweep_table(found, [1, K])["recall"] == 0.5).all()
    with joblib.parallel_config("threading", n_jobs=1):
        parts = layer_neighbors(trained, *small, [14], k=K, engine=Half, pixels=False, parts=2, batch_size=100,
                                progress=False)
    assert parts.notes[14]["recall"] == 0.5
    assert together([{"directions": 4, "exact": 0.2, "recall": 0.9, "seconds": 2},
                      {"directions": 8, "exact": 0.4, "recall": 0.7, "seconds": 3}]
                     ) == {"directions": 4, "exact": pytest.approx(0.3), "recall": 0.7, "seconds": 5}
    assert "recall" not in sweep_table(layer_neighbors(trained, *small, [14], k=K, progress=False), [1])


def test_the_plan_counts_what_an_engine_holds(no_memory_yet):
    """An engine that does not say is taken to hold every row, and a copy of it in float64."""
    peaks = [Plan.of({14: 1000}, 20_000, 100, 10, engine, memory_budget=8).peak
             for engine in (FaissFlat, ScikitLearn, lambda *given: ScikitLearn(*given))]
    assert peaks[1] - peaks[0] == 16 * 1000 * 20_000 == peaks[2] - peaks[0]


def test_parts_searched_by_other_processes_give_the_same(trained, small):
    options = {"k": K, "engine": "torch", "batch_size": 32, "progress": False}
    one = layer_neighbors(trained, *small, **options)
    with joblib.parallel_config("loky", n_jobs=2):
        several = layer_neighbors(trained, *small, parts=3, **options)
    for layer in one.names:
        np.testing.assert_array_equal(several.indices[layer], one.indices[layer])
        np.testing.assert_array_equal(several.distances[layer], one.distances[layer])
    np.testing.assert_array_equal(several.network, one.network)


def test_a_cluster_that_loses_a_worker_finds_the_same(trained, small, losing_a_worker):
    options = {"k": K, "engine": "bounded", "batch_size": 8, "progress": False}
    one = layer_neighbors(trained, *small, **options)
    several = losing_a_worker(lambda: layer_neighbors(trained, *small, parts=8, **options), after=0.5)
    for layer in one.names:
        np.testing.assert_array_equal(several.indices[layer], one.indices[layer])
        np.testing.assert_array_equal(several.distances[layer], one.distances[layer])


@pytest.mark.parametrize("shard, batch_size", [(1, 13), (10_000, 256)])
def test_shards_and_batches_do_not_matter(found, trained, small, shard, batch_size):
    again = layer_neighbors(trained, *small, [1, 14], K, shard=shard, batch_size=batch_size, progress=False)
    for layer in (0, 1, 14):
        assert (again.indices[layer] != found.indices[layer]).mean() < 0.01
        np.testing.assert_allclose(again.distances[layer], found.distances[layer], rtol=1e-3, atol=1e-6)


def test_explanations_are_the_classifiers(found, trained, small):
    ebe = EBEClassifier(trained, 14, 6, weights="distance").fit(small[0])
    expected = ebe.explain(small[1].images[11])
    mine = found.explain(*small, 11, layer=14, k=6, weights="distance")
    np.testing.assert_array_equal(mine.indices, expected.indices)
    np.testing.assert_array_equal(mine.labels, expected.labels)
    for name in ("weights", "distances", "proba"):
        np.testing.assert_allclose(getattr(mine, name), getattr(expected, name), rtol=1e-3, atol=1e-6)
    for name in ("prediction", "network_prediction", "classes", "layer", "layer_name", "metric"):
        assert getattr(mine, name) == getattr(expected, name)
    assert torch.equal(mine.image, expected.image) and torch.equal(mine.examples, expected.examples)


def test_explanations_decide_ties_as_the_votes_do():
    """Sums of shares like 1/11 depend on the order of summation, counts of votes do not."""
    rng = np.random.default_rng(0)
    n, k, labels = 400, 23, np.arange(50) % 4
    data = ImageSet(np.zeros((50, 1, 2, 2), np.uint8), labels)
    test = data.subset(np.arange(n) % 50)
    found = LayerNeighbors({1: "conv"}, {1: rng.integers(0, 50, (n, k))}, {1: np.sort(rng.random((n, k)), 1)}, labels,
                           test.labels, test.labels, {1: 4})
    for j in (11, 22, 23):
        counts = np.array([np.bincount(labels[row], minlength=4) for row in found.indices[1][:, :j]])
        np.testing.assert_array_equal(found.votes(1)[:, j - 1], counts.argmax(1))
        mine = [found.explain(data, test, i, layer=1, k=j).prediction for i in range(n)]
        np.testing.assert_array_equal(mine, counts.argmax(1))


def test_votes_by_hand():
    found = LayerNeighbors({1: "conv"}, {1: np.array([[3, 0, 1, 2]])}, {1: np.array([[1., 2., 2.5, 4.]])},
                           np.array([0, 0, 1, 2]), np.array([0]), np.array([2]), {1: 4})
    assert found.votes(1).tolist() == [[2, 0, 0, 0]]  # 2 | 2 0: a tie, the smaller | 2 0 0 | 2 0 0 1
    assert found.votes(1, "distance").tolist() == [[2, 2, 2, 2]]  # 1 for class 2, 1/2 + 1/2.5 for class 0
    assert (found.accuracy(1, 1), found.accuracy(1, 2), found.network_accuracy) == (0, 1, 0)


def test_saved_neighbors_come_back(found, tmp_path):
    found.save(tmp_path / "neighbors.safetensors")
    again = LayerNeighbors.load(tmp_path / "neighbors.safetensors")
    assert (again.names, again.dimensions, again.metric) == (found.names, found.dimensions, found.metric)
    for layer in found.names:
        np.testing.assert_array_equal(again.indices[layer], found.indices[layer])
        np.testing.assert_array_equal(again.distances[layer], found.distances[layer])
        assert again.indices[layer].dtype == np.int32 and again.distances[layer].dtype == np.float32
    assert sweep_table(again, (1, 10)).equals(sweep_table(found, (1, 10)))


def test_a_metric_that_is_a_function_is_explained_by_its_name_and_not_saved(trained, small, tmp_path):
    by_function = layer_neighbors(trained, *small, [14], 3, cosine_distances, progress=False)
    explanation = by_function.explain(*small, 0, 14, 3)
    assert explanation.metric == "cosine_distances" and "cosine_distances distance" in str(explanation)
    with pytest.raises(ValueError, match="the function 'cosine_distances', which no file can hold"):
        by_function.save(tmp_path / "neighbors.safetensors")
    assert not [*tmp_path.iterdir()]


def test_layers_given_as_an_array_can_be_saved(trained, small, tmp_path):
    found = layer_neighbors(trained, *small, np.array([2, 14]), 3, pixels=False, progress=False)
    found.save(tmp_path / "neighbors")
    assert LayerNeighbors.load(tmp_path / "neighbors").names == {2: "layer1.0.conv1", 14: "layer3.1.conv1"}


def test_files_that_are_no_saved_neighbors(found, tmp_path):
    path = tmp_path / "neighbors.safetensors"
    with pytest.raises(FileNotFoundError):
        LayerNeighbors.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="neighbors.safetensors"):
        LayerNeighbors.load(path)
    found.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="neighbors.safetensors is damaged"):
        LayerNeighbors.load(path)


@pytest.mark.parametrize("options, error, words", [
    ({"layers": [21]}, ValueError, "from 1 to 20"), ({"layers": [0]}, ValueError, "from 1 to 20"),
    ({"layers": 3.5}, TypeError, "layers=3.5 is a float"), ({"layers": None}, TypeError, "layers=None"),
    ({"layers": []}, ValueError, "layers is empty"), ({"layers": ["conv9"]}, ValueError, "is no module"),
    ({"ks": []}, ValueError, "ks is empty"), ({"ks": [0, 3]}, ValueError, "k=0"),
    ({"ks": [201]}, ValueError, "there are 200 training images"), ({"ks": [1.5]}, TypeError, "is a float"),
    ({"metric": "cosines"}, ValueError, "Did you mean 'cosine'"), ({"pooling": "max"}, ValueError, "is unknown"),
    ({"batch_size": 0}, ValueError, "of at least 1"), ({"weights": "even"}, ValueError, "is unknown")])
def test_what_a_sweep_refuses(trained, small, options, error, words):
    """Before any work: the network is run on one image at most, to learn its dimensions and memory."""
    seen = []
    handle = trained.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        with pytest.raises(error, match=words):
            layer_sweep(trained, *small, **{"layers": [20], "ks": [1], "pixels": False, "progress": False} | options)
    finally:
        handle.remove()
    assert sum(seen) <= 2


def test_test_images_of_another_size_are_refused(trained, small):
    with pytest.raises(ValueError, match=r"\(1, 8, 8\) do not fit training images of shape \(1, 28, 28\)"):
        layer_sweep(trained, small[0], ImageSet(np.zeros((2, 8, 8), np.uint8), [0, 1]))


def test_more_examples_than_were_searched(found, small):
    for ask in (lambda: sweep_table(found, [16]), lambda: found.explain(*small, 0, k=16)):
        with pytest.raises(ValueError, match="from 1 to 15 .so many neighbours were searched; .* k=16"):
            ask()


def test_explanations_of_what_was_not_searched(found, small):
    with pytest.raises(ValueError, match="layer=21 was not searched; choose one of"):
        found.explain(*small, 0, layer=21)
    for position in (-1, len(small[1])):
        with pytest.raises(ValueError, match=f"position={position} is out of range"):
            found.explain(*small, position)


PEAK = """
import sys
import numpy as np
from ebe_utils import ImageSet, layer_neighbors, resnet18_for
from ebe_utils.memory import peak_memory

budget = float(sys.argv[1]) or None
rng = np.random.default_rng(0)
kinds = rng.integers(60, 196, (10, 1, 28, 28))  # each brighter or darker: noise of its own would cost a long search
train, test = (ImageSet((kinds[np.arange(n) % 10] + rng.integers(-60, 60, (n, 1, 1, 1))).astype(np.uint8),
                        np.arange(n) % 10) for n in (4096, 256))
found = layer_neighbors(resnet18_for(train), train, test, range(1, 8), 10, engine="bounded", memory_budget=budget)
print("peak", peak_memory() / 2**10)
"""


def test_the_memory_budget_is_kept():
    """Measured, in a process of its own; without a budget the same sweep takes more."""
    def peak(budget):
        done = subprocess.run([sys.executable, "-c", PEAK, str(budget)], capture_output=True, text=True, check=True)
        return float(re.search(r"peak ([\d.]+)", done.stdout)[1])

    assert peak(1.4) <= 1.4 < peak(0)


# --- networks of other classes, broken layers, mismatched sets -----------------------------------------------------


@pytest.fixture(scope="module")
def thousand(small):
    """A network with 1,000 outputs, the last of which it always predicts, for ten classes of digits."""
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3, stride=2), relu=nn.ReLU(), flat=nn.Flatten(),
                                    head=nn.Linear(4 * 13 * 13, 1000)))
    with torch.no_grad():
        net.head.bias[999] = 1e6
    return layer_neighbors(net.eval(), *small, ["conv"], 5, progress=False)


def test_a_network_of_other_classes_is_swept_without_agreement(thousand, small, tmp_path):
    assert (thousand.n_outputs, thousand.n_classes, thousand.same_classes) == (1000, 10, False)
    table = sweep_table(thousand, [1, 5])
    assert table[["agreement", "network_accuracy"]].isna().all(axis=None) and np.isnan(thousand.network_accuracy)
    for k in (1, 5):
        assert row(table, "conv", k)["accuracy"] == (thousand.votes("conv")[:, k - 1] == small[1].labels).mean() > 0.5
    votes = vote_table(thousand, [1, 5], {"uniform": "uniform"})
    assert votes["agreement"].isna().all() and votes["accuracy"].tolist() == table["accuracy"].tolist()
    assert "network" not in joint_correctness(thousand, [1])
    thousand.save(tmp_path / "neighbors")
    again = LayerNeighbors.load(tmp_path / "neighbors")
    assert again == thousand and not again.same_classes


def test_the_networks_own_classes_are_known(found, tmp_path):
    assert (found.n_outputs, found.n_classes, found.same_classes) == (10, 10, True)
    assert LayerNeighbors({}, {}, {}, *[np.zeros(1)] * 3, {}).same_classes, "unknown numbers speak against nothing"


def test_single_logits_are_swept(small):
    """Class 1 where the logit is positive."""
    pair = [ImageSet(part.images[part.labels < 2], part.labels[part.labels < 2]) for part in small]
    net = nn.Sequential(nn.Conv2d(1, 2, 5, stride=3), nn.Flatten(), nn.Linear(2 * 8 * 8, 1)).eval()
    with torch.inference_mode():
        z = net(pair[1].images / 255)[:, 0]
        net[2].bias -= z.median()
        expected = net(pair[1].images / 255)[:, 0] > 0
    found = layer_neighbors(net, *pair, [1], 3, progress=False)
    np.testing.assert_array_equal(found.network, expected)
    assert 0 < expected.sum() < len(expected) and found.same_classes


def test_a_layer_with_broken_output_is_named(trained, small):
    """In place of neighbours that are the same for every image."""
    net = copy.deepcopy(trained)
    with torch.no_grad():
        net.layer3[1].conv1.weight[7] = float("nan")
    for layers in ([14], [2, 14]):
        with pytest.raises(ValueError, match="the output of layer 14 holds NaN or infinity .first for input 0."):
            layer_neighbors(net, *small, layers, 5, progress=False)


@pytest.mark.parametrize("change, error, words", [
    (lambda test: ImageSet(test.images * 0.9, test.labels), ValueError, "between 0 and 1, like the training images"),
    (lambda test: (test.images.float(), test.labels), ValueError, "whole numbers from 0 to 255"),
    (lambda test: (test.images.long(), test.labels), TypeError, "int64"),
    (lambda test: (test.images.numpy().astype(np.uint16), test.labels), TypeError, "uint16"),
    (lambda test: ImageSet(test.images, test.labels + 1, tuple("abcdefghijk")), ValueError, "run up to 10, but"),
    (lambda test: ImageSet(test.images[..., 1:], test.labels), ValueError, "do not fit training images of shape"),
    (lambda test: ImageSet(test.images, test.labels, test.classes[::-1]), ValueError, "in different orders")])
def test_test_images_of_another_kind_are_refused(trained, small, change, error, words):
    for sweep in (lambda test: layer_sweep(trained, small[0], test, [14], [1]),
                  lambda test: layer_neighbors(trained, small[0], test, [14], 1),
                  lambda test: train(trained, small[0], test, epochs=1, progress=False)):
        with pytest.raises(error, match=words):
            sweep(change(small[1]))


@pytest.mark.parametrize("options, words", [
    ({"ks": None}, "ks=None is a NoneType"), ({"ks": "10"}, "ks='10' is a str"), ({"ks": 2.5}, "ks=2.5 is a float"),
    ({"metric": None}, "metric=None is unknown"), ({"metric": ["cosine"]}, "is unknown"), ({"weights": 3}, "weights=3"),
    ({"pixels": "no"}, "pixels='no' is a str"), ({"progress": 1}, "progress=1 is a int"),
    ({"parts": 1.5}, "parts=1.5 is a float"), ({"engine": None}, "engine=None is unknown")])
def test_options_of_the_wrong_type_are_refused(trained, small, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        layer_sweep(trained, *small, **{"layers": [20], "ks": [1], "progress": False} | options)


def test_a_single_k_may_be_given_as_it_is(trained, small):
    assert layer_sweep(trained, *small, layers=[20], ks=3, progress=False)["k"].tolist() == [3, 3]


def test_progress_of_a_sweep(trained, small, capsys, caplog):
    caplog.set_level("INFO", "ebe_utils")
    seen = []
    layer_neighbors(trained, *small, [20], 1, batch_size=100,
                    progress=lambda done, total: seen.append((done, total)))
    assert seen == [(60, 260), (160, 260), (260, 260)]
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
    assert "2 layers, 1,296 dimensions: 1 pass over 200 training images" in caplog.text
    layer_neighbors(trained, *small, [20], 1, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "260/260" in shown.err


def test_sweeps_are_equal_if_all_they_hold_is(found):
    same = replace(found, indices={layer: rows.copy() for layer, rows in found.indices.items()}, notes={})
    assert found == same and found != "found"
    other = dict(found.distances)
    other[14] = other[14] + 1
    for changed in ({"distances": other}, {"metric": "euclidean"}, {"network": found.network[::-1]}, {"n_outputs": 11},
                    {"names": {}}, {"train_labels": found.train_labels[:-1]}):
        assert found != replace(found, **changed)
    with pytest.raises(TypeError, match="unhashable"):
        hash(found)


def test_questions_about_what_was_not_searched(found):
    for ask in (lambda: found.votes(99), lambda: found.accuracy("conv1", 1), lambda: found.votes([14])):
        with pytest.raises(ValueError, match="was not searched; choose one of 0, 1"):
            ask()
    with pytest.raises(ValueError, match="k=0 is out of range"):
        found.accuracy(14, 0)


# --- tables that are kept ------------------------------------------------------------------------------------------


def test_joint_correctness_counts_pairs(found, small):
    both, labels = joint_correctness(found, [1, K]), small[1].labels
    assert list(both) == list(both.index) == ["all", "network",
                                            *(f"{layer}/{k}" for layer in range(21) for k in (1, K))]
    right = {"network": found.network == labels, "0/1": found.votes(0)[:, 0] == labels,
             f"14/{K}": found.votes(14)[:, K - 1] == labels}
    for (a, here), (b, there) in itertools.product(right.items(), repeat=2):
        assert both.loc[a, b] == sum(here & there)
        assert both.loc["all", a] == both.loc[a, a] == sum(here)
    assert both.loc["all", "all"] == len(labels)


def test_vote_table_is_the_sweep_table_with_effective_numbers(found):
    several = {"uniform": "uniform", "distance": "distance",
               "first": lambda d: np.eye(d.shape[1])[np.zeros(len(d), int)]}
    votes = vote_table(found, [1, 5], several).set_index(["weights", "layer", "k"]).sort_index()
    for name, how in several.items():
        expected = sweep_table(found, [1, 5], how).set_index(["layer", "k"])
        for column in ("accuracy", "agreement"):
            np.testing.assert_allclose(votes.loc[name, column], expected[column])
    np.testing.assert_allclose(votes.loc["uniform", "effective"], [1, 5] * 21)
    np.testing.assert_allclose(votes.loc["first", "effective"], 1)
    share = 1 / found.distances[14][:, :5].astype(float)
    share /= share.sum(1, keepdims=True)
    assert votes.loc[("distance", 14, 5), "effective"] == pytest.approx((1 / (share**2).sum(1)).mean())


def test_examples_are_enough_to_explain(found, small):
    examples = found.examples([7, 2], 4)
    assert list(examples["position"].unique()) == [7, 2] and len(examples) == 2 * 21 * 4
    few = LayerNeighbors.of_examples(examples, sweep_table(found, [1]), *small)
    pair = small[1].subset([7, 2])
    for place, position in enumerate((7, 2)):
        for layer in (0, 14):
            mine, whole = few.explain(small[0], pair, place, layer, 4), found.explain(*small, position, layer, 4)
            np.testing.assert_array_equal(mine.indices, whole.indices)
            np.testing.assert_array_equal(mine.distances, whole.distances)
            assert (mine.prediction, mine.network_prediction) == (whole.prediction, whole.network_prediction)
            assert mine.layer_name == whole.layer_name
            assert torch.equal(mine.image, whole.image)
    assert few.dimensions == found.dimensions


def test_tables_are_saved(found, tmp_path):
    save_tables(found, tmp_path, "distance")
    table = pd.read_csv(tmp_path / "sweep.csv")
    np.testing.assert_allclose(table["accuracy"], sweep_table(found, range(1, K + 1), "distance")["accuracy"])
    together = pd.read_csv(tmp_path / "together.csv", index_col=0)
    assert together.equals(joint_correctness(found, [1, 3, 5, 10], "distance"))
    assert set(pd.read_csv(tmp_path / "votes.csv")["weights"]) == {"uniform", "distance", "softmax"}
