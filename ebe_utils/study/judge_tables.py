"""The judges' scores: with intervals as they are committed, and as docs/results.md shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..paths import reference_root
from ..statistics import mean_interval

SAME_CLASS = "same classes as "  # of a method whose examples are exchanged for others with the same labels
RELEVANCE = "selection relevance"
JUDGED = {"class detection": "class", "subclass detection": "subclass", "mislabelling detection": "mislabelled",
          "shortcut detection": "shortcut", "model randomisation": "randomised (low is good)",
          "top-k cardinality": "cardinality", "LDS": "LDS"}
CIRCULAR = ("moves with the network, noise", "moves with the network, shift", "same sign, noise", "same sign, shift",
            "distance from its own answer", "distance from another's answer")


def summary(values: Mapping[tuple[str, str], Sequence[np.ndarray]]) -> pd.DataFrame:
    """Tidy DataFrame: measure, method, score, low, high, images, networks.

    values: {(measure, method): for each network a value of every image, (n,), or one value of all}. score: the mean of
    all; low, high: its 95 % interval over the images of these networks, or, where each network has one value only, the
    smallest and the largest. Images without a value (NaN) do not count.
    """
    rows = []
    for (measure, method), parts in values.items():
        every = np.concatenate([np.asarray(part, float) for part in parts])
        every = every[~np.isnan(every)]
        if not len(every):
            continue
        one_each = all(len(part) == 1 for part in parts)
        low, high = (every.min(), every.max()) if one_each else mean_interval(every)
        rows.append((measure, method, every.mean(), low, high, len(every), len(parts)))
    return pd.DataFrame(rows, columns=["measure", "method", "score", "low", "high", "images", "networks"])


def kept_judges(name: str, root: Path | None = None) -> pd.DataFrame:
    """The committed scores on some networks, see `summary`: root/judges/`name`, by default of `reference_root()`.

    name: "fashion_mnist", small networks, or "fashion_mnist-resnet18". Without rows if there are none.
    """
    file = Path(root or reference_root()) / "judges" / name / "scores.csv"
    return pd.read_csv(file, keep_default_na=False) if file.exists() else pd.DataFrame()


def judges_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each method, a column for each of quanda's metrics: "score (low to high)", "–" if not measured."""
    return _wide(scores, list(JUDGED)).rename(columns=JUDGED)


def selection_table(scores: pd.DataFrame) -> pd.DataFrame:
    """How relevant the ten examples of each method are, beside as many others of the same classes."""
    found = scores[scores["measure"] == RELEVANCE]
    controls = found["method"].str.startswith(SAME_CLASS)
    others = found[controls].assign(method=found["method"].str.removeprefix(SAME_CLASS), measure="same classes, random")
    return _wide(pd.concat([found[~controls], others]), [RELEVANCE, "same classes, random"])


def circularity_table(scores: pd.DataFrame) -> pd.DataFrame:
    """What the choice of the examples has not seen: a row for each explanation, a column for each question."""
    return _wide(scores, list(CIRCULAR))


def _wide(scores, measures):
    found = scores[scores["measure"].isin(measures)]
    cells = found.assign(cell=[f"{s:.2f} ({low:.2f} to {high:.2f})" for s, low, high in
                               zip(found["score"], found["low"], found["high"], strict=True)])
    table = cells.pivot(index="method", columns="measure", values="cell")
    table = table.reindex(index=found["method"].unique(), columns=[m for m in measures if m in table]).fillna("–")
    return table.reset_index().rename_axis(columns=None)
