"""Layer 15, by intervention: ResNet18 with other shortcuts, how the outputs of its blocks' convolutions then lie, and
what the network is without one of its blocks.

A block adds the output of its second convolution to its shortcut. In five of ResNet18's eight blocks the shortcut is
the block's input itself; in the three that halve the size (layers 6 and 7, 11 and 12, 16 and 17) it is a convolution.
"""

from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from ..data import ImageSet
from ..embeddings import embed
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


def block_use(model: nn.Module, train_set: ImageSet, test_set: ImageSet) -> pd.DataFrame:
    """What each block of a ResNet18 adds to its shortcut, and what the network is without: a row for each block.

    Columns: layer (module name of its second convolution); branch, of the variances of both summands, after batch
    normalisation, the share of the block's own (1 without a shortcut); without, the network's accuracy on the test
    images with the block's own summand held at its mean over the training images. From 0 to 1.
    """
    rows, before = [], "maxpool"
    for name, block in model.named_modules():
        if not isinstance(block, BasicBlock):
            continue
        own = torch.from_numpy(embed(model, train_set, f"{name}.bn2"))  # (n, channels * h * w)
        mean, variance, shortcut = own.mean(0), own.var(0).sum().item(), 0.0
        if not isinstance(block.downsample, Nothing):
            added = f"{name}.downsample" if block.downsample is not None else before
            shortcut = torch.from_numpy(embed(model, train_set, added)).var(0).sum().item()
        with block.bn2.register_forward_hook(
                lambda _, __, out, mean=mean: mean.to(out).view(out.shape[1:]).repeat(len(out), 1, 1, 1)):
            without = evaluate(model, test_set)["test_accuracy"]
        rows.append({"layer": f"{name}.conv2", "branch": variance / (variance + shortcut), "without": without})
        before = name
    return pd.DataFrame(rows)


def judge_shortcuts(shortcuts: str, train_set: ImageSet, test_set: ImageSet, epochs: int, seed: int = 0,
                    optimizer: str = "adam") -> pd.DataFrame:
    """Train a ResNet18 with such shortcuts, by the default recipe but for the optimizer: a row for each `block_layers`.

    Columns: see `judge_blocks`.
    """
    model = train(resnet18_with(shortcuts, train_set, seed), train_set, epochs=epochs, seed=seed, optimizer=optimizer,
                  progress=False)
    return judge_blocks(model, train_set, test_set)


def judge_blocks(model: nn.Module, train_set: ImageSet, test_set: ImageSet, queries: ImageSet | None = None
                 ) -> pd.DataFrame:
    """The convolutions within the blocks of a trained ResNet18, a row for each of `block_layers`.

    Columns: layer (the paper's number), network (its accuracy on the test images, 0 to 1), those of `layer_geometry`,
    and, for the second convolution of each block, those of `block_use`. queries: the images whose neighbours the
    geometry is about (default: the test images).
    """
    numbers = block_layers(train_set)
    table = layer_geometry(model, train_set, test_set if queries is None else queries, list(numbers))
    table = table.merge(block_use(model, train_set, test_set), "left", "layer")
    return table.assign(layer=table["layer"].map(numbers), network=evaluate(model, test_set)["test_accuracy"])


def shortcuts_table(table: pd.DataFrame) -> pd.DataFrame:
    """What is shown of `judge_shortcuts` of several networks: a row for each data set, number of training images and
    epochs, optimizer and kind of shortcuts.

    table: with columns dataset, images, epochs, optimizer, shortcuts and seed. network: mean accuracy in per cent; a
    column for each second convolution: the mean share of the variance in two directions, and what cosine votes lack
    there, as the accuracy after whitening minus that before, in points, over the seeds.
    """
    return _by_layer(table, lambda mean, layer: (f"{mean['top'][layer]:.0f} / "
                                                 f"{mean['whitened'][layer] - mean['raw'][layer]:+.1f}"))


def blocks_table(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as in `shortcuts_table`; in a column for each block's second convolution: the block's share of the variance
    of both summands, in per cent, and how the network's accuracy changes without the block, in points."""
    return _by_layer(table, lambda mean, layer: (f"{mean['branch'][layer]:.0f} / "
                                                 f"{mean['without'][layer] - mean['network'][layer]:+.1f}"))


def _by_layer(table, cell):
    rows, about = [], ["dataset", "images", "epochs", "optimizer", "shortcuts"]
    for values, part in table.groupby(about, sort=False):
        mean = part.drop(columns=about).groupby("layer").mean() * 100
        rows.append({**dict(zip(about, values, strict=True)), "seeds": part["seed"].nunique(),
                     "network": f"{mean['network'].iloc[0]:.1f}",
                     **{f"layer {layer}": cell(mean, layer) for layer in SECOND}})
    return pd.DataFrame(rows).rename(columns={"dataset": "data set"})
