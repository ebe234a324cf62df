"""Figures of notebook 15: accuracies over a training, and how the variance lies at layer 15."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .conditions import epoch_of, leads
from .recipes import DEFAULT
from .shortcuts import SECOND
from .snapshots import AVERAGE

COLORS = {9: "#009E73", 12: "#009E73", 14: "#0072B2", 15: "#D55E00", 16: "#CC79A7"}


def over_epochs(layers: pd.DataFrame, k: int = 10) -> Figure:
    """Accuracy of the network (dashed) and of k votes at layers 9, 14 and 15 at each snapshot, a panel for each run.

    The scale begins five points below the votes; a network that is worse is not shown there. layers: of
    `kept_snapshots`, or as `snapshot_tables` gives them, with the columns run and snapshot.
    """
    table = leads(layers, k)
    table = table[table["snapshot"] != AVERAGE]
    runs = list(dict.fromkeys(table["run"]))
    figure, axes = plt.subplots(1, len(runs), figsize=(5.2 * len(runs), 3.4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], runs, strict=True):
        part = table[table["run"] == name]
        epochs = part["snapshot"].astype(int)
        axis.plot(epochs, 100 * part["network"], "k--", label="network")
        for layer in (9, 14, 15):
            axis.plot(epochs, 100 * part[f"layer {layer}"], ".-", color=COLORS[layer], label=f"votes at layer {layer}")
        lowest = 100 * part[["layer 9", "layer 14", "layer 15"]].to_numpy().min()
        axis.set(title=name, xlabel="epoch", ylim=(lowest - 5, None))  # or the first epochs' network hides the rest
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[0, 0].legend(fontsize=8)
    return figure


def variance_figure(geometry: pd.DataFrame, layers: tuple[int, ...] = (14, 15, 16)) -> Figure:
    """Cosine votes as they are and after whitening, and the share of the variance in two directions, over the epochs.

    geometry: of `kept_snapshots`; a line for each run and layer, each run with its own dashes.
    """
    geometry = geometry.assign(epoch=geometry["snapshot"].map(epoch_of))
    geometry = geometry[np.isfinite(geometry["epoch"])].sort_values("epoch")
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    for name, style in zip(geometry["run"].unique(), ("-", "--", ":"), strict=False):
        for layer in layers:
            part = geometry[(geometry["run"] == name) & (geometry["layer"] == layer)]
            for panel, column in zip(panels, ("raw", "whitened", "top"), strict=True):
                panel.plot(part["epoch"], 100 * part[column], style, color=COLORS[layer],
                           label=f"layer {layer}, {name.split('-')[0]}")
    panels[0].set(title="cosine votes", ylabel="accuracy (%)")
    panels[1].set(title="cosine votes after whitening", ylim=panels[0].get_ylim())
    panels[2].set(title="variance in two directions", ylabel="share of the variance (%)", ylim=(0, 103))
    for panel in panels:
        panel.set_xlabel("epoch")
    figure.legend(*panels[2].get_legend_handles_labels(), fontsize=9, ncols=geometry["run"].nunique(),
                  loc="outside lower center")
    return figure


def shortcuts_figure(table: pd.DataFrame) -> Figure:
    """How the second convolutions lie, what whitening adds to cosine votes there, and what the network is without.

    table: of `kept_shortcuts`; a line for each data set, number of training images, optimizer and kind of shortcuts,
    the mean over seeds, and a mark for each seed.
    """
    figure, panels = plt.subplots(1, 3, figsize=(14, 3.8), layout="constrained")
    at = table[table["layer"].isin(SECOND)].assign(
        lacks=table["whitened"] - table["raw"], loses=table["without"] - table["network"])
    about = ["dataset", "images", "optimizer", "shortcuts"]
    for color, ((dataset, images, optimizer, shortcuts), part) in enumerate(at.groupby(about, sort=False)):
        label = f"{dataset}, {images:,}, {optimizer}" + (f", {shortcuts}" if shortcuts != DEFAULT else "")
        for panel, column in zip(panels, ("top", "lacks", "loses"), strict=True):
            mean = 100 * part.groupby("layer")[column].mean()
            places = [SECOND.index(layer) for layer in mean.index]
            panel.plot(places, mean, "-", color=f"C{color}", label=label)
            panel.plot([SECOND.index(layer) for layer in part["layer"]], 100 * part[column], ".", color=f"C{color}")
    panels[0].set(title="variance in two directions", ylabel="share of the variance (%)", ylim=(0, 103))
    panels[1].set(title="what whitening adds to cosine votes", ylabel="accuracy (points)")
    panels[2].set(title="the network without the block", ylabel="change of its accuracy (points)")
    for panel in panels:
        panel.set_xticks(range(len(SECOND)), map(str, SECOND))
        panel.set_xlabel("layer (second convolutions of blocks)")
    for panel in panels[1:]:
        panel.axhline(0, color="black", linewidth=0.8)
    figure.legend(*panels[0].get_legend_handles_labels(), title="data, training images, optimizer", fontsize=9,
                  ncols=4, loc="outside lower center")
    return figure
