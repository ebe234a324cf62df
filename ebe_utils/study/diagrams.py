"""Diagrams in one style, drawn from what they explain: a block of the network, NNK's votes, a p-value, a validation.

Each function returns (figure, data): data is a DataFrame of what is drawn.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike
from torch import fx, nn

from ..conformal import p_values
from ..layers import conv_layers
from ..votes import nnk_weights
from .figures import RIGHT, WRONG

_EDGE = "0.3"


def _box(axes: Axes, x: float, y: float, width: float, text: str, color: Any, height: float = 0.62) -> None:
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=color, edgecolor=_EDGE,
                                  boxstyle="round,pad=0.02,rounding_size=0.08"))
    axes.text(x, y, text, ha="center", va="center", fontsize=10, parse_math=False)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], how: str = "arc3,rad=0") -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=_EDGE, connectionstyle=how,
                                   shrinkA=0, shrinkB=0))


def _empty(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def block_steps(model: nn.Module, block: str) -> pd.DataFrame:
    """What a residual block of a ResNet does, in the order in which it is computed.

    Columns: step (module name within the block, or "add"), kind (name of the class, or "add"), layer (number of a
    convolution, 0 for all else), path ("main" or "skip"). Raises ValueError for a module that is no residual block.
    """
    module = dict(model.named_modules()).get(block)
    if module is None or not block:
        raise ValueError(f"block={block!r} is no module of this network; a ResNet18 has layer1.0 to layer4.1.")
    parts, numbers = dict(module.named_modules()), {name: n for n, name in conv_layers(model).items()}
    rows = []
    for node in fx.symbolic_trace(module).graph.nodes:
        if node.op == "call_module":
            rows.append({"step": node.target, "kind": type(parts[str(node.target)]).__name__,
                         "layer": numbers.get(f"{block}.{node.target}", 0),
                         "path": "skip" if str(node.target).startswith("downsample") else "main"})
        elif node.target in (operator.add, operator.iadd, torch.add):
            rows.append({"step": "add", "kind": "add", "layer": 0, "path": "main"})
    if [row["kind"] for row in rows].count("add") != 1:
        raise ValueError(f"block={block!r} adds nothing to its input, so it is no residual block; a ResNet18 has "
                         "layer1.0 to layer4.1.")
    return pd.DataFrame(rows)


def block_figure(model: nn.Module, block: str = "layer3.1") -> tuple[Figure, pd.DataFrame]:
    """A residual block with the numbered layers, whose outputs are embeddings; the data are `block_steps`."""
    steps = block_steps(model, block)
    main, skip = steps[steps["path"] == "main"], steps[steps["path"] == "skip"]
    palette, gap = sns.color_palette("pastel"), 1.45
    width = gap * (len(main) + 1) + 1.3
    figure, axes = _empty(width, 3.1)
    y, above = 1.15, 2.45
    _box(axes, 0.75, y, 1.1, "input", "white")
    x, end = 0.75, 0.0
    for _, row in main.iterrows():
        _arrow(axes, (x + 0.57, y), (x + gap - 0.6, y))
        x += gap
        name = {"add": "+", "BatchNorm2d": "batch norm", "ReLU": "ReLU"}.get(row["kind"], f"layer {row['layer']}")
        _box(axes, x, y, 1.1, name, palette[1 if row["layer"] else 7 if row["kind"] == "add" else 0])
        if row["layer"]:
            axes.annotate(f"embedding of layer {row['layer']}\n{block}.{row['step']}", (x + 0.62, y - 0.05),
                          (x + 0.62, 0.42), ha="center", va="top", fontsize=9, parse_math=False,
                          arrowprops={"arrowstyle": "-", "color": _EDGE, "linestyle": ":"})
        end = x if row["kind"] == "add" else end
    _arrow(axes, (x + 0.57, y), (x + 0.57 + 0.5, y))
    axes.text(x + 1.1, y, "next\nblock", ha="left", va="center", fontsize=10)
    axes.plot([0.75, 0.75, end], [y + 0.34, above, above], color=_EDGE, linewidth=1.3, zorder=0)  # the way past
    _arrow(axes, (end, above), (end, y + 0.34))
    middle = (0.75 + end) / 2
    numbered = [f"layer {n}" for n in skip["layer"] if n]
    if len(skip):
        _box(axes, middle, above, 3.2, f"{', '.join(numbered)}, batch norm: half the size", palette[1])
    else:
        axes.text(middle, above + 0.08, "the input itself", ha="center", va="bottom", fontsize=10)
    return figure, steps


def conformal_figure(own: ArrayLike, score: float) -> tuple[Figure, pd.DataFrame]:
    """The p-value of one class: how many calibration images conform no better to theirs.

    own: (m,) nonconformity of the calibration images, each to its own class; score: that of the new image to the class
    in question. Data: columns score and "no better".
    """
    values = np.sort(np.asarray(own, float))
    worse, p = values >= score, float(p_values(values, np.array(score)))
    figure, axes = plt.subplots(figsize=(8, 2.6))
    # Equal scores are stacked.
    height = pd.Series(values).groupby(values).cumcount() + 1
    for part, color, marker, name in ((~worse, RIGHT, "o", "conform better"), (worse, WRONG, "D", "conform no better")):
        axes.scatter(values[part], height[part], color=color, marker=marker, s=36, label=f"{part.sum()} {name}")
    axes.axvline(score, color="black", linestyle="--", linewidth=1.2, label="the new image")
    axes.set(xlabel="nonconformity to the class (examples of other classes)", yticks=[], ylim=(0, height.max() + 1),
             title=f"p = (1 + {worse.sum()}) / (1 + {len(values)}) = {p:.3f}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="calibration images")
    sns.despine(figure, left=True)
    return figure, pd.DataFrame({"score": values, "no better": worse})


NEAR = ((0.30, 0.06), (0.46, 0.10), (-0.14, 0.32), (-0.22, 0.52), (-0.28, -0.26), (0.52, -0.12), (-0.42, -0.50))


def nnk_figure(points: ArrayLike = NEAR) -> tuple[Figure, pd.DataFrame]:
    """Why NNK gives no weight to an example that lies behind another one.

    points: (k, 2), examples around a query in the middle; a point (x, y) stands for the embedding (x, y, 1). The line
    of an example with weight is where another one, beside it alone, would get the weight 0: behind the line it is of no
    use. Data: columns x, y and weight.
    """
    places = np.asarray(points, float)
    embedded = np.column_stack([places, np.ones(len(places))])
    weights = nnk_weights(embedded, np.array([[0.0, 0.0, 1.0]]), np.arange(len(places))[None])[0]
    reach = 1.35 * float(abs(places).max())
    grid = np.linspace(-reach, reach, 300)
    plane = np.stack(np.meshgrid(grid, grid), -1)
    figure, axes = plt.subplots(figsize=(6.4, 4.8))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(1 + cos) / 2 of two embeddings, given by their points."""
        return (1 + (1 + (a * b).sum(-1)) / np.sqrt((1 + (a * a).sum(-1)) * (1 + (b * b).sum(-1)))) / 2

    query = np.zeros(2)
    for place in places[weights > 1e-9]:
        behind = kernel(query, plane) - kernel(query, place) * kernel(place, plane)
        axes.contourf(grid, grid, behind, [-9, 0], colors=["0.5"], alpha=0.12)
        axes.contour(grid, grid, behind, [0], colors="0.5", linewidths=1, linestyles=":")
        axes.plot([0, place[0]], [0, place[1]], color=RIGHT, linewidth=1.2, zorder=2)
    kept = weights > 1e-9
    axes.scatter(places[kept, 0], places[kept, 1], s=70, color=RIGHT, zorder=3, label="example with a weight")
    axes.scatter(places[~kept, 0], places[~kept, 1], s=70, facecolor="white", edgecolor=WRONG, marker="D", linewidth=2,
                 zorder=3, label="weight 0: behind another")
    axes.scatter(0, 0, s=160, color="black", marker="*", zorder=4, label="query")
    for (x, y), weight in zip(places, weights, strict=True):
        axes.annotate(f"{weight:.2f}", (x, y), (7, 6), textcoords="offset points", fontsize=10)
    axes.set(xticks=[], yticks=[], xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure, pd.DataFrame({"x": places[:, 0], "y": places[:, 1], "weight": weights})


PARTS = ("training images", "validation images", "test images")
# An honest validation: which images each step looks at.
HONEST: Mapping[str, Sequence[str]] = {
    "train the network": PARTS[:1], "search examples for a choice": PARTS[:1], "score each layer and k": PARTS[1:2],
    "search examples for the report": PARTS[:2], "report the chosen one": PARTS[2:]}


def validation_figure(steps: Mapping[str, Sequence[str]] = HONEST,
                      parts: Sequence[str] = PARTS) -> tuple[Figure, pd.DataFrame]:
    """Who sees which images: a row for each step, a column for each part of the data, filled where the step looks.

    Data: columns step, part and sees. Raises ValueError for a step that looks at a part which is not among `parts`.
    """
    for step, seen in steps.items():
        if unknown := [part for part in seen if part not in parts]:
            raise ValueError(f"step {step!r} sees {', '.join(unknown)}; the parts are {', '.join(parts)}.")
    palette, height = sns.color_palette("pastel"), 0.62 * len(steps) + 0.7
    figure, axes = _empty(3.2 + 2.1 * len(parts), height)
    rows = []
    for column, part in enumerate(parts):
        axes.text(4.2 + 2.1 * column, height - 0.3, part, ha="center", va="center", fontsize=10, weight="bold")
    for row, (step, seen) in enumerate(steps.items()):
        y = height - 0.95 - 0.62 * row
        axes.text(3.0, y, step, ha="right", va="center", fontsize=10)
        for column, part in enumerate(parts):
            looks = part in seen
            _box(axes, 4.2 + 2.1 * column, y, 1.9, "sees" if looks else "–", palette[0] if looks else "white", 0.44)
            rows.append({"step": step, "part": part, "sees": looks})
    return figure, pd.DataFrame(rows)
