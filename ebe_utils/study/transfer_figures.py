"""The figure of notebook 14: how accuracy and agreement grow with the number of labelled images."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .figures import MARKERS


def curve_figure(curve: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A line for each predictor, accuracy on the left and agreement with the probe on the right; (figure, its data).

    curve: columns labelled, predictor, accuracy, agreement (missing for what is no vote).
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True)
    predictors = [*dict.fromkeys(curve["predictor"])]
    for name, color, marker in zip(predictors, sns.color_palette("colorblind", len(predictors)), MARKERS * 3,
                                   strict=False):
        part = curve[curve["predictor"] == name]
        dash = "--" if part["agreement"].isna().all() else "-"
        axes[0].plot(part["labelled"], 100 * part["accuracy"], dash, color=color, marker=marker, label=name)
        if part["agreement"].notna().any():
            axes[1].plot(part["labelled"], 100 * part["agreement"], color=color, marker=marker)
    ticks = sorted(curve["labelled"].unique())
    for panel, label in zip(axes, ("accuracy (%)", "agreement with the probe (%)"), strict=True):
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{n:,}" for n in ticks])
        panel.minorticks_off()
        panel.set(xlabel="labelled images", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    return figure, curve
