"""The figures: one function for each of the paper's, and `save_figure`, which keeps the numbers beside it.

Each returns (figure, data): data is a DataFrame of what is drawn, and is saved next to the picture."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ..data import ImageSet, scale
from ..explanation import Explanation
from ..layer_neighbors import PIXELS, LayerNeighbors
from ..tables import KS

MARKERS = "osD^vP"
STRIP_LAYERS = (1, 2, 3, 7, 9, 14, 15, 16, 18, 19, 20)  # the rows of the paper's figure 3
RIGHT, WRONG = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]  # blue, orange


def style() -> None:
    """The look of every figure: seaborn's white grid, colour-blind palette, letters readable in print."""
    sns.set_theme("notebook", "ticks", "colorblind", rc={
        "figure.dpi": 100, "savefig.dpi": 150, "svg.hashsalt": "ebe", "svg.fonttype": "none", "axes.grid": True,
        "grid.alpha": 0.4, "figure.constrained_layout.use": True, "image.cmap": "gray", "image.composite_image": False,
        "font.size": 11})


def save_figure(folder: Path, name: str, figure: Figure, data: pd.DataFrame) -> Path:
    """Save a figure as PNG and SVG and what it shows as CSV: folder/name.png, .svg, .csv. Returns the PNG's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return folder / f"{name}.png"


def draw_image(axes: Axes, image: torch.Tensor, title: str = "", color: Any = None, xlabel: str = "") -> None:
    """One (C, H, W) image without ticks, its frame in `color`."""
    _imshow(axes, image)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel(xlabel, fontsize=9, parse_math=False)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=2.5 if color is not None else 0.8, color=color or "0.5")


def _imshow(axes: Axes, image: torch.Tensor, **how: Any) -> None:
    pixels = scale(image).float().numpy()
    axes.imshow(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0), vmin=0, vmax=1, interpolation="nearest",
                **how)


def plain(name: str) -> str:
    """The name of a class as matplotlib draws it letter by letter: a pair of dollars would be a formula."""
    return name.replace("$", r"\$")


def image_grid(images: torch.Tensor, titles: Sequence[str], columns: int = 10) -> Figure:
    """Images in rows of `columns` with a title each; returns the figure."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.05 * columns, 1.3 * rows), squeeze=False)
    for axis in axes.flat[len(images):]:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        draw_image(axis, image, title)
    return figure


def structure_figure(explanation: Explanation, n_layers: int = 20, shown: int = 3) -> tuple[Figure, pd.DataFrame]:
    """The paper's figure 1, the structure of EBE-DNN, drawn around one explanation."""
    figure, axes = plt.subplots(figsize=(10, 3.6), layout="none")
    axes.set(xlim=(0, 10), ylim=(0, 3.6))
    axes.axis("off")

    def box(x: float, y: float, width: float, height: float, text: str, color: Any) -> None:
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08",
                                      facecolor=color, edgecolor="0.3"))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="0.3"))

    def picture(image: torch.Tensor, x: float, y: float, side: float, caption: str) -> None:
        inset = axes.inset_axes((x, y, side, side), transform=axes.transData)
        draw_image(inset, image)
        axes.text(x + side / 2, y - 0.06, caption, ha="center", va="top", fontsize=9)

    palette = sns.color_palette("pastel")
    picture(explanation.image, 0.15, 2.15, 1.0, "test image")
    for shift in (0.16, 0.08, 0):
        picture(explanation.examples[-1], 0.15 + shift, 0.55 + shift, 0.8, "")
    axes.text(0.65, 0.46, "training images", ha="center", va="top", fontsize=9)
    box(1.75, 0.55, 1.75, 2.6, f"trained network,\nfrozen\n\n{n_layers} convolutions;\ncut after layer\n"
        f"$l$ = {explanation.layer}", palette[0])
    box(4.1, 2.2, 1.35, 0.9, "embedding\n$X'_{n+1}$", palette[2])
    box(4.1, 0.6, 1.35, 0.9, "embeddings\n$X'_1 \\ldots X'_n$", palette[2])
    box(6.0, 1.2, 1.2, 1.3, f"KNN\n$k$ = {len(explanation.indices)}\n{explanation.metric}", palette[4])
    for start, end in (((1.2, 2.65), (1.72, 2.65)), ((1.2, 1.05), (1.72, 1.05)), ((3.53, 2.65), (4.07, 2.65)),
                       ((3.53, 1.05), (4.07, 1.05)), ((5.48, 2.6), (5.97, 2.1)), ((5.48, 1.1), (5.97, 1.6)),
                       ((7.23, 1.85), (7.6, 1.85))):
        arrow(start, end)
    rows = []
    for rank in range(min(shown, len(explanation.indices))):
        label, weight = explanation.classes[explanation.labels[rank]], explanation.weights[rank]
        y = 2.62 - 0.82 * rank
        inset = axes.inset_axes((7.68, y, 0.7, 0.7), transform=axes.transData)
        draw_image(inset, explanation.examples[rank])
        axes.text(8.45, y + 0.35, f"{label}\nweight {weight:.2g}", va="center", fontsize=9, parse_math=False)
        rows.append({"rank": rank + 1, "class": label, "weight": weight})
    axes.text(8.03, 2.62 - 0.82 * min(shown, len(explanation.indices)) + 0.6, "⋮", ha="center", fontsize=14)
    axes.text(8.5, 0.42, f"mode of the labels: {explanation.classes[explanation.prediction]}", ha="center",
              fontsize=10, weight="bold", parse_math=False)
    axes.text(8.5, 3.42, "example attribution", ha="center", fontsize=10)
    return figure, pd.DataFrame(rows)


