"""The network: ResNet18 as the paper trains it, and its checkpoint. How any network is run: `ebe_utils.forward`."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from .checks import integer, one_of
from .data import ImageSet, as_image_set, scale
from .files import read_tensors, write_tensors
from .forward import device_of, evaluating, logits_of, on_device, predict_logits

__all__ = ["STEMS", "ResNet18", "device_of", "evaluating", "freeze", "load_model", "logits_of", "on_device",
           "predict_logits", "resnet18_for", "save_model", "trainable"]
STEMS = ("imagenet", "cifar")


class ResNet18(ResNet):
    """torchvision's ResNet18 that standardises images from 0 to 1 by the training set's mean and deviation.

    The buffers `mean` and `std`, (channels, 1, 1), travel with the checkpoint, so the network takes plain images.
    """

    def __init__(self, channels: int, classes: int, stem: str = "imagenet") -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        kernel, stride, padding = (7, 2, 3) if one_of("stem", stem, STEMS) == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem == "cifar":
            self.maxpool = nn.Identity()
        self.stem = stem
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / self.std
        return super().forward(x.contiguous(memory_format=torch.channels_last))  # twice as fast on a CPU


def resnet18_for(train_set: Any, stem: str = "imagenet", seed: int = 0) -> ResNet18:
    """An untrained ResNet18 with the channels, classes and pixel statistics of `train_set`.

    stem: "imagenet", torchvision's own (7 by 7 convolution with stride 2, max-pooling), or "cifar" (3 by 3, stride
    1, no pooling; He et al. 2016, section 4.2). seed: fixes the initial weights; the global generator is untouched.
    """
    train_set = as_image_set(train_set)
    if len(train_set.shape) != 3:
        raise ValueError(f"ResNet18 takes images (channels, height, width); these have shape {train_set.shape}."
                         + " Add the axis of one channel, images[:, None]." * (len(train_set.shape) == 2))
    integer("seed", seed, 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' generators too
        model = ResNet18(train_set.shape[0], len(train_set.classes), stem)
    total = torch.zeros(2, train_set.shape[0], dtype=torch.float64)
    for images in train_set.images.split(max(1, min(4096, 2**24 // train_set.images[0].numel()))):
        pixels = scale(images).double()
        total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
    mean, square = total / (train_set.images.numel() / train_set.shape[0])
    model.mean.copy_(mean[:, None, None])
    model.std.copy_((square - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)[:, None, None])
    return model.to(memory_format=torch.channels_last).eval()


def _identity(model: nn.Module, data: ImageSet) -> dict[str, str]:
    return {"architecture": type(model).__name__, "stem": getattr(model, "stem", ""), "dataset": data.name,
            "image_shape": "×".join(map(str, data.shape)), "classes": json.dumps(list(data.classes))}


def save_model(path: str | Path, model: nn.Module, train_set: Any) -> None:
    """Save the weights as safetensors, with the architecture, data set and classes that they belong to."""
    write_tensors(path, model.state_dict(), _identity(model, as_image_set(train_set)))


def load_model(path: str | Path, model: nn.Module, train_set: Any) -> nn.Module:
    """Load the weights of `save_model` into `model` and freeze it, as the paper does after training.

    Raises ValueError if the checkpoint is damaged or belongs to another architecture, data set or classes.
    """
    tensors, found = read_tensors(path)
    for key, expected in _identity(model, as_image_set(train_set)).items():
        if found.get(key, "nothing") != expected:
            raise ValueError(f"{path} was saved for {key} {found.get(key, 'nothing')}, but this is {expected}; "
                             "load it with what it was trained on, or train again.")
    state = model.state_dict()
    wrong = [k for k in state.keys() | tensors.keys()
             if k not in state or k not in tensors or state[k].shape != tensors[k].shape]
    if wrong:
        raise ValueError(f"{path} holds other tensors than this network ({', '.join(sorted(wrong)[:3])}, ...); "
                         "it is of another architecture or number of classes. Train again.")
    model.load_state_dict(tensors)
    return freeze(model)


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients, as the paper does after training.

    What was trainable is noted in `model.trainable_`, by which `train` knows what it may train on later. Parameters
    that were frozen before (requires_grad=False) are not among it, so what a user froze on purpose stays as it is.
    """
    trainable = tuple(name for name, param in model.named_parameters() if param.requires_grad)
    if trainable or not hasattr(model, "trainable_"):
        model.trainable_ = trainable  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def trainable(model: nn.Module) -> list[str]:
    """Names of the parameters that `train` changes: those with requires_grad, or, in a network of which `freeze` froze
    the last, those that it noted. Raises ValueError if there are none.
    """
    names = [name for name, param in model.named_parameters() if param.requires_grad]
    names = names or list(getattr(model, "trainable_", ()))
    if not names:
        raise ValueError("every parameter of the network is frozen (requires_grad=False), or it has none; set "
                         "requires_grad=True where it shall learn.")
    return names
