"""Why is an example close? Which positions make two embeddings similar."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from .checks import one_of
from .data import as_tensor, scale
from .embeddings import feature_maps
from .layers import layer_name
from .model import evaluating, on_device, predict_logits


def contributions(f: np.ndarray, g: np.ndarray, metric: str = "cosine", pooling: str = "none"
                  ) -> tuple[np.ndarray, np.ndarray]:
    """(on f, on g): what each position adds to the cosine, or squared euclidean distance, of two embeddings.

    f, g: outputs of a layer, (..., channels, height, width), where ... broadcasts; the maps, (..., height, width)
    float64, each sum to the whole value. pooling="none": a position is compared with the same position only, so the
    two maps are one. "avg": the value is a mean over all pairs of positions; a map sums the pairs of each position.
    The cosine with an embedding of zeros is 0. Raises ValueError for shapes that do not fit.
    """
    one_of("metric", metric, ("cosine", "euclidean"))
    one_of("pooling", pooling, ("none", "avg"))
    f, g = np.asarray(f, float), np.asarray(g, float)
    if min(f.ndim, g.ndim) < 3 or f.shape[-3] != g.shape[-3] or (pooling == "none" and f.shape[-2:] != g.shape[-2:]):
        raise ValueError(f"outputs of shapes {f.shape} and {g.shape} do not fit; pass two of one layer, (..., "
                         "channels, height, width), for pooling='none' of the same height and width.")
    if pooling == "none":
        both = ((f - g)**2 if metric == "euclidean" else f * g / (_length(f) * _length(g))).sum(-3)
        return both, both
    f_mean, g_mean = (maps.mean((-2, -1), keepdims=True) for maps in (f, g))  # (..., channels, 1, 1)
    if metric == "euclidean":  # a pair of positions p, q adds (f_mean - g_mean) · (f(p) - g(q))
        sides = (f_mean - g_mean) * (f - g_mean), (f_mean - g_mean) * (f_mean - g)
    else:
        lengths = _length(f_mean) * _length(g_mean)
        sides = f * g_mean / lengths, f_mean * g / lengths
    return tuple(side.sum(-3) / np.prod(side.shape[-2:]) for side in sides)


def pair_contributions(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """What each pair of positions adds to the cosine of two averaged embeddings, (height, width, height, width).

    f, g: (channels, height, width). Summed over g's positions, or f's, it is `contributions(pooling="avg")`.
    """
    f, g = np.asarray(f, float), np.asarray(g, float)
    lengths = np.prod([_length(maps.mean((1, 2), keepdims=True)).item() for maps in (f, g)])
    return np.einsum("chw,cyx->hwyx", f, g) / (lengths * f[0].size * g[0].size)


def _length(maps):
    """Euclidean length over channels and positions, (..., 1, 1, 1); 1 in place of 0."""
    length = np.sqrt((maps**2).sum((-3, -2, -1), keepdims=True))
    return np.where(length > 0, length, 1)


def grad_cam(model: nn.Module, images: ArrayLike | torch.Tensor, layer: int | str,
             classes: Iterable[int] | None = None, device: str | torch.device = "auto") -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017): where a layer speaks for a class, (n, height, width) float32, in logits.

    The layer's channels, weighted by the mean gradient of the class's logit and summed, negative sums set to 0.
    classes: a class index for each image; None takes the network's own. ImportError without captum.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise ImportError("Grad-CAM needs captum, which is not installed: `pip install captum`, or install this "
                          "package with the extra that has it, `pip install -e .[test]`.") from None
    images = as_tensor(images)
    classes = predict_logits(model, images, device=device).argmax(1) if classes is None else classes
    model, device = on_device(model, device)
    inputs = scale(images).to(device).clone().requires_grad_()  # a frozen network has no other way to the gradient
    with evaluating(model):
        cam = LayerGradCam(model, model.get_submodule(layer_name(model, layer))).attribute(
            inputs, target=[int(c) for c in classes], relu_attributions=True)
    return cam.detach().cpu().numpy()[:, 0]


@dataclass(frozen=True, repr=False, eq=False)  # equal means the same one: arrays have no truth
class Similarity:
    """Why two images, (C, H, W), are similar at a layer.

    maps: on the image and on the neighbour, each (height, width) with sum values[0] and values[1]: the cosine, or by
    how much it is above that with other images. cam: Grad-CAM of the image.
    """

    image: torch.Tensor
    neighbor: torch.Tensor
    layer: int | str
    maps: tuple[np.ndarray, np.ndarray]
    values: tuple[float, float]
    cam: np.ndarray


def why_similar(model: nn.Module, image: torch.Tensor, neighbor: torch.Tensor, layer: int | str,
                pooling: str = "none", others: ArrayLike | torch.Tensor | None = None,
                device: str | torch.device = "auto") -> Similarity:
    """A `Similarity`. others: images (n, C, H, W) whose mean map is taken off, so that what any image has is left."""
    f, g = feature_maps(model, np.stack([image, neighbor]), layer, device)
    maps = contributions(f, g, pooling=pooling)
    if others is not None:
        rest = feature_maps(model, others, layer, device)
        chance = contributions(f, rest, pooling=pooling)[0], contributions(rest, g, pooling=pooling)[1]
        maps = tuple(side - other.mean(0) for side, other in zip(maps, chance, strict=True))
    return Similarity(image, neighbor, layer, maps, (float(maps[0].sum()), float(maps[1].sum())),
                      grad_cam(model, image[None], layer, device=device)[0])
