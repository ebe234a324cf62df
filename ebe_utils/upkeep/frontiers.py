"""Choices of examples compared on the networks of whole runs: one table for each run in data/reference/frontier/."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..files import write_text
from ..frontier import Frontier
from ..study.figures import save_figure, style
from ..study.run import Run
from .publishing import CHECKOUT, REFERENCE

FOLDER, FAST = REFERENCE / "frontier", REFERENCE / "frontier_fast"
# Of these choices the last layer is refitted: a refit of a whole data set's last layer takes seconds.
REFITTED = ("layer 14, nearest", "nearest of the answer", "answers, of 200", "influence, of", "shares, of",
            "representer", "random of")


def keep_frontier(name: str, refits: int = 25, folder: Path | None = None) -> Path:
    """Write the table of a run's network; candidates are 50, 200 and one per cent of the training images.

    folder: by default `FOLDER`, or `FAST` for a run of the profile "fast".

    Raises RunError for a run without a trained network.
    """
    run = Run.open(name)
    folder = folder or (FAST if run.parameters.profile == "fast" else FOLDER)
    train_set, test_set = run.load_data()
    model = run.load_model(train_set)
    frontier = Frontier(model, train_set, test_set, candidates=(50, 200, max(50, len(train_set) // 100)))
    judge, choices = frontier.judge(), frontier.choices()
    table = frontier.table(judge, choices, 0)
    for choice in table["choice"][table["choice"].str.startswith(REFITTED)]:
        refitted = frontier.table(judge, {choice: choices[choice]}, refits)
        for column in ("refit", "refit low", "refit high"):
            table.loc[table["choice"] == choice, column] = refitted[column][0]
    table = pd.concat([table, frontier.bounds(judge, refits)], ignore_index=True)
    return write_frontier(table, run.name, judge.ridge, refits, folder)


def write_frontier(table: pd.DataFrame, run: str, ridge: float, refits: int, folder: Path = FOLDER) -> Path:
    """The table as a CSV file named after its run, with the ridge of the judge and the number of refits."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"run": run, **{column: table[column] for column in table}, "ridge": ridge, "refits": refits}
    path = folder / f"{run}.csv"
    write_text(path, pd.DataFrame(about).to_csv(index=False, float_format="%.4g"))
    return path


# What the figure shows: (beginning of the choice's name, label, where the label stands: points right and up of it).
SHOWN = (("layer 14, nearest", "nearest (the paper)", (4, -11)), ("convex weights", "convex weights", (7, 8)),
         ("nearest of the answer", "nearest of the answer's class", (7, -2)),
         ("probabilities", "same softmax", (-7, 5)), ("pooled features", "pooled features", (-7, -11)),
         ("influence, of", "by influence", (9, 4)),
         ("representer", "representer points", (-7, 6)), ("random of", "random, answer's class", (0, -22)))


def frontier_figure(tables: pd.DataFrame) -> Figure:
    """Reliance against nearness, a panel for each run: the field's choices as circles, ours by influence as squares.

    tables: as `keep_frontier` writes them, one after the other. To first order on all mistakes; each point is labelled
    with the choice and its agreement on the network's mistakes, and ours are joined over the numbers of candidates.
    """
    runs = list(dict.fromkeys(tables["run"]))
    figure, axes = plt.subplots(1, len(runs), figsize=(5.6 * len(runs), 4.2), sharey=True, squeeze=False,
                                layout="constrained")
    for axis, run in zip(axes[0], runs, strict=True):
        table = tables[tables["run"] == run]
        for start, label, beside in SHOWN:
            part = table[table["choice"].str.startswith(start)].sort_values("near")
            ours = start.startswith("influence")
            color = "#D55E00" if ours else "#0072B2"
            axis.plot(part["near"], part["reliance"], "s-" if ours else "o", color=color, markersize=6)
            for _, row in part.iterrows():
                word = f"{label} of {row['choice'].split()[-1]}" if ours else label
                axis.annotate(f"{word}: {row['on mistakes']:.0f} %", (row["near"], row["reliance"]), beside,
                              textcoords="offset points", fontsize=8, color=color, va="center",
                              ha="left" if beside[0] > 0 else "right")
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(xscale="log", title=run.split("-")[0], xlim=(0.005, 60),
                 xlabel="mean rank of the examples (% of the training images)")
    axes[0, 0].set_ylim(-4, None)
    axes[0, 0].set_ylabel("reliance on the network's mistakes\n(% of the possible)")
    return figure


def draw_frontier(tables: pd.DataFrame, figures: Path = CHECKOUT / "figures") -> Path:
    """Draw the README's figure anew, figures/frontier/frontier.png; returns its path."""
    with plt.rc_context():
        style()
        figure = frontier_figure(tables)
        shown = tables[tables["choice"].str.startswith(tuple(start for start, *_ in SHOWN))]
        path = save_figure(figures / "frontier", "frontier", figure, shown[["run", "choice", "near", "reliance",
                                                                              "on mistakes"]])
        plt.close(figure)
    return path


def frontier_table(tables: pd.DataFrame) -> pd.DataFrame:
    """The tables of several runs as the results page shows them, one row for each run and choice."""
    def interval(row: pd.Series) -> str:
        low, high = row["refit low"], row["refit high"]
        return "" if pd.isna(row["refit"]) else f"{row['refit']:.1f} ({low:.1f} to {high:.1f})"

    def column(name: str, digits: int) -> pd.Series:
        return tables[name].map(lambda value: "" if pd.isna(value) else f"{value:.{digits}f}")

    return pd.DataFrame({
        "run": tables["run"], "choice": tables["choice"], "agreement": column("agreement", 1),
        "on mistakes": column("on mistakes", 1), "TV": column("TV", 3), "near": column("near", 2),
        "reliance": column("reliance", 1), "refit (95 %)": tables.apply(interval, axis=1),
        "accuracy": column("accuracy", 1)})
