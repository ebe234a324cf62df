"""Inputs and labels as the package takes them: the first thing on the way to an explanation.

Images are kept as uint8, channels first, (n, C, H, W); `scale` turns them into what a network takes. Anything else that
a network takes may stand in their place: floats (n, features), (n, channels, length), token numbers (n, tokens) ...
What is understood as which numbers: `ebe_utils.values`.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .checks import integer
from .labels import check_count
from .values import (
    as_batch,
    as_labels,
    as_tensor,
    check_channels,
    check_together,
    check_values,
    in_pieces,
    scale,
)

__all__ = ["DataError", "ImageSet", "as_batch", "as_image_set", "as_labels", "as_tensor", "check_channels",
           "check_sets", "check_together", "check_values", "random_part", "scale"]


class DataError(ValueError):
    """A data set that is missing, damaged, or not what it should be."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, or other inputs of a network, with their labels.

    images: (n, C, H, W) uint8 from 0 to 255, or floats of any shape (n, ...); uint8 images (n, H, W) get the axis of
    their one channel, floats (n, channels, length) stay as they are. labels: (n,) int64, indices into `classes`, the
    names of the classes (default: the numbers up to the largest label). Two sets are equal if all of that is.
    Raises TypeError or ValueError for what is neither, see the rules of `ebe_utils.values`.
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
        check_channels(images)
        if images.ndim < 2:
            raise ValueError(f"the images have shape {tuple(images.shape)}; pass one input per row, (n, ...).")
        labels = as_labels(self.labels, len(images))
        classes = tuple(str(name) for name in self.classes)
        if not classes:
            check_count(labels)
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
        """The images at `indices` (integers, or a truth value for each image), in that order."""
        rows = np.asarray(indices)
        if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iub":
            raise ValueError(f"indices are {rows.dtype} of shape {rows.shape}; pass at least one position of an image.")
        rows = rows if rows.dtype == bool else rows.astype(np.int64)
        return replace(self, images=self.images[torch.from_numpy(rows)], labels=self.labels[rows])

    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names: what a run's manifest records as its input."""
        digest = hashlib.sha256(repr((self.images.dtype, tuple(self.images.shape), self.classes)).encode())
        for part in in_pieces(self.images):
            digest.update(part.cpu().contiguous().numpy().data)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def as_image_set(data: Any, labels: ArrayLike | None = None) -> ImageSet:
    """An `ImageSet` from one, from (images, labels), from a torch `Dataset` or `DataLoader`, whose items are (tensor,
    label), or from any object with `.images` and `.labels`.

    A `Dataset` is read whole into memory, in its own order, also that of a `DataLoader`; `EBEClassifier.fit` and
    `layer_sweep` read it batch by batch. scikit-learn's `load_digits()`, whose labels are called `target`, is
    understood too. What such an object calls images, (n, H, W), gets the axis of one channel, also where they are
    floats.
    """
    if isinstance(data, ImageSet) and labels is None:
        return data
    if labels is None and isinstance(data, Dataset | DataLoader) and not hasattr(data, "images"):
        return _read_whole(data)
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
    return ImageSet(data, labels)  # type: ignore[arg-type]  # which makes an array of them


def _read_whole(data):
    """The `ImageSet` of a torch data set's items, tensors of one shape with integer labels."""
    source = data.dataset if isinstance(data, DataLoader) else data
    collate = data.collate_fn if isinstance(data, DataLoader) else None
    loader = data if isinstance(source, IterableDataset) and isinstance(data, DataLoader) else DataLoader(
        source, 256, shuffle=False, collate_fn=collate)
    try:
        parts = [(images, labels) for images, labels in loader]
        images, labels = (torch.cat([torch.as_tensor(part) for part in side]) for side in zip(*parts, strict=True))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the items of a {type(source).__name__} are not (tensor of one shape, integer label) "
                        f"({str(error).splitlines()[0]}); give it a transform that ends in a tensor "
                        "(torchvision.transforms.ToTensor(), say).") from None
    return ImageSet(images, labels, tuple(getattr(source, "classes", ())))  # type: ignore[arg-type]


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


def check_sets(train_set: ImageSet, test_set: ImageSet) -> None:
    """ValueError for two sets that do not belong together: other shapes, ranges of values or classes."""
    if train_set.shape != test_set.shape:
        raise ValueError(f"test images of shape {test_set.shape} do not fit training images of shape "
                         f"{train_set.shape}; both need the same size and channels.")
    check_together(train_set.images, test_set.images)
    if test_set.labels.max() >= len(train_set.classes):
        raise ValueError(f"test labels run up to {test_set.labels.max()}, but the training set has "
                         f"{len(train_set.classes)} classes; both need the same ones.")
    if train_set.classes != test_set.classes and set(train_set.classes) == set(test_set.classes):
        raise ValueError("training and test set have the same classes in different orders, so that a label means "
                         "different things; bring both into one order.")