def neighbors_figure(explanations: Sequence[Explanation], truths: Sequence[int]) -> tuple[Figure, pd.DataFrame]:
    """The paper's figure 2: the examples behind each prediction, nearest first.

    explanations: `Explanation`s with the same k; truths: the true class index of each. One row per explanation;
    the frame of an example is blue if its class is the true one of the image explained, else orange.
    """
    k = len(explanations[0].indices)
    columns = min(k, 10)
    per = -(-k // columns)
    figure, axes = plt.subplots(per * len(explanations), columns + 1, squeeze=False,
                                figsize=(1.12 * (columns + 1), 2.05 * per * len(explanations) + 0.3))
    rows = []
    for axis in axes.flat:
        axis.axis("off")
    for e, (x, truth) in enumerate(zip(explanations, truths, strict=True)):
        axes[e * per, 0].axis("on")
        network = "none" if x.network_prediction is None else x.classes[x.network_prediction]
        lines = f"EBE: {x.classes[x.prediction]}", f"network: {network}"
        # No wider than the image.
        said = "\n".join(line if len(line) < 18 else line.replace(": ", ":\n") for line in lines)
        draw_image(axes[e * per, 0], x.image, f"test image\n{x.classes[truth]}", xlabel=said)
        for rank, (i, label, weight, distance) in enumerate(
                zip(x.indices, x.labels, x.weights, x.distances, strict=True)):
            axis = axes[e * per + rank // columns, 1 + rank % columns]
            axis.axis("on")
            draw_image(axis, x.examples[rank], f"{rank + 1}\n{x.classes[label]}",
                       RIGHT if label == truth else WRONG, f"{distance:.3g}")
            rows.append({"image": e, "truth": x.classes[truth], "ebe": x.classes[x.prediction],
                         "network": network, "layer": x.layer, "rank": rank + 1,
                         "index": int(i), "class": x.classes[label], "weight": weight, "distance": distance})
    figure.supxlabel(f"rank and class above, {explanations[0].metric} distance below; blue frame: the true class, "
                     "orange frame: another", fontsize=10)
    return figure, pd.DataFrame(rows)


def layers_figure(neighbors: LayerNeighbors, test_set: ImageSet, train_set: ImageSet, position: int,
                  layers: Iterable[int | str] = STRIP_LAYERS, k: int = 10) -> tuple[Figure, pd.DataFrame]:
    """The paper's figure 3: the k nearest training images of one test image at several layers.

    neighbors: `LayerNeighbors` of these two sets; position: of the image in the test set.
    """
    layers = [layer for layer in layers if layer in neighbors.names]
    height, width = len(layers) + 0.9, k + 1.9
    # All images in one axes, whose unit is an image and the gap to the next: axes of their own would take seconds.
    figure, axes = plt.subplots(figsize=(0.9 * width, 0.9 * height), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    truth, classes, rows = int(test_set.labels[position]), test_set.classes, []

    def place(image: torch.Tensor, x: float, y: float, color: Any, linewidth: float) -> None:
        _imshow(axes, image, extent=(x, x + 0.92, y + 0.92, y))
        axes.add_patch(Rectangle((x, y), 0.92, 0.92, fill=False, edgecolor=color, linewidth=linewidth))

    place(test_set.images[position], 0.05, 0, "0.5", 0.8)
    axes.text(0.51, -0.05, f"test image\n{classes[truth]}", ha="center", va="bottom", fontsize=10, parse_math=False)
    for row, layer in enumerate(layers):
        axes.text(1.75, row + 0.46, f"layer {layer}", ha="right", va="center", fontsize=10)
        for rank in range(k):
            i = int(neighbors.indices[layer][position, rank])
            label = int(train_set.labels[i])
            place(train_set.images[i], 1.85 + rank, row, RIGHT if label == truth else WRONG, 2.5)
            rows.append({"position": position, "truth": classes[truth], "layer": layer, "rank": rank + 1, "index": i,
                         "class": classes[label], "distance": float(neighbors.distances[layer][position, rank])})
    for rank in range(k):
        axes.text(2.31 + rank, -0.05, f"{rank + 1}", ha="center", va="bottom", fontsize=10)
    axes.text(1.85 + k / 2, len(layers), f"rank 1 to {k} from left to right; blue frame: the true class, orange frame: "
              "another", ha="center", va="top", fontsize=10)
    axes.set(xlim=(0, width), ylim=(height - 0.55, -0.55))
    axes.axis("off")
    return figure, pd.DataFrame(rows)


def accuracy_figure(sweep: pd.DataFrame, ks: Iterable[int] = KS, column: str = "accuracy",
                    title: str = "") -> tuple[Figure, pd.DataFrame]:
    """The paper's figures 4 to 6: accuracy (or agreement) against layer, a line for each k.

    sweep: `sweep_table`, or those of several seeds below each other with a column "seed": then lines are means, and
    bands one standard deviation. Dashed, the network's accuracy; dotted, the raw pixels' at k = 10.
    """
    values = [column, *(["network_accuracy"] if column == "accuracy" else [])]
    by = sweep.groupby(["layer", "name", "k"], sort=False)
    sweep = by[values].mean().assign(sd=by[column].std()).reset_index()  # sd is missing where there is one seed
    ks = [k for k in ks if (sweep["k"] == k).any()]
    layers, pixels = sweep[sweep["layer"] != PIXELS], sweep[sweep["layer"] == PIXELS]
    numbers = list(dict.fromkeys(layers["layer"]))
    x = dict(zip(numbers, range(1, len(numbers) + 1), strict=True))
    figure, axes = plt.subplots(figsize=(9.2, 4.6))
    for k, color, marker in zip(ks, sns.color_palette("viridis", len(ks)), cycle(MARKERS), strict=False):
        part = layers[layers["k"] == k]
        axes.plot(part["layer"].map(x), 100 * part[column], color=color, marker=marker, markersize=5, label=f"k = {k}")
        axes.fill_between(part["layer"].map(x), 100 * (part[column] - part["sd"]), 100 * (part[column] + part["sd"]),
                          color=color, alpha=0.25, linewidth=0)
    if column == "accuracy":
        axes.axhline(100 * sweep["network_accuracy"].iloc[0], color="black", linestyle="--", label="network")
    if len(pixels):
        k = 10 if 10 in ks else ks[-1]
        axes.axhline(100 * pixels.loc[pixels["k"] == k, column].iloc[0], color="0.45", linestyle=":",
                     label=f"raw pixels, k = {k}")
    axes.set(xlabel="layer (convolutions from shallow to deep)", title=title,
             ylabel="accuracy (%)" if column == "accuracy" else "agreement with the network (%)")
    axes.set_xticks(list(x.values()), [str(n) for n in numbers])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)  # no place inside is free
    sns.despine(figure)
    shown = sweep[sweep["k"].isin(ks)]
    return figure, shown.dropna(axis=1, how="all")
