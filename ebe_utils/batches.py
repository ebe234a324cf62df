"""What a batch is: a tensor, a tuple of tensors (several inputs) or a dict of them; its length, its labels, its sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

LABEL_KEYS = ("labels", "label")  # of dictionaries that carry their own labels, as Hugging Face's data sets do

Batch = Any  # a tensor, a tuple of tensors (several inputs) or a dict of tensors: what the network takes


class Stacked:
    """Rows that come batch by batch, as one array: written in place where their number n is known, else joined."""

    def __init__(self, n: int | None):
        self.n, self.count = n, 0
        self.array: np.ndarray | None = None
        self.parts: list[np.ndarray] = []

    def add(self, part: np.ndarray) -> None:
        """The next rows, (b, ...); ValueError if there are more than n."""
        if self.n is None:
            self.parts.append(part)
        else:
            if self.array is None:
                self.array = np.empty((self.n, *part.shape[1:]), part.dtype)
            if self.count + len(part) > self.n:
                raise ValueError(f"the batches hold more than the {self.n} examples that were announced.")
            self.array[self.count:self.count + len(part)] = part
        self.count += len(part)

    def whole(self) -> np.ndarray:
        """All rows, (n, ...); ValueError if there are fewer than n, or none."""
        if self.count == 0 or (self.n is not None and self.count != self.n):
            raise ValueError(f"the batches hold {self.count} examples, not {self.n or 'one or more'}.")
        return np.concatenate(self.parts) if self.array is None else self.array


def batch_length(batch: Any) -> int:
    """How many inputs a batch holds: the length of its first tensor."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim:
            return len(value)
    raise TypeError(f"a batch is a {type(batch).__name__} without a tensor; pass a tensor, or a tuple or dict of them.")


def as_label_array(y: Any) -> np.ndarray:
    """(n,) labels as the user has them: integers, texts or booleans; TypeError or ValueError for anything else."""
    labels = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iuUSOb":
        raise TypeError(f"labels are {labels.dtype}; pass integer class indices 0, 1, 2, ..., or texts.")
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {labels.shape}; pass one per example, shape (n,).")
    return labels


def each_part(arrays: Batch, change: Callable) -> Any:
    """`change` applied to a tensor, or to each of a tuple or dict of them."""
    if isinstance(arrays, Mapping):
        return {name: change(value) for name, value in arrays.items()}
    return tuple(map(change, arrays)) if isinstance(arrays, tuple) else change(arrays)


def parts_of(arrays: Batch) -> list:
    """The tensors of a batch."""
    return list(arrays.values()) if isinstance(arrays, Mapping) else list(arrays) if isinstance(arrays, tuple) else [
        arrays]


def split_labels(item: Any, own: bool) -> tuple[Any, Any]:
    """(input, label) of one item or batch; label None where labels were passed separately or there are none."""
    if isinstance(item, Mapping):
        label = next((item[key] for key in LABEL_KEYS if key in item), None)
        return {name: value for name, value in item.items() if name not in LABEL_KEYS}, label
    if isinstance(item, tuple | list):
        if len(item) == 1:
            return item[0], None
        rest = item[0] if len(item) == 2 else tuple(item[:-1])
        return rest, item[-1] if own else None
    return item, None
