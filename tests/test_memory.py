"""What a sweep may take: the memory there is, the measured forward pass, and the plan made of both."""

import sys
import tracemalloc
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from ebe_utils import ImageSet, layer_neighbors
from ebe_utils.activations import peak_activations
from ebe_utils.embeddings import probe
from ebe_utils.layer_neighbors import LayerNeighbors
from ebe_utils.memory import Plan, available_memory, row_parts
from ebe_utils.tables import vote_table
from ebe_utils.votes import SoftmaxWeights, one_hot, vote_weights

pytestmark = pytest.mark.usefixtures("one_thread")
GIB = 2**30
MODULE = sys.modules["ebe_utils.layer_neighbors"]  # the package gives the name to the function


# --- the memory there is -------------------------------------------------------------------------------------------


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V2 = {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/memory.max": "max\n",
      "sys/fs/cgroup/pod/box/memory.current": "5000\n", "sys/fs/cgroup/pod/memory.max": "9000\n",
      "sys/fs/cgroup/pod/memory.current": "6000\n", "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 500\n"}
V1 = {"proc/self/cgroup": "4:memory:/box\n1:cpu:/box\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
      "sys/fs/cgroup/memory/memory.stat": "inactive_file 9\ntotal_inactive_file 200\n"}


@pytest.mark.parametrize("files, expected", [
    (V2, 9000 - 6000 + 500), (V1, 7000 - 6000 + 200), ({}, 10**6), ({"proc/self/cgroup": "0::/\n"}, 10**6),
    (V2 | {"sys/fs/cgroup/pod/memory.max": "max\n"}, 10**6),
    (V2 | {"sys/fs/cgroup/pod/box/memory.max": "5100\n", "sys/fs/cgroup/pod/box/memory.stat": "anon 1\n"}, 100),
    (V2 | {"sys/fs/cgroup/pod/memory.max": "5000\n", "sys/fs/cgroup/pod/memory.stat": "anon 1\n"}, 0),
    (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 10**6)])
def test_a_containers_limit_counts(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("ebe_utils.memory.psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    write(tmp_path, files)
    assert available_memory(tmp_path) == expected


def test_the_default_budget_is_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr("ebe_utils.memory.available_memory", lambda: 8 * GIB)
    monkeypatch.setattr("ebe_utils.memory.psutil.Process", lambda: SimpleNamespace(
        memory_info=lambda: SimpleNamespace(rss=GIB)))
    assert Plan.of({1: 10}, 100, 10, 5).budget == 5 * GIB


# --- the forward pass ----------------------------------------------------------------------------------------------


def test_peak_by_hand():
    """A chain needs an input and an output at a time, a residual block one more; views and in-place work nothing."""
    x = torch.rand(1, 1000)
    wide, narrow = nn.Linear(1000, 3000), nn.Linear(3000, 500)
    with torch.inference_mode():
        assert peak_activations(lambda: narrow(wide(x))) == 4 * (3000 + 500)
        assert peak_activations(lambda: wide(x).relu_().view(30, 100)) == 4 * 3000
        assert peak_activations(lambda: [x + 1 for _ in range(3)]) == 4 * 3000
        assert peak_activations(lambda: (x * 2, x * 3)[0] + (x * 4)) == 4 * 1000 * 3
        assert peak_activations(lambda: [(x + 1).sum() for _ in range(9)]) <= 4 * (1000 + 9)


def test_the_peak_of_an_image_grows_with_its_size(tiny_net):
    (small, few), (large, many) = (probe(tiny_net, torch.rand(2, 1, side, side), [1]) for side in (32, 64))
    assert (small[1], large[1]) == (4 * 32**2, 4 * 64**2)
    assert many == pytest.approx(4 * few, rel=0.1) and few >= 2 * 4 * 4 * 32**2  # a convolution's output, normalised


MODELS = {"resnet50": "layer4", "mobilenet_v3_small": "features.8", "efficientnet_b0": "features.4",
          "convnext_tiny": "features.7", "swin_t": "features.7"}


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_large_images_are_swept_with_the_defaults(name, monkeypatch):
    """On a machine with 4 GiB free, where 256 images of 224 by 224 would not fit."""
    monkeypatch.setattr("ebe_utils.memory.available_memory", lambda: 4 * GIB)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = getattr(torchvision.models, name)(num_classes=2).eval()
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 224, 224)).astype(np.uint8)
    data = ImageSet(images, np.arange(12) % 2)
    found = layer_neighbors(net, data, data, [MODELS[name]], 1, pooling="avg", pixels=False, progress=False)
    np.testing.assert_array_equal(found.indices[MODELS[name]][:, 0], np.arange(12))
    assert found.dimensions[MODELS[name]] < 2500
    peak = probe(net, data.images, [MODELS[name]], "avg")[1]
    plan = Plan.of(found.dimensions, 10_000, 1000, 1, forward=peak)
    assert 8 <= plan.batch_size < 256 and plan.peak <= plan.budget


@pytest.fixture
def nothing_taken(monkeypatch):
    monkeypatch.setattr("ebe_utils.memory.psutil.Process", lambda: SimpleNamespace(
        memory_info=lambda: SimpleNamespace(rss=0)))


