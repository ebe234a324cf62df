"""ResNet18 with other shortcuts: what a block adds, and how its layers are judged."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ebe_utils.data import scale
from ebe_utils.datasets import load_dataset
from ebe_utils.geometry import layer_geometry
from ebe_utils.model import resnet18_for
from ebe_utils.study.condition_figures import shortcuts_figure
from ebe_utils.study.recipes import DEFAULT
from ebe_utils.study.shortcuts import (
    SHORTCUTS,
    block_layers,
    block_use,
    blocks_table,
    judge_shortcuts,
    resnet18_with,
    shortcuts_table,
)
from ebe_utils.training import evaluate, train
from ebe_utils.upkeep import conditions


@pytest.fixture(scope="module")
def small():
    return load_dataset("digits", n_train=120, n_test=40)


@pytest.mark.parametrize("shortcuts, convolutions", [(DEFAULT, 20), ("convolutions", 25), ("inputs", 17), ("none", 17)])
def test_all_else_is_as_in_the_usual_network(small, shortcuts, convolutions):
    model, usual = resnet18_with(shortcuts, small[0], seed=3), resnet18_for(small[0], seed=3)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions
    mine = model.state_dict()
    for name, value in usual.state_dict().items():
        if name in mine:
            torch.testing.assert_close(mine[name], value)
    assert {name for name in usual.state_dict() if ".downsample" not in name} <= set(mine)
    assert model(scale(small[0].images[:4])).shape == (4, 10)
    assert shortcuts in SHORTCUTS


def block_without_its_shortcut(block, x):
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


@pytest.mark.parametrize("shortcuts", SHORTCUTS)
def test_what_each_block_adds(small, shortcuts):
    model = resnet18_with(shortcuts, small[0]).eval()
    for block in (model.layer2[1], model.layer3[0]):  # one of equal sizes, and one that halves
        x = torch.randn(2, block.conv1.in_channels, 5, 5, generator=torch.Generator().manual_seed(0))
        added = torch.zeros(2, block.conv2.out_channels, *((3, 3) if block is model.layer3[0] else (5, 5)))
        if shortcuts == "inputs" or (shortcuts == DEFAULT and block is model.layer2[1]):
            added[:, :x.shape[1]] = x[:, :, ::block.stride, ::block.stride]
        elif shortcuts != "none":
            conv, norm = block.downsample
            assert conv.kernel_size == (1, 1) and isinstance(norm, nn.BatchNorm2d)
            added = norm(F.conv2d(x, conv.weight, stride=block.stride))
        torch.testing.assert_close(block(x), F.relu(block_without_its_shortcut(block, x) + added))


def test_shortcuts_that_there_are_not(small):
    with pytest.raises(ValueError, match="there are no shortcuts 'all'; choose one of as here, convolutions"):
        resnet18_with("all", small[0])


@pytest.mark.parametrize("shortcuts", ["convolutions", "none"])
def test_layers_have_the_papers_numbers(small, shortcuts):
    table = judge_shortcuts(shortcuts, *small, epochs=1, seed=1).set_index("layer")
    assert sorted(table.index) == [6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20]
    assert table["network"].nunique() == 1 and table["network"].between(0, 1).all()
    model = train(resnet18_with(shortcuts, small[0], 1), small[0], epochs=1, seed=1, progress=False)
    expected = layer_geometry(model, *small, ["layer3.1.conv2"]).iloc[0]
    assert table.loc[15, "top"] == pytest.approx(expected["top"]) and block_layers(small[0])["layer3.1.conv2"] == 15


def test_table_by_hand():
    rows = [{"dataset": "mnist", "images": 900, "epochs": 2, "optimizer": "adam", "shortcuts": kind, "seed": seed,
             "layer": layer, "network": 0.5, "top": top, "raw": 0.25, "whitened": 0.5 + seed / 10, "branch": top / 4,
             "without": 0.5 - top / 2}
            for kind, top in (("as here", 0.8), ("none", 0.2)) for seed in (0, 1) for layer in (7, 10, 12, 15, 17, 20)]
    found, blocks = shortcuts_table(pd.DataFrame(rows)), blocks_table(pd.DataFrame(rows))
    for table in (found, blocks):
        assert table.iloc[:, :7].values.tolist() == [["mnist", 900, 2, "adam", "as here", 2, "50.0"],
                                                     ["mnist", 900, 2, "adam", "none", 2, "50.0"]]
    assert found["layer 15"].tolist() == ["80 / +30.0", "20 / +30.0"]
    assert blocks["layer 15"].tolist() == ["20 / -40.0", "5 / -10.0"]


def test_figure_draws_the_table():
    table = pd.DataFrame([{"dataset": "mnist", "images": 9000, "optimizer": optimizer, "shortcuts": "as here",
                           "seed": seed, "layer": layer, "network": 0.5, "top": top + seed / 10, "raw": 0.25,
                           "whitened": 0.5, "branch": 0.5, "without": 0.5 - top / 2}
                          for optimizer, top in (("adam", 0.8), ("sgd", 0.2)) for seed in (0, 1)
                          for layer in (6, 7, 10, 12, 15, 17, 20)])
    figure = shortcuts_figure(table)
    for panel, adam, sgd in zip(figure.axes, (85, 25, -40), (25, 25, -10), strict=True):
        lines = {line.get_label(): line.get_xydata() for line in panel.lines}
        for label, height in (("mnist, 9,000, adam", adam), ("mnist, 9,000, sgd", sgd)):
            np.testing.assert_allclose(lines[label], [(place, height) for place in range(6)])
    plt.close(figure)


@pytest.mark.parametrize("shortcuts", SHORTCUTS)
def test_what_a_block_is_used_for(small, shortcuts):
    """By hand: both summands of a block as the network computes them, and the network with one exchanged."""
    model = train(resnet18_with(shortcuts, small[0]), small[0], epochs=1, progress=False).eval()
    found = block_use(model, *small).set_index("layer")
    assert list(found.index) == [f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)]
    block, given = model.layer3[1], []
    hook = block.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    with torch.inference_mode():
        for part in small:
            model(scale(part.images))
        hook.remove()
        own, other = (summand(given[0]) for summand in (lambda x: block_without_its_shortcut(block, x),
                                                        block.downsample or (lambda x: x)))
        parts = [float(summand.flatten(1).var(0).sum()) if summand.ndim else 0.0 for summand in (own, other)]
        x = F.relu(own.mean(0) + (block.downsample or (lambda x: x))(given[1]))
        if len(x) != len(small[1]):  # without a shortcut all images are alike from here on
            x = x.expand(len(small[1]), -1, -1, -1)
        answers = model.fc(model.avgpool(model.layer4(x)).flatten(1)).argmax(1)
    assert found.loc["layer3.1.conv2", "branch"] == pytest.approx(parts[0] / sum(parts), rel=1e-4)
    assert found.loc["layer3.1.conv2", "without"] == pytest.approx((answers.numpy() == small[1].labels).mean())
    assert all(not module._forward_hooks for module in model.modules())


def test_a_block_that_adds_nothing_is_not_missed(small):
    model = train(resnet18_with(DEFAULT, small[0]), small[0], epochs=1, progress=False)
    with torch.no_grad():
        model.layer3[1].bn2.weight.zero_()
    found = block_use(model, *small).set_index("layer").loc["layer3.1.conv2"]
    assert found["branch"] == 0 and found["without"] == evaluate(model, small[1])["test_accuracy"]


def test_networks_are_kept_once(tmp_path, monkeypatch):
    trained = []

    def judged(shortcuts, train_set, test_set, epochs, seed, optimizer):
        trained.append((shortcuts, len(train_set), len(test_set), epochs, seed, optimizer))
        return pd.DataFrame({"layer": [15], "top": [0.5]})

    monkeypatch.setattr(conditions, "judge_shortcuts", judged)
    for shortcuts, seed, optimizer in (("none", 0, "adam"), ("inputs", 0, "adam"), ("none", 0, "adam"),
                                       ("none", 1, "adam"), ("none", 1, "sgd")):
        conditions.keep_shortcuts("digits", shortcuts, seed, optimizer, tmp_path, 100, 50, 2)
    assert trained == [("none", 100, 50, 2, 0, "adam"), ("inputs", 100, 50, 2, 0, "adam"),
                       ("none", 100, 50, 2, 1, "adam"), ("none", 100, 50, 2, 1, "sgd")]
    kept = pd.read_csv(tmp_path / "blocks.csv")
    assert kept.values.tolist() == [
        ["digits", 100, 2, optimizer, shortcuts, seed, 15, 0.5] for shortcuts, _, _, _, seed, optimizer in trained]
