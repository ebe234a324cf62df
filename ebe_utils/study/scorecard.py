"""The scorecard of notebooks 08, 17 and 18: metrics of an explanation, beside explanations made wrong on purpose."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..layer_neighbors import PIXELS
from ..metrics import ANOTHER, RANDOM
from ..statistics import mean_interval
from .report import check

BETTER = {1: "high", -1: "low", 0: ""}


class Scorecard:
    """Collects a line for each metric and checks that explanations made wrong on purpose are worse.

    layer: the layer judged, the key of its values. examples_from: where these come from, as the table says it ("layer
    14"); a line may name another source.
    """

    def __init__(self, layer: int | str, examples_from: str = "") -> None:
        self.layer, self.examples_from = layer, examples_from or f"layer {layer}"
        self._lines: list[dict[str, Any]] = []

    def add(self, metric: str, better: int, mean: Mapping[int | str, float], low: float, high: float,
            examples_from: str = "") -> None:
        """A line from {explanation: value}; low, high: interval of the judged value.

        better: 1 if high is good, -1 if low is, 0 if neither. Prints PASS for each control that is worse; raises
        AssertionError if one is not.
        """
        self._lines.append({"metric": metric, "examples from": examples_from or self.examples_from,
                            "better": BETTER[better], "value": mean[self.layer],
                            **{name: mean.get(key, np.nan) for name, key in
                               (("raw pixels", PIXELS), ("random", RANDOM), ("another's", ANOTHER))},
                            "low": low, "high": high})
        for name in (RANDOM, ANOTHER):
            if better and name in mean:
                check(f"{metric}: better than {name}", better * (mean[self.layer] - mean[name]) > 0)

    def line(self, metric: str, values: Mapping[int | str, np.ndarray], better: int = 1) -> None:
        """A line from {explanation: (n,) values}: their means, and the 95 % interval of the judged one."""
        means: dict[int | str, float] = {name: float(np.mean(value)) for name, value in values.items()}
        self.add(metric, better, means, *mean_interval(values[self.layer]))

    def table(self) -> pd.DataFrame:
        """metric, examples from, better, value, raw pixels, random, another's, low, high: a row for each line."""
        return pd.DataFrame(self._lines)
