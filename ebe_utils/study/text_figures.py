"""Figures and tables of notebooks 12 and 13: accuracy and agreement by layer, and texts with shaded words."""

import html
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..words import WordMatch
from .figures import MARKERS

_CLOSE, _APART = "76,114,176", "221,132,82"  # blue: adds to the similarity; orange: takes from it


def layers_figure(sweep: pd.DataFrame, baselines: Mapping[str, float], ks: Sequence[int] = (1, 5, 10, 50),
                  what: str = "texts", depth: str = "layer (0: tokens, then blocks)") -> tuple[Figure, pd.DataFrame]:
    """Accuracy of the vote, and its agreement with the network, by layer: a line for each k; (figure, its data).

    sweep: `sweep_table` with a column "where wrong", the agreement on the network's mistakes. baselines: {name:
    accuracy}, drawn as level lines. what, depth: what the inputs are, and the label of the axis of layers.
    """
    shown = sweep[sweep["k"].isin(ks)]
    layers = [*dict.fromkeys(shown["layer"])]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True)
    for k, color, marker in zip(ks, sns.color_palette("viridis", len(ks)), MARKERS, strict=False):
        part = shown[shown["k"] == k]
        x, look = part["layer"].map(layers.index), {"color": color, "marker": marker}
        axes[0].plot(x, 100 * part["accuracy"], label=f"k = {k}", **look)
        axes[1].plot(x, 100 * part["agreement"], **look)
        axes[1].plot(x, 100 * part["where wrong"], linestyle=":", **look)
    levels = {"network": shown["network_accuracy"].iloc[0], **baselines}
    for (name, value), dash in zip(levels.items(), ("--", "-.", (0, (1, 3))), strict=False):
        axes[0].axhline(100 * value, color="black", linestyle=dash, linewidth=1.2, label=name)
    axes[0].set(ylabel="accuracy (%)", xlabel=depth, xticks=range(len(layers)))
    axes[1].set(ylabel="agreement with the network (%)", xlabel="layer", ylim=(0, 101))
    axes[1].plot([], [], color="0.3", label=f"all {what}")
    axes[1].plot([], [], color="0.3", linestyle=":", label="where the network is wrong")
    axes[1].legend(fontsize=9, loc="lower right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    return figure, shown


def shaded(words: Sequence[str], values: np.ndarray, most: float) -> str:
    """Words of a `WordMatch` without the first token, as HTML: blue for what adds to the similarity, orange against."""
    parts = []
    for word, value in zip(words[1:], values[1:], strict=True):
        strength = min(1.0, abs(value) / most) if most > 0 else 0.0
        color = f"rgba({_CLOSE if value > 0 else _APART},{0.75 * strength:.2f})"
        text = html.escape(word)
        span = f'<span style="background:{color}" title="{value:+.3f}">{text}</span>'
        parts.append(span if strength > 0.05 else text)
    return "".join(parts)


def words_table(matches: Sequence[WordMatch], classes: Sequence[str], title: str) -> str:
    """HTML of a text and its examples, nearest first: the words of either that make the two close are shaded.

    classes: the name of each example's class. The shades of all rows have one scale, that of the largest lead.
    """
    most = max(float(np.abs(side[1:]).max()) for match in matches for side in match.leads)
    rows = []
    for match, name in zip(matches, classes, strict=True):
        text, example = (shaded(words, values, most) for words, values in zip(match.words, match.leads, strict=True))
        rows.append(f"<tr><td>{html.escape(name)}</td><td style='text-align:left'>{text}<br><b>{example}</b></td>"
                    f"<td>{match.cosine:.3f}</td><td>{match.lead[0]:+.3f}</td></tr>")
    return (f'<table class="ebe-explanation"><thead><tr><th>class</th><th style="text-align:left">{html.escape(title)}'
            '</th><th>cosine</th><th>lead</th></tr></thead><tbody>' + "".join(rows) + "</tbody></table>")