def test_the_batch_shrinks_until_its_forward_pass_fits(nothing_taken):
    plans = [Plan.of({1: 512}, 10_000, 1000, 10, memory_budget=budget, forward=10 * 2**20)
             for budget in (32, 4, 1, 0.3)]
    sizes = [plan.batch_size for plan in plans]
    assert sizes[0] == 256 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 8
    assert all(plan.peak <= plan.budget and len(plan.passes) == 1 for plan in plans)
    assert Plan.of({1: 512}, 30, 12, 10, memory_budget=32, forward=2**20).batch_size == 30, "no more than there are"
    assert "in batches of 30" in str(Plan.of({1: 512}, 30, 12, 10, memory_budget=32))


@pytest.mark.parametrize("dimensions, options, words", [
    ({1: 10, 2: 10**7}, {}, "too small for layer 2: .* allow more, or pass pooling='avg'"),
    ({1: 10, 2: 10**7}, {"pooling": "avg"}, r"too small for layer 2: .* allow more\."),
    ({0: 10**7, 1: 10}, {}, "too small for the pixels .layer 0.: .* pixels=False"),
    ({0: 10**4, 1: 10}, {"forward": GIB}, "too small for the forward pass of one image: .* smaller images")])
def test_what_does_not_fit_is_named(nothing_taken, dimensions, options, words):
    with pytest.raises(ValueError, match=words):
        Plan.of(dimensions, 10_000, 1000, 10, memory_budget=1.2, **options)


# --- votes ---------------------------------------------------------------------------------------------------------


def test_rows_in_parts():
    assert list(row_parts(10, 8, 32)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(row_parts(2, 10**9)) == [slice(0, 1), slice(1, 2)] and list(row_parts(0, 8)) == []


@pytest.fixture(scope="module")
def many_classes():
    rng = np.random.default_rng(0)
    n, k, train = 300, 9, np.r_[np.arange(1000), rng.integers(0, 1000, 500)]
    return LayerNeighbors({1: "conv"}, {1: rng.integers(0, 1500, (n, k))}, {1: np.sort(rng.random((n, k)), 1)}, train,
                          rng.integers(0, 1000, n), rng.integers(0, 1000, n), {1: 4})


@pytest.mark.parametrize("weights", ["uniform", "distance", SoftmaxWeights()], ids=["uniform", "distance", "function"])
def test_votes_in_parts_are_the_votes_of_all(many_classes, weights, monkeypatch):
    labels = one_hot(many_classes.train_labels)[many_classes.indices[1]]
    expected = np.stack([np.einsum("nk,nkc->nc", vote_weights(many_classes.distances[1][:, :k], weights),
                                   labels[:, :k]).argmax(1) for k in range(1, 10)], 1)
    for size in (2**20, 2**26, 2**40):
        monkeypatch.setattr(MODULE, "row_parts", lambda n, each, size=size: row_parts(n, each, size))
        np.testing.assert_array_equal(many_classes.votes(1, weights), expected)
        table = vote_table(many_classes, [1, 9], {"w": weights})
        assert table["accuracy"].tolist() == [(expected[:, k - 1] == many_classes.test_labels).mean() for k in (1, 9)]


def test_votes_of_many_classes_are_counted_in_bounded_memory():
    """4,000 images with 20 of 1,000 classes: all one-hot labels at once would be 640 MB."""
    rng = np.random.default_rng(0)
    found = LayerNeighbors({1: "conv"}, {1: rng.integers(0, 1000, (4000, 20))}, {1: rng.random((4000, 20))},
                           np.arange(1000), np.zeros(4000, int), np.zeros(4000, int), {1: 4})
    for call in (lambda: found.votes(1), lambda: found.votes(1, "distance"),
                 lambda: vote_table(found, [20], {"uniform": "uniform"})):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6


# --- devices without float64 ---------------------------------------------------------------------------------------


def test_embeddings_are_searched_where_there_is_float64(stripes, monkeypatch):
    """The network stays where it is; buffers of embeddings are made on the device that float64 is added up on."""
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(64, 3)))
    asked = []
    monkeypatch.setattr("ebe_utils.passes.float64_device", lambda device: asked.append(device) or
                        torch.device("cpu"))
    monkeypatch.setattr(MODULE, "float64_device", lambda device: asked.append(device) or
                        torch.device("cpu"))
    monkeypatch.setattr(MODULE, "check_engine", lambda engine, metric, device: asked.append(device))
    found = layer_neighbors(net, *stripes, ["flat"], 2, pixels=False, progress=False)
    assert asked == [torch.device("cpu")] * 4  # the engine's device, the engine, queries and training rows
    assert found.indices["flat"].shape == (21, 2)


def test_a_budget_below_what_the_process_has_is_refused(monkeypatch):
    monkeypatch.setattr("ebe_utils.memory.psutil.Process", lambda: SimpleNamespace(
        memory_info=lambda: SimpleNamespace(rss=2 * GIB)))
    with pytest.raises(ValueError, match="memory_budget=2.10 GiB is too small for the search of any layer.* 2.00 that"):
        Plan.of({1: 10}, 100, 10, 5, memory_budget=2.1)
