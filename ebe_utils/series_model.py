"""A small network for time series: the residual network of Wang, Yan and Oates (2017), with fewer channels."""

from typing import Any

import torch
from torch import nn

from .checks import integer
from .data import as_image_set, scale


class SeriesBlock(nn.Module):
    """Three convolutions over time (kernels 7, 5 and 3; the paper's 8 is even), each normalised, and a shortcut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, width, 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 5, padding=2, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.conv3 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm1d(width)
        change = [nn.Conv1d(channels, width, 1, bias=False)] if channels != width else []
        self.shortcut = nn.Sequential(*change, nn.BatchNorm1d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class SeriesResNet(nn.Module):
    """Three `SeriesBlock`s, the mean over time and a linear layer; it takes series (n, channels, steps).

    Every convolution keeps the number of steps, so a position of any layer is a step of the series. Of the 11
    convolutions, 4 and 8 are those of shortcuts. The buffers `mean` and `std`, (channels, 1), standardise the input.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.Sequential(SeriesBlock(channels, width), SeriesBlock(width, 2 * width),
                                    SeriesBlock(2 * width, 2 * width))
        self.fc = nn.Linear(2 * width, classes)
        self.register_buffer("mean", torch.zeros(channels, 1))
        self.register_buffer("std", torch.ones(channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks((x - self.mean) / self.std).mean(2))


def series_resnet_for(train_set: Any, width: int = 16, seed: int = 0) -> SeriesResNet:
    """An untrained `SeriesResNet` with the channels, classes, means and deviations of `train_set`.

    width: channels of the first block (the paper has 64); the other two have twice as many. seed: fixes the initial
    weights; the global generator is untouched. Raises ValueError for inputs that are not (n, channels, steps).
    """
    train_set = as_image_set(train_set)
    if len(train_set.shape) != 2:
        raise ValueError(f"a SeriesResNet takes series (n, channels, steps); these inputs have shape (n, "
                         f"{', '.join(map(str, train_set.shape))}).")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(integer("seed", seed, 0))
        model = SeriesResNet(train_set.shape[0], len(train_set.classes), integer("width", width, 1))
    values = scale(train_set.images).double()
    model.mean.copy_(values.mean((0, 2))[:, None])
    model.std.copy_(values.std((0, 2), correction=0).clamp_min(1e-6)[:, None])
    return model.eval()
