"""Step 2, the network: ResNet18, its convolutional layers by the paper's numbers, and its checkpoint."""

import contextlib
import copy
import json
import numbers
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from .checks import did_you_mean, integer, one_of
from .data import as_image_set, as_tensor, check_values

STEMS = ("imagenet", "cifar")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ResNet18(ResNet):
    """torchvision's ResNet18 that standardises images from 0 to 1 by the training set's mean and deviation.

    The buffers `mean` and `std`, (channels, 1, 1), travel with the checkpoint, so the network takes plain images.
    """

    def __init__(self, channels, classes, stem="imagenet"):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        kernel, stride, padding = (7, 2, 3) if one_of("stem", stem, STEMS) == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem == "cifar":
            self.maxpool = nn.Identity()
        self.stem = stem
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, x):
        x = (x - self.mean) / self.std
        return super().forward(x.contiguous(memory_format=torch.channels_last))  # twice as fast on a CPU


def resnet18(train_set, stem="imagenet", seed=0):
    """An untrained ResNet18 with the channels, classes and pixel statistics of `train_set`.

    stem: "imagenet", torchvision's own (7 by 7 convolution with stride 2, max-pooling), or "cifar" (3 by 3, stride
    1, no pooling; He et al. 2016, section 4.2). seed: fixes the initial weights; the global generator is untouched.
    """
    train_set = as_image_set(train_set)
    if len(train_set.shape) != 3:
        raise ValueError(f"ResNet18 takes images (channels, height, width); these have shape {train_set.shape}.")
    integer("seed", seed, 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' generators too
        model = ResNet18(train_set.shape[0], len(train_set.classes), stem)
    total = torch.zeros(2, train_set.shape[0], dtype=torch.float64)
    for images in train_set.images.split(4096):
        pixels = scale(images).double()
        total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
    mean, square = total / (train_set.images.numel() / train_set.shape[0])
    model.mean.copy_(mean[:, None, None])
    model.std.copy_((square - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)[:, None, None])
    return model.to(memory_format=torch.channels_last).eval()


def scale(images):
    """uint8 images as float32 from 0 to 1; anything else as it is."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_batch(images, like=None):
    """(batch, was_single): a tensor (n, *shape) from several images or one.

    like: the (dtype, shape) of the training images; anything that does not fit raises TypeError or ValueError.
    """
    images = as_tensor(images)
    if like is None:
        check_values(images, "the images")
        return images, False
    dtype, shape = like
    single = images.ndim == len(shape)
    images = images[None] if single else images
    if tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(f"images of shape {tuple(images.shape[single:])} do not fit; pass one image of shape "
                         f"{tuple(shape)} or a batch (n, {', '.join(map(str, shape))}), like the training images.")
    check_values(images, "the images")
    if dtype == torch.uint8 and images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise TypeError(f"images have dtype {images.dtype}; pass uint8 from 0 to 255, or float from 0 to 1.")
        if images.min() < 0 or images.max() > 1:
            raise ValueError(f"float images must lie between 0 and 1; these run from {images.min():.3g} to "
                             f"{images.max():.3g}. Divide by 255, or pass uint8.")
    elif dtype != torch.uint8 and images.is_floating_point() != dtype.is_floating_point:
        raise TypeError(f"images have dtype {images.dtype}, the training images {dtype}; pass the same kind.")
    return images, single


# --- layers by number --------------------------------------------------------------------------------------------


def conv_layers(model):
    """{number: module name} of the convolutions, from shallow to deep, in the order of `named_modules()`.

    For ResNet18 these are the paper's 20 layers (section 3.1), of which 8, 13 and 18 are the down-sampling ones.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, _CONVOLUTIONS)]
    return dict(enumerate(names, start=1))


def layer_name(model, layer):
    """Module name of a layer given by number or by name; ValueError names what there is."""
    convs = conv_layers(model)
    if isinstance(layer, str):
        modules = dict(model.named_modules())
        if layer in modules and layer:
            return layer
        raise ValueError(f"layer={layer!r} is no module of this network."
                         f"{did_you_mean(layer, [m for m in modules if m])} "
                         "`dict(model.named_modules())` lists them all.")
    if not convs:
        raise ValueError(f"layer={layer!r}: this network has no convolutions to number; pass a module name, one of "
                         f"{', '.join(name for name, _ in model.named_modules() if name)}.")
    return convs[integer("layer", layer, 1, len(convs), ", the convolutions from shallow to deep, or a module name")]


def layer_names(model, layers="all"):
    """{layer as given: module name}; "all" means every convolution by number."""
    if isinstance(layers, str) and layers == "all":
        layers = list(conv_layers(model)) or [1]
    elif isinstance(layers, str | numbers.Integral):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers={layers!r} is a {type(layers).__name__}; pass 'all', or a list of numbers and module "
                        "names.")
    if len(layers := list(layers)) == 0:
        raise ValueError("layers is empty; pass 'all', or a list of numbers and module names.")
    names = [layer_name(model, layer) for layer in layers]
    return {layer if isinstance(layer, str) else int(layer): name for layer, name in zip(layers, names, strict=True)}


