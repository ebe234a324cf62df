"""What an explanation holds, and how it shows itself: as text, as a table, and as HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from .data import scale

NOT_COMPARED = "its classes are not those of the labels, so the two cannot be compared"


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """Why one input is classified as it is: the training examples whose votes have weight, nearest first.

    indices, labels, weights, distances: (k,), or fewer where some of the k nearest have weight 0; labels are indices
    into `classes`. proba: (classes,), equal to weights @ one_hot(labels): it is the *vote's* prediction. prediction
    and network_prediction: class indices of the vote and of the network; network_proba: (outputs,), the network's
    softmax. Both are None where there is no network. comparable: whether the network's outputs are the classes of the
    labels. image: the input explained; examples: (k, ...), the training examples, or None where they cannot be had.
    """

    indices: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    distances: np.ndarray
    proba: np.ndarray
    prediction: int
    network_prediction: int | None
    classes: tuple[str, ...]
    layer: int | str
    layer_name: str
    metric: str
    image: Any = field(default=None)
    examples: Any = field(default=None)
    network_proba: np.ndarray | None = field(default=None)
    comparable: bool = field(default=True)
    describe: Callable[[Any], Any] | None = field(default=None)

    @classmethod
    def of_votes(cls, indices: np.ndarray, distances: np.ndarray, weights: np.ndarray, train_labels: np.ndarray,
                 classes: Sequence[str], fetch: Callable[[np.ndarray], Any] = lambda indices: None,
                 **about: Any) -> Explanation:
        """From the k nearest examples of one input and their weights, each (k,); those without weight are left out.

        train_labels: (n_train,) indices into `classes`; fetch: gives the examples at some positions; about: the other
        fields.
        """
        indices, distances, weights = (row[weights > 0] for row in (indices, distances, weights))
        # bincount adds in order, as the sparse product of predict_proba does, so that equal shares are equal.
        proba = np.bincount(train_labels[indices], weights, len(classes))
        return cls(indices=indices, labels=train_labels[indices], weights=weights, distances=distances, proba=proba,
                   prediction=int(proba.argmax()), classes=tuple(classes), examples=fetch(indices), **about)

    @property
    def agreement(self) -> bool | None:
        """Whether the vote says what the network says; None where the two cannot be compared."""
        return self.prediction == self.network_prediction if self._compared else None

    @property
    def total_variation(self) -> float | None:
        """Half the sum of |vote's share - network's probability| over the classes, from 0 (the same) to 1."""
        if not self._compared or self.network_proba is None:
            return None
        return float(np.abs(self.proba - self.network_proba).sum() / 2)

    @property
    def _compared(self):
        return self.comparable and self.network_prediction is not None

    def to_frame(self) -> pd.DataFrame:
        """One row for each example, nearest first: rank, index, class, weight, distance."""
        return pd.DataFrame({"rank": np.arange(1, len(self.indices) + 1), "index": self.indices,
                             "class": [self.classes[label] for label in self.labels], "weight": self.weights,
                             "distance": self.distances})

    def __repr__(self):
        return f"Explanation(layer={self.layer!r}, k={len(self.indices)}, metric={self.metric!r})"

    def _summary(self):
        vote = f"EBE predicts {self.classes[self.prediction]} ({self.proba[self.prediction]:.0%} of the weight)"
        if self.network_prediction is None:
            return f"{vote}."
        if not self.comparable:
            return f"{vote}. The network's output {self.network_prediction} is largest; {NOT_COMPARED}."
        both = "the same" if self.agreement else "another class"
        return f"{vote}, the network {self.classes[self.network_prediction]}: {both}."

    def _rows(self):
        for rank, (i, label, weight, distance) in enumerate(
                zip(self.indices, self.labels, self.weights, self.distances, strict=True), start=1):
            yield rank, str(int(i)), self.classes[label], f"{weight:.3f}", f"{distance:.4f}"

    def __str__(self):
        width = max(5, *(len(c) for c in self.classes))
        lines = [f"{'rank':>4}  {'index':>6}  {'class':<{width}}  {'weight':>6}  {self.metric + ' distance':>18}"]
        lines += [f"{r:>4}  {i:>6}  {c:<{width}}  {w:>6}  {d:>18}" for r, i, c, w, d in self._rows()]
        return "\n".join([f"Layer {self.layer} ({self.layer_name}). {self._summary()}", *lines])

    def _repr_html_(self):
        head = "".join(f"<th>{h}</th>" for h in ("rank", "example", "index", "class", "weight",
                                                 f"{html.escape(self.metric)} distance"))
        shown = [None] * len(self.indices) if self.examples is None else self.examples
        rows = []
        for (rank, *cells), example in zip(self._rows(), shown, strict=True):
            values = "".join(f"<td>{html.escape(c)}</td>" for c in cells)
            rows.append(f"<tr><td>{rank}</td><td>{self._shown(example)}</td>{values}</tr>")
        return (f'<p class="ebe-summary">Layer {html.escape(str(self.layer))} ({html.escape(self.layer_name)}). '
                f"{html.escape(self._summary())}</p>"
                f"<p>The {'image' if _is_image(self.image) else 'input'} explained: {self._shown(self.image)}</p>"
                f'<table class="ebe-explanation"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>')

    def _shown(self, example):
        """An example as HTML: by the user's function, as a picture, or by its shape."""
        if example is None:
            return "not at hand"
        if self.describe is not None:
            said = self.describe(example)
            return said._repr_html_() if hasattr(said, "_repr_html_") else html.escape(str(said))
        return _picture(example)


