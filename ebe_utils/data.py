"""Inputs and labels as the package takes them: the first thing on the way to an explanation.

Images are kept as uint8, channels first, (n, C, H, W); `scale` turns them into what a network takes. Anything else that
a network takes may stand in their place: floats (n, features), (n, channels, length), token numbers (n, tokens) ...

What runs from 0 to 255 is taken for 0 to 1 nowhere in silence. Three rules, checked here and only here:

1. uint8 means 0 to 255, whatever its shape, and is divided by 255. Integers of another type are token or category
   numbers, (n,) or (n, tokens); with more axes they are refused.
2. Floats reach the network as they are. Floats with the shape of images, four axes or more, are refused if they are
   whole numbers from 0 to at most 255 and not all 0 or 1: bytes that were converted but not divided.
3. Two sets that are used together (training and test images) must be of one kind: to uint8 belong uint8, or floats from
   0 to 1; to floats belong floats, and to images from 0 to 1 no images that reach beyond 10.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .checks import integer

_CHUNK = 2**22  # numbers that are looked at at a time, so that a memory-mapped set is not copied as a whole
_MOST_CLASSES = 10_000  # without names: more than that are labels that do not count from 0


class DataError(ValueError):
    """A data set that is missing, damaged, or not what it should be."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, or other inputs of a network, with their labels.

    images: (n, C, H, W) uint8 from 0 to 255, or floats of any shape (n, ...); uint8 images (n, H, W) get the axis of
    their one channel, floats (n, channels, length) stay as they are. labels: (n,) int64, indices into `classes`, the
    names of the classes (default: the numbers up to the largest label). Two sets are equal if all of that is.
    Raises TypeError or ValueError for what is neither, see the rules of this module.
    """

    images: torch.Tensor
    labels: np.ndarray
    classes: tuple = field(default=())
    name: str = "images"

    def __post_init__(self) -> None:
        images = as_tensor(self.images)
        if images.ndim == 3 and images.dtype == torch.uint8:
            images = images[:, None]
        check_values(images, "the images")
        if images.ndim < 2:
            raise ValueError(f"the images have shape {tuple(images.shape)}; pass one input per row, (n, ...).")
        labels = as_labels(self.labels, len(images))
        classes = tuple(str(name) for name in self.classes)
        if not classes:
            if labels.max() >= max(_MOST_CLASSES, len(labels)):
                raise ValueError(f"labels run up to {labels.max()} for {len(labels)} images; pass class indices that "
                                 "count from 0 (np.unique(labels, return_inverse=True)[1]), or name all classes.")
            classes = tuple(str(c) for c in range(int(labels.max()) + 1))
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} "
                             f"classes; labels must lie between 0 and {len(classes) - 1}.")
        for name, value in (("images", images), ("labels", labels), ("classes", classes)):
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageSet):
            return NotImplemented
        return (self.classes == other.classes and self.name == other.name
                and np.array_equal(self.labels, other.labels)
                and self.images.dtype == other.images.dtype and torch.equal(self.images, other.images))

    __hash__ = None  # type: ignore[assignment]  # what compares by content that can change has no hash

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i], int(self.labels[i])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: ArrayLike) -> "ImageSet":
        """The images at `indices`, in that order."""
        indices = np.asarray(indices)
        return replace(self, images=self.images[torch.from_numpy(indices)], labels=self.labels[indices])

    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names: what a run's manifest records as its input."""
        digest = hashlib.sha256(repr((self.images.dtype, tuple(self.images.shape), self.classes)).encode())
        for part in _parts(self.images):
            digest.update(part.cpu().contiguous().numpy())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


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


def _parts(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """`images` in pieces of at most `_CHUNK` numbers, or of one image."""
    return iter(images.split(max(1, _CHUNK // max(1, images[0].numel()))))


def check_values(images: torch.Tensor, what: str) -> None:
    """Raise for an empty batch, for NaN or infinite values, and for float images from 0 to 255 (rule 2)."""
    if images.ndim == 0 or images.numel() == 0:
        raise ValueError(f"{what} are empty (shape {tuple(images.shape)}); pass at least one.")
    if not images.is_floating_point():
        return
    start, low, high, whole = 0, np.inf, -np.inf, images.ndim >= 4
    for part in _parts(images):
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


def check_together(train: torch.Tensor, test: torch.Tensor) -> None:
    """Raise TypeError or ValueError for two sets of inputs that are not of one kind (rule 3)."""
    _check_kind(test, train.dtype)
    if train.is_floating_point() and test.is_floating_point() and min(train.ndim, test.ndim) >= 4:
        (a, b), (c, d) = (_range(part) for part in (train, test))
        if min(a, c) >= 0 and min(b, d) <= 1 and max(b, d) > 10:
            raise ValueError(f"the training images run from {a:.3g} to {b:.3g}, the test images from {c:.3g} to "
                             f"{d:.3g}; bring both to the same range.")


def _range(images: torch.Tensor) -> tuple[float, float]:
    ends = [(part.min().item(), part.max().item()) for part in _parts(images)]
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


def as_image_set(data: Any, labels: ArrayLike | None = None) -> ImageSet:
    """An `ImageSet` from one, from (images, labels), or from any object with `.images` and `.labels`.

    scikit-learn's `load_digits()`, whose labels are called `target`, is understood too. What such an object calls
    images, (n, H, W), gets the axis of one channel, also where they are floats.
    """
    if isinstance(data, ImageSet) and labels is None:
        return data
    if labels is None and isinstance(data, tuple | list) and len(data) == 2:
        data, labels = data
    elif labels is None:
        labels = getattr(data, "labels", getattr(data, "target", None))
        images = getattr(data, "images", None)
        if images is None or labels is None:
            raise TypeError(f"a {type(data).__name__} has no images and labels; pass a data set of load_dataset(), "
                            "(images, labels), or an object with .images and .labels.")
        images = as_tensor(images)
        images = images[:, None] if images.ndim == 3 else images
        return ImageSet(images, labels, tuple(getattr(data, "classes", ())))
    return ImageSet(data, labels)


def random_part(train: ImageSet, test: ImageSet, n_train: int | None = None, n_test: int | None = None,
                seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """(n_train of `train`, n_test of `test`), two `ImageSet`s, drawn by `seed`, in their order; None keeps all."""
    rng = np.random.default_rng(seed)
    return _part(train, n_train, "n_train", rng), _part(test, n_test, "n_test", rng)


def _part(data, size, what, rng):
    if size is None:
        return data
    integer(what, size, 1, len(data), f" (there are {len(data)} images)")
    return data if size == len(data) else data.subset(np.sort(rng.permutation(len(data))[:size]))


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
