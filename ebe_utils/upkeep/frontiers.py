"""Choices of examples compared on the networks of whole runs: one table for each run in data/reference/frontier/."""

from pathlib import Path

import pandas as pd

from ..files import write_text
from ..frontier import Frontier
from ..study.run import Run
from .publishing import CHECKOUT

FOLDER = CHECKOUT / "data" / "reference" / "frontier"
# Of these choices the last layer is refitted: a refit of a whole data set's last layer takes seconds.
REFITTED = ("layer 14, nearest", "nearest of the answer", "answers, of 200", "influence, of", "shares, of",
            "representer", "random of")


def keep_frontier(name: str, refits: int = 25, folder: Path = FOLDER) -> Path:
    """Write the table of a run's network; candidates are 50, 200 and one per cent of the training images.

    Raises RunError for a run without a trained network.
    """
    run = Run.open(name)
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
