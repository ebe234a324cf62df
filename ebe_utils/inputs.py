"""Inputs of any kind: arrays, dictionaries of arrays, torch data sets and loaders, or batches that come once.

An `Inputs` yields batches that a network takes, in a fixed order, and fetches single examples again where that is
possible. Labels may be integers or strings. Nothing is held that the user does not hold already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, default_collate

from .batches import LABEL_KEYS, Batch, as_label_array, each_part, parts_of, split_labels
from .data import ImageSet, as_batch, as_image_set, as_tensor, check_values, scale


class Inputs:
    """Examples in a fixed order, with labels where they are known.

    n: how many, or None if that shows only at the end; labels: (n,) as the user has them, or None while they are not
    known (a stream has them after `batches`); classes: names in the order of the network's outputs, or (); images:
    the `ImageSet` if that is what these are. like: what batches must be like (`signature` of the training inputs).
    """

    n: int | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    images: ImageSet | None = None
    like: Any = None
    labels_come = False  # with the batches, if they are not known before

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What the network takes, batch by batch, in order; labels that come with the batches are kept."""
        raise NotImplementedError

    def fetch(self, indices: np.ndarray) -> Any:
        """The examples at these positions, to be shown; None where they cannot be had again."""
        return None

    def signature(self) -> Any:
        """What later inputs must be like: see `as_queries`."""
        return None


class _Arrays(Inputs):
    """A tensor (n, ...), a tuple of tensors for a network with several inputs, or a dict of tensors by name."""

    n: int

    def __init__(self, arrays, labels=None, classes=()):
        self.arrays = each_part(arrays, lambda x: x if isinstance(x, torch.Tensor) else as_tensor(x))
        parts = parts_of(self.arrays)
        sizes = {len(part) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"the inputs have {', '.join(map(str, sorted(sizes)))} rows; pass as many rows of each.")
        self.n, self.labels, self.classes = sizes.pop(), labels, tuple(classes)
        if labels is not None and len(labels) != self.n:
            raise ValueError(f"{len(labels)} labels do not match {self.n} examples; pass one label per example.")
        for part in parts:
            check_values(part, "the inputs")

    def batches(self, batch_size):
        for start in range(0, self.n, batch_size):
            yield each_part(self.arrays, lambda x, at=start: scale(x[at:at + batch_size]))

    def fetch(self, indices):
        return each_part(self.arrays, lambda x: x[torch.as_tensor(indices)])

    def signature(self):
        return each_part(self.arrays, lambda x: (x.dtype, tuple(x.shape[1:])))


class _Images(_Arrays):
    """An `ImageSet`."""

    def __init__(self, images):
        self.images, self.arrays = images, images.images
        self.n, self.labels, self.classes = len(images), images.labels, images.classes


class _Items(Inputs):
    """A torch `Dataset` with a length, batched by torch's own collation."""

    labels_come = True

    def __init__(self, dataset, labels=None, collate=None):
        self.dataset, self.n, self.labels, self.collate = dataset, len(dataset), labels, collate or default_collate
        self.classes = tuple(str(c) for c in getattr(dataset, "classes", ()))
        self._own = labels is None
        if self.n == 0:
            raise ValueError(f"the {type(dataset).__name__} is empty; pass at least one example.")
        if collate is None and hasattr(split_labels(dataset[0], self._own)[0], "getbands"):
            raise TypeError(f"the {type(dataset).__name__} returns PIL images, which a network cannot take; give it a "
                            "transform that ends in a tensor (torchvision.transforms.ToTensor(), say).")

    def batches(self, batch_size):
        loader = DataLoader(self.dataset, batch_size, shuffle=False, collate_fn=self.collate)
        yield from _labelled(self, loader)

    def fetch(self, indices):
        return [split_labels(self.dataset[int(i)], self._own)[0] for i in indices]


class _Loader(Inputs):
    """A `DataLoader`, in its own batches; it must not shuffle, or positions would mean nothing."""

    labels_come = True

    def __init__(self, loader, labels=None):
        self.loader, self.labels, self._own = loader, labels, labels is None
        self.items = not isinstance(loader.dataset, IterableDataset)
        if self.items and not isinstance(loader.sampler, SequentialSampler):
            raise ValueError(f"the DataLoader draws its batches with a {type(loader.sampler).__name__}, so the "
                             "position of an example is not known; pass one with shuffle=False, or the data set "
                             "itself.")
        self.n = len(loader.dataset) if self.items else None
        self.classes = tuple(str(c) for c in getattr(loader.dataset, "classes", ()))

    def batches(self, batch_size):
        yield from _labelled(self, self.loader)

    def fetch(self, indices):
        return [split_labels(self.loader.dataset[int(i)], self._own)[0] for i in indices] if self.items else None


class _Once(Inputs):
    """An iterator over batches, which can be read once and never again."""

    labels_come = True

    def __init__(self, iterator, labels=None):
        self.iterator, self.labels, self._own = iterator, labels, labels is None

    def batches(self, batch_size):
        yield from _labelled(self, self.iterator)


