"""Images and labels as the package takes them: the first thing on the way to an explanation.

Images are kept as uint8, channels first, (n, C, H, W); `scale` turns them into what a network takes."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .checks import integer


class DataError(ValueError):
    """A data set that is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: (n, C, H, W) uint8 from 0 to 255, or float; labels: (n,) int64, indices into `classes`.
    """

    images: torch.Tensor
    labels: np.ndarray
    classes: tuple = field(default=())
    name: str = "images"

    def __post_init__(self):
        images, labels = as_tensor(self.images), np.asarray(self.labels)
        if images.ndim == 3:
            images = images[:, None]
        check_values(images, "the images")
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(f"labels of shape {labels.shape} do not match {len(images)} images; "
                             f"pass one label per image, shape ({len(images)},).")
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels are {labels.dtype}; pass integer class indices 0, 1, 2, ...")
        classes = tuple(self.classes) or tuple(str(c) for c in range(int(labels.max()) + 1))
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} "
                             f"classes; labels must lie between 0 and {len(classes) - 1}.")
        for name, value in (("images", images), ("labels", labels.astype(np.int64)), ("classes", classes)):
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])

    @property
    def shape(self):
        """Shape of one image, (C, H, W)."""
        return tuple(self.images.shape[1:])

    def subset(self, indices):
        """The images at `indices`, in that order."""
        indices = np.asarray(indices)
        return replace(self, images=self.images[torch.from_numpy(indices)], labels=self.labels[indices])

    def fingerprint(self):
        """SHA-256 of images, labels and class names: what a run's manifest records as its input."""
        digest = hashlib.sha256(repr((self.images.dtype, tuple(self.images.shape), self.classes)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def as_tensor(images):
    """A tensor of numbers from a tensor, an array or nested lists; float64 becomes float32."""
    if not isinstance(images, torch.Tensor):
        array = np.asarray(images)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"images have dtype {array.dtype}; pass uint8 from 0 to 255, or float from 0 to 1.")
        images = torch.from_numpy(np.ascontiguousarray(array))
    if images.dtype == torch.bool or images.is_complex():
        raise TypeError(f"images have dtype {images.dtype}; pass uint8 from 0 to 255, or float from 0 to 1.")
    images = images.detach()
    return images.float() if images.is_floating_point() else images


def check_values(images, what):
    """Raise for an empty batch, and for NaN or infinite values."""
    if images.ndim == 0 or images.numel() == 0:
        raise ValueError(f"{what} are empty (shape {tuple(images.shape)}); pass at least one.")
    if images.is_floating_point() and not torch.isfinite(images).all():
        bad = (~torch.isfinite(images.flatten(1))).any(1).nonzero()[0].item() if images.ndim > 1 else 0
        raise ValueError(f"{what} contain NaN or infinite values (first at position {bad}); "
                         "replace or remove them.")


def as_image_set(data, labels=None):
    """An `ImageSet` from one, from (images, labels), or from any object with `.images` and `.labels`.

    scikit-learn's `load_digits()`, whose labels are called `target`, is understood too.
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
        return ImageSet(images, labels, tuple(str(c) for c in getattr(data, "classes", ())))
    return ImageSet(data, labels)


def random_part(train, test, n_train=None, n_test=None, seed=0):
    """(n_train of `train`, n_test of `test`), two `ImageSet`s, drawn by `seed`, in their order; None keeps all."""
    rng = np.random.default_rng(seed)
    return _part(train, n_train, "n_train", rng), _part(test, n_test, "n_test", rng)


def _part(data, size, what, rng):
    if size is None:
        return data
    integer(what, size, 1, len(data), f" (there are {len(data)} images)")
    return data if size == len(data) else data.subset(np.sort(rng.permutation(len(data))[:size]))


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