class Explanations(Sequence):
    """Explanations of several inputs, from one forward pass and one search.

    indices, distances, weights: (n, k); attributions: scipy CSR (n, n_train), rows with sum 1; proba: (n, classes),
    equal to attributions @ one_hot(labels); prediction: (n,) class indices of the vote; network_prediction (n,) and
    network_proba (n, outputs): the network's own, or None. `explanations[i]` is the `Explanation` of input i.
    """

    def __init__(self, indices: np.ndarray, distances: np.ndarray, weights: np.ndarray, train_labels: np.ndarray,
                 classes: Sequence[str], network_proba: np.ndarray | None, comparable: bool,
                 make: Callable[[int], Explanation]):
        n, k = indices.shape
        self.indices, self.distances, self.weights, self.comparable = indices, distances, weights, comparable
        # Copies: eliminate_zeros moves the entries together in place.
        self.attributions = sp.csr_array((weights.flatten(), indices.flatten(), np.arange(n + 1) * k),
                                         shape=(n, len(train_labels)))
        self.attributions.eliminate_zeros()
        votes = sp.csr_array((np.ones(len(train_labels)), train_labels, np.arange(len(train_labels) + 1)),
                             shape=(len(train_labels), len(classes)))
        self.proba = (self.attributions @ votes).toarray()
        self.prediction = self.proba.argmax(1)
        self.network_proba = network_proba
        self.network_prediction = None if network_proba is None else network_proba.argmax(1)
        self._make = make

    @property
    def agreement(self) -> np.ndarray | None:
        """(n,) booleans: where the vote says what the network says; None where the two cannot be compared."""
        if self.network_prediction is None or not self.comparable:
            return None
        return self.prediction == self.network_prediction

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self._make(j) for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"explanation {i} of {len(self)}")
        return self._make(int(i) % len(self))

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def to_frame(self) -> pd.DataFrame:
        """`Explanation.to_frame` of each below each other, with a column "input"."""
        return pd.concat([e.to_frame().assign(input=i) for i, e in enumerate(self)], ignore_index=True)

    def __repr__(self):
        return f"Explanations of {len(self)} inputs, k={self.indices.shape[1]}"


def _is_image(example):
    """Whether it is a grey or colour image, (C, H, W)."""
    shape: tuple[int, ...] = getattr(example, "shape", ())
    return len(shape) == 3 and shape[0] in (1, 3)


def _picture(image, side=56):
    """An <img> of one (C, H, W) image, or what it is if it is no grey or colour image."""
    from PIL import Image

    if not isinstance(image, torch.Tensor | np.ndarray):
        return html.escape(image if isinstance(image, str) else f"an input of type {type(image).__name__}")
    if not _is_image(image):
        return f"an input of shape {tuple(image.shape)}"
    pixels = (scale(torch.as_tensor(image)).float().numpy().clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (f'<img class="ebe-image" width="{side}" style="image-rendering:pixelated" alt="training or test image" '
            f'src="data:image/png;base64,{data}">')