def layer_table(model, image_shape, n_images=None):
    """The convolutions as a DataFrame: layer, name, kernel, stride, output shape, dimension.

    With n_images, also the memory in MiB that float32 embeddings of that many images take.
    """
    shapes = {}
    convs = {name: model.get_submodule(name) for name in conv_layers(model).values()}
    hooks = [m.register_forward_hook(lambda m, i, out, name=n: shapes.update({name: tuple(out.shape[1:])}))
             for n, m in convs.items()]
    try:
        with evaluating(model), torch.inference_mode():
            model(torch.zeros(1, *image_shape, device=device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    rows = [{"layer": i, "name": name, "kernel": "×".join(map(str, convs[name].kernel_size)),
             "stride": convs[name].stride[0], "output": "×".join(map(str, shapes[name])),
             "dimension": int(np.prod(shapes[name]))} for i, name in conv_layers(model).items()]
    table = pd.DataFrame(rows).set_index("layer")
    return table if n_images is None else table.assign(MiB=(table["dimension"] * 4 * n_images / 2**20).round(1))


# --- running a network without changing it -----------------------------------------------------------------------


def device_of(model):
    """The device of the network's first parameter or buffer."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def on_device(model, device="auto"):
    """(network, device): the network itself if it is there already, else a copy moved there.

    "auto": where the network is, but CUDA if there is one and the network is on the CPU.
    """
    here = device_of(model)
    if device == "auto":
        device = torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here
    else:
        try:
            device = torch.device(device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"device={device!r} cannot be used here ({str(error).splitlines()[0]}); "
                             "pass 'auto', 'cpu' or the name of a device that torch sees.") from None
    same = here.type == device.type and (device.index is None or here.index == device.index)
    return (model, here) if same else (copy.deepcopy(model).to(device), device)


@contextlib.contextmanager
def evaluating(model):
    """Evaluation mode for the time of a with block; every module's own mode is put back after it."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def predict_logits(model, images, batch_size=256, device="auto"):
    """The network's outputs for `images`, (n, classes) float32."""
    model, device = on_device(model, device)
    with evaluating(model), torch.inference_mode():
        parts = [model(scale(batch.to(device))).float().cpu() for batch in as_tensor(images).split(batch_size)]
    return torch.cat(parts).numpy()


# --- checkpoint --------------------------------------------------------------------------------------------------


def write_tensors(path, tensors, metadata):
    """Write a safetensors file under a temporary name and rename it when it is whole."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path):
    """(tensors, metadata) of a safetensors file; ValueError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}; train the network first.") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and train again.") from None


def _identity(model, data):
    return {"architecture": type(model).__name__, "stem": getattr(model, "stem", ""), "dataset": data.name,
            "image_shape": "×".join(map(str, data.shape)), "classes": json.dumps(list(data.classes))}


def save_model(path, model, train_set):
    """Save the weights as safetensors, with the architecture, data set and classes that they belong to."""
    write_tensors(path, model.state_dict(), _identity(model, train_set))


def load_model(path, model, train_set):
    """Load the weights of `save_model` into `model` and freeze it, as the paper does after training.

    Raises ValueError if the checkpoint is damaged or belongs to another architecture, data set or classes.
    """
    tensors, found = read_tensors(path)
    for key, expected in _identity(model, train_set).items():
        if found.get(key, "nothing") != expected:
            raise ValueError(f"{path} was saved for {key} {found.get(key, 'nothing')}, but this is {expected}; "
                             "load it with what it was trained on, or train again.")
    expected = model.state_dict()
    wrong = [k for k in expected.keys() | tensors.keys()
             if k not in expected or k not in tensors or expected[k].shape != tensors[k].shape]
    if wrong:
        raise ValueError(f"{path} holds other tensors than this network ({', '.join(sorted(wrong)[:3])}, ...); "
                         "it is of another architecture or number of classes. Train again.")
    model.load_state_dict(tensors)
    return freeze(model)


def freeze(model):
    """Evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)