def as_inputs(data: Any, y: Any = None, collate: Callable | None = None) -> Inputs:
    """`Inputs` of whatever a user has.

    data: an `ImageSet`; (inputs, labels), or inputs with labels y, (n,), integers or strings, where inputs are an array
    or tensor (n, ...), a dict of them by the network's argument names (what a tokenizer returns), or, with y, a tuple
    of them for a network with several inputs; an object with `.images` and `.labels`; a torch `Dataset` whose items
    are (input, label) or dicts with "labels"; a `DataLoader` that does not shuffle; or an iterator over such batches,
    which is read once. collate: makes a batch of a Dataset's items, as in a DataLoader.

    Raises TypeError or ValueError for anything else, and for lengths that do not match.
    """
    if isinstance(data, Inputs):
        return data
    if isinstance(data, ImageSet):
        return _Images(data if y is None else as_image_set(data.images, y))
    if isinstance(data, torch.nn.Module):
        raise TypeError("a network was passed where data belong; pass the training examples.")
    labels = None if y is None else as_label_array(y)
    if isinstance(data, DataLoader):
        return _Loader(data, labels)
    if isinstance(data, IterableDataset):
        return _Loader(DataLoader(data, batch_size=None), labels)
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "features")):
        return _Items(data, labels, collate)
    if isinstance(data, Mapping):
        data = {name: value for name, value in data.items() if not (labels is None and name in LABEL_KEYS)} | (
            {} if labels is not None else {"\0": next((data[k] for k in LABEL_KEYS if k in data), None)})
        found = data.pop("\0", None)
        return _Arrays(data, labels if found is None else as_label_array(found))
    if isinstance(data, Iterator):
        return _Once(data, labels)
    if isinstance(data, tuple) and labels is None and len(data) == 2:
        return as_inputs(data[0], data[1], collate)
    if isinstance(data, tuple) and labels is not None:
        return _Arrays(data, labels)
    if labels is None and hasattr(data, "images"):
        return _Images(as_image_set(data))
    if labels is None and not isinstance(data, torch.Tensor | np.ndarray | list):
        raise TypeError(f"a {type(data).__name__} holds no examples; pass a data set of load_dataset(), inputs with "
                        "labels, a torch Dataset or a DataLoader that does not shuffle.")
    if labels is not None and labels.dtype.kind in "iu" and _is_image(data):
        return _Images(as_image_set(data, labels))
    return _Arrays(as_tensor(data), labels)


def as_queries(data: Any, like: Any, collate: Callable | None = None) -> tuple[Inputs, bool]:
    """(inputs, was_single): examples to be explained, which must be like those that were fitted.

    like: `Inputs.signature` of the training inputs. A single example without its batch axis is taken where that is
    clear. Raises ValueError for another shape, kind or range.
    """
    if isinstance(data, ImageSet):
        data = data.images
    if _is_one(like) and not isinstance(
            data, Inputs | Dataset | DataLoader | Mapping | Iterator):
        batch, single = as_batch(data, like)
        return _Arrays(batch), single
    inputs = as_inputs(data, None, collate) if not isinstance(data, tuple) else _Arrays(data)
    if isinstance(like, Mapping):
        got = set(inputs.arrays) if isinstance(inputs, _Arrays) and isinstance(inputs.arrays, dict) else None
        if got is not None and got != set(like):
            raise ValueError(f"the inputs are named {', '.join(sorted(got))}, those that were fitted "
                             f"{', '.join(sorted(like))}; pass the same.")
    inputs.like = like
    return inputs, False


def first_example(batch: Batch) -> Any:
    """The first example of a batch: of a tensor, of each of a tuple, or of each of a dict."""
    return each_part(batch, lambda x: x[0])


def _is_one(signature):
    """Whether it is the signature of one tensor, (dtype, shape)."""
    return isinstance(signature, tuple) and bool(signature) and isinstance(signature[0], torch.dtype)


def _is_image(data):
    """Whether an array with labels is what `ImageSet` was made for: uint8, or three axes and more."""
    return getattr(data, "dtype", None) in (np.uint8, torch.uint8) or getattr(data, "ndim", 0) == 4


def _labelled(inputs, batches):
    """The batches' inputs; their labels are kept in `inputs.labels`."""
    found, count = [], 0
    for item in batches:
        batch, label = split_labels(item, inputs._own)
        if isinstance(batch, torch.Tensor) and _is_one(inputs.like):
            batch = as_batch(batch, inputs.like)[0]
        batch = each_part(batch, lambda x: scale(x) if isinstance(x, torch.Tensor) else x)
        size = len(parts_of(batch)[0])
        if label is not None and inputs._own:
            found.append(as_label_array(label if isinstance(label, torch.Tensor) else np.asarray(label)))
            if len(found[-1]) != size:
                raise ValueError(f"a batch has {size} examples and {len(found[-1])} labels; pass one for each.")
        count += size
        yield batch
    if count == 0:
        raise ValueError("there are no batches; pass at least one example. An iterator can be read once only.")
    if found:
        inputs.labels = np.concatenate(found)
    inputs.n = count
