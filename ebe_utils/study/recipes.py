"""What the paper leaves open, one factor at a time: how the network is trained, and what "the output of a layer" is.

Section 3.1 gives the batch size, the learning rate and the number of epochs. It names no optimizer, schedule, weight
decay or augmentation. Section 2 embeds by "the output of the layer" and leaves open whether that is the convolution
itself or what batch normalisation makes of it, and whether it is flattened or averaged over positions.
"""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..data import ImageSet
from ..geometry import layer_geometry
from ..layer_neighbors import layer_neighbors
from ..layers import conv_layers
from ..model import resnet18_for
from ..training import train
from .claims import judge_claims
from .snapshots import snapshot_tables

DEFAULT = "as here"
# Arguments of `ebe_utils.train`, each in place of the default: Adam at a constant rate, without decay or augmentation.
RECIPES: dict[str, dict[str, Any]] = {
    DEFAULT: {}, "SGD, momentum 0.9": {"optimizer": "sgd"}, "SGD": {"optimizer": "plain_sgd"},
    "AdamW, decay 0.01": {"optimizer": "adamw", "weight_decay": 0.01},
    "Adam, decay 0.0005": {"weight_decay": 5e-4}, "linear schedule": {"schedule": "linear"},
    "augmented": {"augment": True}, "SGD, linear, augmented": {"optimizer": "sgd", "schedule": "linear",
                                                                "augment": True},
    "three channels": {"channels": 3}, "cifar stem": {"stem": "cifar"}, "bfloat16": {"precision": "bfloat16"}}
# Arguments of `layer_neighbors`; "batch norm" takes the module after each convolution.
READINGS: dict[str, dict[str, Any]] = {DEFAULT: {}, "batch norm": {}, "pooled": {"pooling": "avg"},
                                       "Euclidean": {"metric": "euclidean"}}


def norm_after(conv: str) -> str:
    """Name of the batch normalisation after a convolution of torchvision's ResNet18, by the convolution's name."""
    if conv.endswith("downsample.0"):
        return conv[:-1] + "1"
    head, number = conv[:-len("conv1")], conv[-1]
    return f"{head}bn{number}"


def with_channels(data: ImageSet, channels: int) -> ImageSet:
    """Images of one channel as images of several equal ones, as a network made for colour takes grey images."""
    if data.shape[0] == channels:
        return data
    return replace(data, images=torch.as_tensor(data.images).expand(-1, channels, -1, -1).contiguous())


def train_recipe(recipe: str, train_set: ImageSet, test_set: ImageSet, epochs: int, seed: int = 0,
                 progress: bool = False) -> tuple[nn.Module, ImageSet, ImageSet]:
    """(network, training images, test images) of one of `RECIPES`; the images have the channels that it asks for."""
    given = dict(RECIPES[recipe])
    channels, stem = given.pop("channels", train_set.shape[0]), given.pop("stem", "imagenet")
    train_set, test_set = (with_channels(part, channels) for part in (train_set, test_set))
    model = train(resnet18_for(train_set, stem, seed), train_set, test_set, epochs=epochs, seed=seed,
                  progress=progress, **given)
    return model, train_set, test_set


def judge_readings(model: nn.Module, train_set: ImageSet, test_set: ImageSet, dataset: str, k_max: int = 50,
                   k: int = 10) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(claims, layers) of a trained ResNet18 by each of `READINGS`.

    claims: reading and the columns of `judge_claims` without the text. layers: reading, layer and the columns of
    `snapshot_tables`, for k examples; and, for the convolutions from 11 on as they are, those of `layer_geometry`.
    """
    convs = conv_layers(model)
    norms = {norm_after(name): number for number, name in convs.items()}
    both = layer_neighbors(model, train_set, test_set, [*convs, *norms], k_max, pixels=False, progress=False)
    parts = {DEFAULT: _only(both, {number: number for number in convs}), "batch norm": _only(both, norms)}
    for reading in ("pooled", "Euclidean"):
        parts[reading] = layer_neighbors(model, train_set, test_set, [*convs], k_max, pixels=False, progress=False,
                                         **READINGS[reading])
    claims, layers = [], []
    for reading, neighbors in parts.items():
        table, together = snapshot_tables(neighbors)
        claims.append(judge_claims(together, dataset, k).drop(columns="text").assign(reading=reading))
        layers.append(table[table["k"] == k].assign(reading=reading))
    deep = layer_geometry(model, train_set, test_set, [number for number in convs if number > 10], k)
    deep = deep.drop(columns="raw").assign(reading=DEFAULT)
    found = pd.concat(layers, ignore_index=True).merge(deep, "left", ["reading", "layer"])
    return pd.concat(claims, ignore_index=True), found


def _only(neighbors, names):
    """The layers `names` of a sweep, {their name: the new one}."""
    def part(table):
        return {new: table[old] for old, new in names.items()}

    return replace(neighbors, names={new: str(old) for old, new in names.items()}, indices=part(neighbors.indices),
                   distances=part(neighbors.distances), dimensions=part(neighbors.dimensions),
                   notes=part(neighbors.notes))
