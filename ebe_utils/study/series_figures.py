"""Figures of notebook 13: curves over each other, with the time that makes them close shaded."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..stretches import StretchMatch

_FOR, _AGAINST = "#4c72b0", "#dd8452"  # blue: adds to the similarity; orange: takes from it


def draw_match(axes: Axes, match: StretchMatch, most: float) -> None:
    """A series (black) with its example (red) over it; several channels stand above each other.

    Shaded by what each position adds to the lead: blue for, orange against, `most` the strongest shade.
    """
    steps = match.series.shape[1]
    edges = np.linspace(0, steps, len(match.leads[0]) + 1) - 0.5
    for value, left, right in zip(match.leads[0], edges[:-1], edges[1:], strict=True):
        if abs(value) > 0.03 * most:
            axes.axvspan(left, right, color=_FOR if value > 0 else _AGAINST, alpha=0.8 * min(1, abs(value) / most),
                         linewidth=0)
    height = 1.1 * max(np.ptp(side, axis=1).max() for side in (match.series, match.example))
    for channel, (one, other) in enumerate(zip(match.series, match.example, strict=True)):
        axes.plot(other - channel * height, color="#c44e52", linewidth=1.3)
        axes.plot(one - channel * height, color="black", linewidth=1.3)
    axes.set(xlim=(-0.5, steps - 0.5), yticks=[])
    axes.grid(False)


def matches_figure(rows: Sequence[Sequence[StretchMatch]], titles: Sequence[Sequence[str]], labels: Sequence[str],
                   ) -> tuple[Figure, pd.DataFrame]:
    """A row of panels for each series, one for each of its examples: (figure, its data).

    titles: over each panel; labels: at the left of each row. Its data: row, rank, position, lead.
    """
    most = max(float(np.abs(match.leads[0]).max()) for row in rows for match in row) or 1.0
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(3.6 * len(rows[0]), 2.1 * len(rows) + 0.3),
                                squeeze=False, sharex=True, layout="constrained")
    for line, row, names, label in zip(axes, rows, titles, labels, strict=True):
        for panel, match, name in zip(line, row, names, strict=True):
            draw_match(panel, match, most)
            panel.set_title(name, fontsize=9)
        line[0].set_ylabel(label, fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("step")
    data = [{"row": i, "rank": rank, "position": at, "lead": value} for i, row in enumerate(rows)
            for rank, match in enumerate(row, start=1) for at, value in enumerate(match.leads[0])]
    return figure, pd.DataFrame(data)
