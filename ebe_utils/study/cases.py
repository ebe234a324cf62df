"""Verdicts on the paper's claims, case by case: at which conditions a claim holds, and how sure that is.

A case is one network, looked at in one way: a whole run, a snapshot of a training, or a training by another recipe with
one reading of "the output of a layer". Cases of one training hang together; trainings do not.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..statistics import proportion_interval
from .claims import judge_claims
from .recipes import DEFAULT
from .results import run_table
from .run import Run
from .snapshots import AVERAGE

# The claims and readings, in short; which data set each is about is decided by `judge_claims`.
CLAIMS = {"1a": "all layers but the first beat the network", "1b": "all but the last beat it",
          "2a": "layers 9 to 20 beat it", "2b": "layers 1 to 9 beat it", "3": "a middle layer is best",
          "4": "the layer matters more than k", "5": "layers 16 and 19 are on a par with the network",
          "6": "layer 15 drops", "7": "k = 10 is the compromise", "8": "ten examples lose no accuracy"}
KINDS = ("holds", "undecided", "does not hold")
RECIPE, TRAINING, AVERAGED, OTHERS = "at the recipe", "while training", "averaged", "other recipes"
SOURCES = (RECIPE, TRAINING, AVERAGED, OTHERS)
STAGES = (("epochs 1 to 5", 5), ("epochs 6 to 20", 20), ("epochs 21 to 60", 60))  # and the last epoch of each


def all_cases(runs: Iterable[Run], snapshots: pd.DataFrame, recipes: pd.DataFrame) -> pd.DataFrame:
    """Every case in which a claim is about the data set: claim, dataset, verdict, training, source, condition, ends.

    runs: of which those by the paper's recipe count; snapshots: verdicts of `kept_snapshots`; recipes: claims of
    `kept_recipes`. source: one of `SOURCES`; condition: what is not as in the whole runs, in words, "" for several
    such things at once; ends: whether it is what its training ends with, read as here.
    """
    parts = []
    for run in runs:
        if run.parameters.profile == "paper":
            dataset = run.parameters.dataset
            verdicts = judge_claims(run_table(run, "together.csv", index_col=0), dataset)[["claim", "verdict"]]
            parts.append(verdicts.assign(
                dataset=dataset, training=run.name, source=RECIPE, condition="60 epochs, whole data", ends=True))
    if len(snapshots):
        averaged = snapshots["snapshot"] == AVERAGE
        epoch = snapshots["snapshot"].mask(averaged, "0").astype(int)
        stage = np.array([next(words for words, last in STAGES if one <= last) for one in epoch], object)
        last = epoch.groupby(snapshots["run"]).transform("max")
        parts.append(snapshots[["claim", "verdict"]].assign(
            dataset=snapshots["run"].str.split("-").str[0], training=snapshots["run"],
            source=np.where(averaged, AVERAGED, TRAINING), condition=np.where(averaged, "averaged weights", stage),
            ends=~averaged & (epoch == last)))
    if len(recipes):
        default, as_here = recipes["recipe"] == DEFAULT, recipes["reading"] == DEFAULT
        condition = np.select([default & as_here, as_here, default],
                              ["a part of the data", recipes["recipe"], recipes["reading"]], "")
        parts.append(recipes[["claim", "verdict", "dataset"]].assign(
            training=recipes["dataset"] + "-" + recipes["recipe"] + "-" + recipes["seed"].astype(str), source=OTHERS,
            condition=condition, ends=as_here))
    cases = pd.concat(parts, ignore_index=True)
    return cases[cases["verdict"].isin(KINDS)].reset_index(drop=True)


def when_claims_hold(cases: pd.DataFrame) -> pd.DataFrame:
    """For each claim and data set in how many of `all_cases` it holds / is undecided / does not hold.

    Columns: claim, data set, and `SOURCES`. A cell "2 / 1 / 0" means 2 hold, 1 undecided, 0 do not; "–": none.
    """
    rows = []
    for claim, dataset, part in _by_claim(cases):
        counts = {source: " / ".join(str((of["verdict"] == kind).sum()) for kind in KINDS)
                  for source, of in part.groupby("source")}
        rows.append({"claim": f"{claim}: {CLAIMS[claim]}", "data set": dataset,
                     **{source: counts.get(source, "–") for source in SOURCES}})
    return pd.DataFrame(rows)


def verdicts_in_three_parts(cases: pd.DataFrame, least: float = 0.5) -> pd.DataFrame:
    """For each claim and data set: the verdict at the paper's recipe, the conditions, and how sure it is.

    at the recipe: verdicts of the whole runs, with their number. holds when, does not hold when: conditions at which it
    does so in more than `least` of the cases, in brackets how often and of how many if there is more than one; "never"
    or "always" where that is so in all cases. how sure: the share of trainings that end with a network of which it
    holds, in per cent, with the 95 % interval of `proportion_interval`, and their number: trainings are independent,
    cases of one training are not.
    """
    rows = []
    for claim, dataset, part in _by_claim(cases):
        whole = part[part["source"] == RECIPE]["verdict"].value_counts()
        ends = (part[part["ends"]]["verdict"] == "holds").to_numpy()
        low, high = proportion_interval(ends)
        rows.append({
            "claim": f"{claim}: {CLAIMS[claim]}", "data set": dataset,
            "at the paper's recipe": ", ".join(f"{kind} ({whole[kind]} of {whole.sum()})" for kind in KINDS
                                               if kind in whole) or "no run",
            "holds when": _conditions(part, "holds", least),
            "does not hold when": _conditions(part, "does not hold", least),
            "how sure": f"{100 * ends.mean():.0f} % ({100 * low:.0f} to {100 * high:.0f}) of {len(ends)}"})
    return pd.DataFrame(rows)


def _by_claim(cases):
    for claim in CLAIMS:
        for dataset, part in cases[cases["claim"] == claim].groupby("dataset"):
            yield claim, dataset, part


def _conditions(part, verdict, least):
    is_so = part["verdict"] == verdict
    if is_so.all():
        return f"always ({len(part)} cases)"
    if not is_so.any():
        return f"never ({len(part)} cases)"
    named = part["condition"] != ""
    counts = is_so[named].groupby(part["condition"][named], sort=False).agg(["sum", "size"])
    counts = counts[counts["sum"] > least * counts["size"]]
    words = [row.Index + f" ({row.sum} of {row.size})" * (row.size > 1) for row in counts.itertuples()]
    return "; ".join(words) or "mostly nowhere"


def score_recipes(recipes: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """How many claims hold by each recipe and reading, the most first: recipe, reading, hold, of, expected, at least.

    recipes: claims of `kept_recipes`; only recipes that were tried on as many claims, data sets and readings as the
    most are scored, by the seeds that all of these have. hold: claims that hold, over data sets and seeds; of: how many
    were judged. expected: of the best, if the verdicts on each claim were dealt to the recipes at random (`draws`
    times), those of the four readings of one network together, since they are alike; at least: the share of these draws
    in which the best does at least as well as this one.
    """
    judged = recipes[recipes["verdict"].isin(KINDS)].assign(holds=lambda table: table["verdict"] == "holds")
    tried = judged.drop_duplicates(["recipe", "reading", "dataset", "claim"]).groupby(["recipe", "reading"]).size()
    readings = (tried == tried.max()).groupby(level="recipe").transform("sum")
    grid = judged.pivot_table(index=["recipe", "reading"], columns=["dataset", "seed", "claim"], values="holds")
    grid = grid[(tried == tried.max()) & (readings == readings.max())].dropna(axis=1, how="any").astype(bool)
    score, generator = grid.sum(axis=1), np.random.default_rng(seed)
    dealt = grid.to_numpy().reshape(-1, readings.max(), grid.shape[1])  # (recipes, readings, claims)
    order = generator.random((draws, len(dealt), 1, grid.shape[1])).argsort(axis=1)
    best = np.array([np.take_along_axis(dealt, one, axis=0).sum(axis=2).max() for one in order])
    return pd.DataFrame({
        "hold": score, "of": grid.shape[1], "expected": best.mean(),
        "at least": [(best >= one).mean() for one in score]}).sort_values(
            "hold", ascending=False, kind="stable").reset_index()
