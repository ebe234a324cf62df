"""What an explanation holds and can be asked, and how it shows itself: as text, as a table, and as HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .calibration import Doubt
from .contest import Contest, contest
from .contrast import Contrast, contrast, which_classes
from .duplicates import groups_of
from .evidence import Evidence
from .example_html import example_html, is_image, one_by_one
from .explanation_page import page
from .files import write_text

NOT_COMPARED = "its classes are not those of the labels, so the two cannot be compared"


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """Why one input is classified as it is: the training examples whose votes have weight, nearest first.

    indices, labels, weights, distances: (k,), or fewer where some of the k nearest have weight 0; labels are indices
    into `classes`. proba: (classes,), equal to weights @ one_hot(labels): it is the *vote's* prediction. prediction
    and network_prediction: class indices of the vote and of the network; network_proba: (outputs,), the network's
    softmax. Both are None where there is no network. comparable: whether the network's outputs are the classes of the
    labels. image: the input explained; examples: (k, ...), the training examples, or None where they cannot be had.
    evidence: the classifier's arrays, for what is asked further; it is not pickled with the explanation.
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
    evidence: Evidence | None = field(default=None)

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

    # --- why not another class, how sure, and what would change it ----------------------------------------------------

    @property
    def supporting(self) -> np.ndarray:
        """The indices of the examples that have the predicted class, nearest first."""
        return self.indices[self.labels == self.prediction]

    @property
    def opposing(self) -> np.ndarray:
        """The indices of the examples that have another class, nearest first."""
        return self.indices[self.labels != self.prediction]

    @cached_property
    def groups(self) -> np.ndarray:
        """(k,) the group of near-duplicates that each example belongs to, numbered from 0, nearest first.

        As many groups as examples: ten examples show ten things. See `ebe_utils.duplicates`.
        """
        evidence = self._asked("groups")
        return groups_of(evidence.embeddings[self.indices], evidence.metric, evidence.typical)

    def contrast(self, classes: int | str | Sequence[int | str] = 2, examples: int = 5) -> Contrast:
        """The nearest training examples of several classes: `ebe_utils.contrast.Contrast`.

        classes: how many of the most probable classes, by the network where it can be compared, else by the votes; or
        the names or indices of classes, to ask "why not ...?". examples: how many of each, near-duplicates shown once.
        """
        said = self.network_proba if self._compared else None
        chosen = which_classes(classes, self.classes, self.proba, said)
        return contrast(self._asked("contrast"), chosen, self.classes, self.proba, said, examples)

    @cached_property
    def doubt(self) -> Doubt | None:
        """How sure the prediction is: `ebe_utils.calibration.Doubt`; None before `EBEClassifier.calibrate`."""
        found = None if self.evidence is None else self.evidence.doubts(self.proba[None])
        return None if found is None else found[0]

    @cached_property
    def contest(self) -> Contest:
        """What would change the prediction: `ebe_utils.contest.Contest`.

        The examples to relabel are known for all votes, those to remove for uniform votes with target="labels".
        """
        return contest(self.indices, self.labels, self.weights, len(self.classes), len(self.indices),
                       *(("the explanation was made without its classifier.", None) if self.evidence is None else
                         self.evidence.removal()))

    def to_html(self, path: str | Path, classes: int | Sequence[int | str] = 2, note: str = "") -> Path:
        """Write a report for people who have to answer for a decision: one HTML file with all pictures inside.

        It needs no network and runs no scripts. classes: see `contrast`; note: a text that is shown at the top, such as
        the number of the case. FileNotFoundError if the folder is not there.
        """
        target = Path(path)
        if not target.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {target.parent}; make it first, or choose another path.")
        write_text(target, page(self, self.contrast(classes), str(note)))
        return target

    def _asked(self, what):
        if self.evidence is None:
            raise ValueError(f"{what} needs the classifier's training examples, and this explanation was made or "
                             "loaded without them; ask EBEClassifier.explain for it again.")
        return self.evidence

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "evidence"} | {"evidence": None}

    # --- how it shows itself -----------------------------------------------------------------------------------------

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
        rows = []
        for (rank, *cells), example in zip(self._rows(), one_by_one(self.examples, len(self.indices)), strict=True):
            values = "".join(f"<td>{html.escape(c)}</td>" for c in cells)
            rows.append(f"<tr><td>{rank}</td><td>{example_html(example, self.describe)}</td>{values}</tr>")
        return (f'<p class="ebe-summary">Layer {html.escape(str(self.layer))} ({html.escape(self.layer_name)}). '
                f"{html.escape(self._summary())}</p>"
                f"<p>The {'image' if is_image(self.image) else 'input'} explained: "
                f"{example_html(self.image, self.describe)}</p>"
                f'<table class="ebe-explanation"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>')
