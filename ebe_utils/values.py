"""Numbers as a network takes them: tensors from arrays, and what runs from 0 to 255 or from 0 to 1.

What runs from 0 to 255 is taken for 0 to 1 nowhere in silence. Three rules, checked here and only here:

1. uint8 means 0 to 255, whatever its shape, and is divided by 255. Integers of another type are token or category
   numbers, (n,) or (n, tokens); with more axes they are refused.
2. Floats reach the network as they are. Floats with the shape of images, four axes or more, are refused if they are
   whole numbers from 0 to at most 255 and not all 0 or 1: bytes that were converted but not divided.
3. Two sets that are used together (training and test images) must be of one kind: to uint8 belong uint8, or floats from
   0 to 1; to floats belong floats, and to images from 0 to 1 no images that reach beyond 10.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

_CHUNK = 2**22  # numbers that are looked at at a time, so that a memory-mapped set is not copied as a whole


def as_tensor(images: ArrayLike | torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """A tensor of numbers from a tensor, an array or nested lists; every float becomes float32.

    Raises TypeError for anything else, and for integers with the shape of images that are not uint8.
    """
    if not isinstance(images, torch.Tensor):
        images = _from_array(images)
    if images.layout != torch.strided or images.is_meta:
        raise TypeError(f"images are a tensor of layout {images.layout} on {images.device}; pass a dense tensor with "
                        "values.")
    if images.dtype == torch.bool or images.is_complex():
        raise TypeError(f"images have dtype {images.dtype}; pass uint8 from 0 to 255, or float from 0 to 1.")
    images = images.detach()
    if images.is_floating_point():
        return images.float()
    if images.dtype in (torch.uint16, torch.uint32, torch.uint64) or images.ndim >= 3 and images.dtype != torch.uint8:
        raise TypeError(f"images have dtype {images.dtype} and shape {tuple(images.shape)}; pass uint8 from 0 to 255, "
                        "or float from 0 to 1. (Token numbers are int64, (n, tokens).)")
    return images


def _from_array(images: Any) -> torch.Tensor:
    if hasattr(images, "images") or isinstance(images, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        raise TypeError(f"a {type(images).__name__} is a data set; pass its images, an array or a tensor, here.")
    try:
        if isinstance(images, list | tuple) and images and all(isinstance(image, torch.Tensor) for image in images):
            return torch.stack([*images])
        array = np.asarray(images)
    except (ValueError, RuntimeError):
        raise ValueError("the images are lists or tensors of different lengths, which make no array; pass images of "
                         "one shape, as one array (n, ...).") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"images are a {type(images).__name__} of dtype {array.dtype}; pass uint8 from 0 to 255, or "
                        "float from 0 to 1.")
    if array.dtype.itemsize > 8:  # torch has no longer float than 64 bits
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # a memory-mapped file may be read-only: nothing is written to images
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)


def as_labels(labels: ArrayLike | torch.Tensor, n: int) -> np.ndarray:
    """`labels` of n images as int64 (n,); TypeError or ValueError for anything but one integer for each."""
    labels = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if labels.ndim != 1 or len(labels) != n:
        raise ValueError(f"labels of shape {labels.shape} do not match {n} images; pass one label per image, shape "
                         f"({n},).")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels are {labels.dtype}; pass integer class indices 0, 1, 2, ...")
    return labels.astype(np.int64)


def in_pieces(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """`images` in pieces of at most `_CHUNK` numbers, or of one image."""
    return iter(images.split(max(1, _CHUNK // max(1, images[0].numel()))))


def check_values(images: torch.Tensor, what: str) -> None:
    """Raise for an empty batch, for NaN or infinite values, and for float images from 0 to 255 (rule 2)."""
    if images.ndim == 0 or images.numel() == 0:
        raise ValueError(f"{what} are empty (shape {tuple(images.shape)}); pass at least one.")
    if not images.is_floating_point():
        return
    start, low, high, whole = 0, np.inf, -np.inf, images.ndim >= 4
    for part in in_pieces(images):
        if not torch.isfinite(part).all():
            bad = (~torch.isfinite(part.reshape(len(part), -1))).any(1).nonzero()[0].item()
            raise ValueError(f"{what} contain NaN or infinite values (first at position {start + bad}); replace or "
                             "remove them.")
        start += len(part)
        if whole:  # as soon as one number is no byte, the rest need not be looked at
            low, high = min(low, part.min().item()), max(high, part.max().item())
            whole = low >= 0 and high <= 255 and bool((part == part.round()).all())
    if whole and high > 1:
        raise ValueError(f"{what} are floats that hold whole numbers from {low:g} to {high:g}, as bytes do, and would "
                         "be taken for 0 to 1: divide them by the largest possible value (255 for bytes, 16 for "
                         "load_digits()), or pass uint8. If the network was trained on 0 to 255, put that factor into "
                         "the network.")


def check_channels(images: torch.Tensor) -> None:
    """Raise for uint8 images whose channels come last, (n, H, W, 1, 3 or 4)."""
    if images.ndim == 4 and images.dtype == torch.uint8 and images.shape[3] in (1, 3, 4) and min(images.shape[1:3]) > 4:
        raise ValueError(f"the images have shape {tuple(images.shape)}, with the channels last; put them first, (n, "
                         "channels, height, width): images.permute(0, 3, 1, 2) of a tensor, images.transpose(0, 3, 1, "
                         "2) of an array.")


def check_together(train: torch.Tensor, test: torch.Tensor) -> None:
    """Raise TypeError or ValueError for two sets of inputs that are not of one kind (rule 3)."""
    _check_kind(test, train.dtype)
    if train.is_floating_point() and test.is_floating_point() and min(train.ndim, test.ndim) >= 4:
        (a, b), (c, d) = (_range(part) for part in (train, test))
        if min(a, c) >= 0 and min(b, d) <= 1 and max(b, d) > 10:
            raise ValueError(f"the training images run from {a:.3g} to {b:.3g}, the test images from {c:.3g} to "
                             f"{d:.3g}; bring both to the same range.")


def _range(images: torch.Tensor) -> tuple[float, float]:
    ends = [(part.min().item(), part.max().item()) for part in in_pieces(images)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _check_kind(images: torch.Tensor, dtype: torch.dtype) -> None:
    """Whether `images` may be used together with training images of `dtype`."""
    if dtype == torch.uint8 and images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise TypeError(f"images have dtype {images.dtype}, the training images uint8; pass uint8 from 0 to 255, "
                            "or float from 0 to 1.")
        low, high = _range(images)
        if low < 0 or high > 1:
            raise ValueError(f"float images must lie between 0 and 1, like the training images, which are uint8; these "
                             f"run from {low:.3g} to {high:.3g}. Divide by 255, or pass uint8.")
    elif dtype != torch.uint8 and (images.dtype == torch.uint8 or
                                   images.is_floating_point() != dtype.is_floating_point):
        raise TypeError(f"images have dtype {images.dtype}, the training images {dtype}; pass the same kind.")


def scale(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 from 0 to 1; anything else as it is."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_batch(images: ArrayLike | torch.Tensor, like: tuple[torch.dtype, tuple[int, ...]] | None = None,
             ) -> tuple[torch.Tensor, bool]:
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
    if images.numel():
        _check_kind(images, dtype)
    check_values(images, "the images")
    return images, single
