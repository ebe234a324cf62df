"""Layer 15, by intervention: ResNet18 with other shortcuts, and how the outputs of its blocks' convolutions then lie.

A block adds what its second convolution puts out to its shortcut. In five of ResNet18's eight blocks the shortcut is
the block's input itself; in the three that halve the size (layers 6 and 7, 11 and 12, 16 and 17) it is a convolution.
"""

from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from ..data import ImageSet
from ..geometry import layer_geometry
from ..layers import conv_layers
from ..model import resnet18_for
from ..training import evaluate, train
from .recipes import DEFAULT

SHORTCUTS = {DEFAULT: "the input in five blocks, a convolution in three", "convolutions": "a convolution in all blocks",
             "inputs": "the input in all blocks, thinned out and filled up with zeros where sizes differ",
             "none": "no shortcut in any block"}
SECOND = (7, 10, 12, 15, 17, 20)  # the second convolutions of blocks, from the second stage on


class Thinned(nn.Module):
    """Every second position, with channels of zeros added: a shortcut without weights (He et al. 2016, option A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, ⌈h/2⌉, ⌈w/2⌉) from (n, fewer channels, h, w)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.channels - x.shape[1]))


class Nothing(nn.Module):
    """A shortcut that adds nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A zero, without dimensions."""
        return x.new_zeros(())


def resnet18_with(shortcuts: str, train_set: ImageSet, seed: int = 0) -> Any:
    """An untrained ResNet18 whose blocks have one of `SHORTCUTS`; all else begins as in `resnet18_for`."""
    if shortcuts not in SHORTCUTS:
        raise ValueError(f"there are no shortcuts {shortcuts!r}; choose one of {', '.join(SHORTCUTS)}.")
    model: Any = resnet18_for(train_set, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for block in stage:
                channels = block.conv2.out_channels
                if shortcuts == "none":
                    block.downsample = Nothing()
                elif shortcuts == "inputs" and block.downsample is not None:
                    block.downsample = Thinned(channels)
                elif shortcuts == "convolutions" and block.downsample is None:
                    conv = nn.Conv2d(channels, channels, 1, bias=False)
                    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                    block.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))
    return model


def block_layers(train_set: ImageSet) -> dict[str, int]:
    """{module name: the paper's number} of the convolutions within blocks, from the second stage (layer 6) on."""
    numbers = conv_layers(resnet18_for(train_set))
    return {name: number for number, name in numbers.items() if number > 5 and ".downsample" not in name}


def judge_shortcuts(shortcuts: str, train_set: ImageSet, test_set: ImageSet, epochs: int, seed: int = 0,
                    ) -> pd.DataFrame:
    """Train a ResNet18 with such shortcuts by the default recipe: a row for each of `block_layers`.

    Columns: layer (the paper's number), network (its accuracy, 0 to 1), and those of `layer_geometry`.
    """
    model = train(resnet18_with(shortcuts, train_set, seed), train_set, epochs=epochs, seed=seed, progress=False)
    numbers = block_layers(train_set)
    table = layer_geometry(model, train_set, test_set, list(numbers))
    return table.assign(layer=table["layer"].map(numbers), network=evaluate(model, test_set)["test_accuracy"])


def shortcuts_table(table: pd.DataFrame) -> pd.DataFrame:
    """What is shown of `judge_shortcuts` of several networks: a row for each data set and kind of shortcuts.

    table: with columns dataset, shortcuts and seed. network: mean accuracy in per cent; a column for each second
    convolution: the mean share of the variance in two directions, and what cosine votes lack there, as the accuracy
    after whitening minus that before, in points, over the seeds.
    """
    rows = []
    for (dataset, shortcuts), part in table.groupby(["dataset", "shortcuts"], sort=False):
        mean = part.groupby("layer")[["network", "top", "raw", "whitened"]].mean() * 100
        lacks = mean["whitened"] - mean["raw"]
        rows.append({"data set": dataset, "shortcuts": shortcuts, "seeds": part["seed"].nunique(),
                     "network": f"{mean['network'].iloc[0]:.1f}",
                     **{f"layer {layer}": f"{mean['top'][layer]:.0f} / {lacks[layer]:+.1f}" for layer in SECOND}})
    return pd.DataFrame(rows)
