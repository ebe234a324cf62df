"""Tables over several runs: accuracies, verdicts on the claims, measures of explanations, regret of choices."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..paths import reference_root
from .claims import judge_claims
from .run import Run

SCORED = ("faithfulness", "stability", "retraining")  # steps with a scorecard, of notebooks 08, 17 and 18


def title(same: list[Run]) -> str:
    """Title of a figure over the runs of one group."""
    return f"{same[0].parameters.group}, seed{'s' * (len(same) > 1)} {', '.join(str(r.parameters.seed) for r in same)}"


def groups(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """{what they have in common: runs that differ in the seed only, by seed} (`Parameters.group`)."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.parameters.seed):
        found.setdefault(run.parameters.group, []).append(run)
    return found


def seeds_table(same: Iterable[Run]) -> pd.DataFrame:
    """The `sweep_table`s of runs below each other, with a column "seed"."""
    return pd.concat([_sweep(run).assign(seed=run.parameters.seed) for run in same], ignore_index=True)


def results_table(runs: Iterable[Run], k: int = 10) -> pd.DataFrame:
    """What runs reached, a row for each group: accuracies in per cent, mean ± standard deviation over the seeds.

    minutes: of training (epochs times the fastest one, since others may have shared the processor) and sweep, for the
    fastest seed.
    """
    rows = []
    for group, same in groups(runs).items():
        sweeps = [_sweep(run) for run in same]
        at = pd.concat([s[s["k"] == k].set_index("layer")["accuracy"] for s in sweeps], axis=1)
        network = pd.Series([s["network_accuracy"].iloc[0] for s in sweeps])
        best = at.drop(index=0).mean(axis=1).idxmax()
        seconds = []
        for run in same:
            epochs = pd.read_csv(run.file("train", "history.csv"))["seconds"]
            seconds.append(len(epochs) * epochs.min() + run.manifest(run.parameters.sweep_step)["seconds"])
        rows.append({"runs": group, "seeds": len(same), "network": _mean(network), "layer 14": _mean(at.loc[14]),
                     "best layer": f"{_mean(at.loc[best])} ({best})", "raw pixels": _mean(at.loc[0]),
                     "hardware": ", ".join(sorted({run.manifest("train")["device"] for run in same})),
                     "minutes": f"{min(seconds) / 60:.0f}"})
    return pd.DataFrame(rows)


def verdicts_table(runs: Iterable[Run], k: int = 10) -> pd.DataFrame:
    """`judge_claims` of runs in short: a row for each claim, a column for each group, verdicts with their counts."""
    columns, texts = {}, pd.Series(index=pd.Index([], dtype=str), dtype=str)
    for group, same in groups(runs).items():
        judged = [judge_claims(run_table(run, "together.csv", index_col=0), run.parameters.dataset, k) for run in same]
        judged = pd.concat(judged).set_index("claim")
        texts = judged["text"].groupby(level=0).first().str.replace(r" \(layer \d+\)", "", regex=True)
        columns[group] = judged["verdict"].groupby(level=0).agg(_in_short)
    return pd.DataFrame({"claim": texts.index + ": " + texts, **columns}).reset_index(drop=True)


def scorecards(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """{run: its scorecard}, of the runs that have one: those of notebooks 08, 17 and 18 below each other.

    Runs that were done when notebook 08 held all three have one of their step "evaluation".
    """
    found = {}
    for run in runs:
        steps = [step for step in SCORED if (run.path / step).exists()]
        steps = steps or ["evaluation"] * (run.path / "evaluation").exists()
        if steps:
            tables = [pd.read_csv(run.file(step, "summary.csv")) for step in steps]
            found[run.name] = pd.concat(tables, ignore_index=True).rename(columns={"layer 14": "value"})
    return found


def evaluation_table(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Scorecards of notebooks 08, 17 and 18 side by side: a row for each metric, a column for each of {name: summary}.

    A cell says what the judged examples reach, in parentheses its interval, and after a stroke what raw pixels reach.
    A second column says where the examples come from, which earlier scorecards do not say.
    """
    columns, sources = {}, pd.Series(dtype=str)
    for name, table in summaries.items():
        table = table.set_index("metric")
        reached = table[["value", "low", "high", "raw pixels"]].map("{:.3f}".format)
        columns[name] = (reached["value"] + " (" + reached["low"] + " to " + reached["high"] + ") / "
                         + reached["raw pixels"])
        sources = sources.combine_first(table["examples from"]) if "examples from" in table else sources
    metrics = pd.concat(summaries)["metric"].unique()
    found = pd.DataFrame({"examples from": sources, **columns}).reindex(metrics)
    return found.fillna("–").reset_index(names="metric")


def choices_table(choices: dict[str, pd.DataFrame], optimism: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What held-out training images chose in each of {run: choices.csv of notebook 09}, and what that loses.

    Points of accuracy on the test images by which the choice, fixed rules (k = 10) and the network miss the best
    candidate, which is biased upwards, since the best was selected on the same images; without selection bias
    (split-half): by which the choice misses the candidate that is best on one half, measured on the other. optimism:
    {run: optimism.csv}; the column is the mean over layers 16 to 20 of estimate minus test accuracy where the held-out
    images were trained on.
    """
    rows = []
    for run, table in choices.items():
        at = table.set_index("rule")
        chosen, points = at.loc["held out, unseen"], 100 * at["regret"]
        seen = optimism[run].query("how == 'held out, seen in training'")
        deep = pd.to_numeric(seen["layer"], errors="coerce") >= 16
        rows.append({"run": run, "chosen": f"layer {chosen['layer']}, k = {chosen['k']}, {chosen['metric']}, "
                                           f"{chosen['weights']}",
                     "misses the best by": f"{points['held out, unseen']:.2f} ({100 * chosen['regret_low']:.2f} to "
                                           f"{100 * chosen['regret_high']:.2f})",
                     "without selection bias": f"{100 * chosen['split_half']:.2f}",
                     **{name: f"{points[rule]:.2f}" for name, rule in (
                         ("layer 14", "layer 14"), ("layer 14, NNK", "layer 14, NNK votes"),
                         ("layer 20", "last convolution"),
                         ("pooled", "pooled, before the classifier"), ("network", "the network itself"))},
                     "optimism": f"{seen['optimism'][deep].mean():+.2f}"})
    return pd.DataFrame(rows)


def _sweep(run):
    return run_table(run, "sweep.csv")


def run_table(run: Run, name: str, **how: Any) -> pd.DataFrame:
    """A table of a run's sweep; how: keyword arguments of `pd.read_csv`."""
    return pd.read_csv(run.file(run.parameters.sweep_step, name), **how)


def _mean(values):
    values = 100 * values
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def _in_short(verdicts):
    counts = verdicts.value_counts()
    if "does not apply" in counts:
        return "–"
    n = len(verdicts)
    return counts.index[0] if n == 1 else ", ".join(f"{v} ({count} of {n})" for v, count in counts.items())


def agreement_table(runs: Iterable[Run], k: int = 10, layers: tuple[int, ...] = (0, 9, 14, 19)) -> pd.DataFrame:
    """How far the vote is the network's answer: a row for each group of runs, a column for each of `layers`.

    A cell gives, in per cent of the test images and as means over the seeds, the vote's accuracy, its agreement with
    the network, and its agreement on those images that the network gets wrong (– if there are none). 0: raw pixels.
    k: one of those in together.csv (1, 3, 5, 10, 20, 50).
    """
    rows = []
    for group, same in groups(runs).items():
        row: dict[str, object] = {"runs": group, "network: accuracy": None}
        for layer in layers:
            measured = pd.DataFrame([faithfulness(run, layer, k) for run in same]).mean()
            row["network: accuracy"] = f"{100 * measured['network']:.1f}"
            row[f"layer {layer}" if layer else "raw pixels"] = " / ".join(
                "–" if pd.isna(share) else f"{100 * share:.1f}"
                for share in measured[["accuracy", "agreement", "on mistakes"]])
        rows.append(row)
    return pd.DataFrame(rows)


def faithfulness(run: Run, layer: int, k: int, step: str = "") -> dict[str, float]:
    """Shares of test images: the network right, the vote right, both say the same, the same where it is wrong.

    As "network", "accuracy", "agreement" and "on mistakes" (NaN if there are none), and "mistakes", their number.
    layer: 0 for raw pixels; k: one of those in together.csv; step: the sweep, by default the run's own.
    """
    step = step or run.parameters.sweep_step
    at = pd.read_csv(run.file(step, "sweep.csv")).set_index(["layer", "k"]).loc[(layer, k)]
    together = pd.read_csv(run.file(step, "together.csv"), index_col=0)
    n, right = together.loc["all", "all"], together.loc["network", "all"]
    both_right = together.loc["network", f"{layer}/{k}"]
    same_mistake = round(at["agreement"] * n) - both_right
    return {"network": right / n, "accuracy": at["accuracy"], "agreement": at["agreement"],
            "on mistakes": same_mistake / (n - right) if n > right else float("nan"), "mistakes": n - right}


def faithfulness_table(run: Run, layers: Iterable[int], k: int = 10, step: str = "") -> pd.DataFrame:
    """`faithfulness` of one run at several layers, in per cent: examples by, accuracy, agreement, on mistakes."""
    columns = ["accuracy", "agreement", "on mistakes"]
    rows = {layer: faithfulness(run, layer, k, step) for layer in layers}
    table = 100 * pd.DataFrame(rows).T[columns]
    table.index = [f"layer {layer}" if layer else "raw pixels" for layer in table.index]
    return table.reset_index(names="examples by")


def kept_frontiers(root: Path | None = None, folder: str = "frontier") -> pd.DataFrame:
    """The tables of choices of all networks in root/folder/ (by default of `reference_root()`), one after the other.

    folder: "frontier", the networks by the paper's recipe, or "frontier_fast", those of the profile "fast". Without
    rows if there are none.
    """
    files = sorted((Path(root or reference_root()) / folder).glob("*.csv"))
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def kept_tables(word: str, table: str, root: Path | None = None) -> pd.DataFrame:
    """A table of all committed runs of a notebook with data of its own, below each other, with a column run.

    word: the notebook's step, "text" or "transfer", whose runs are in root/word/ (by default of `reference_root()`).
    Without rows if there are none.
    """
    files = sorted((Path(root or reference_root()) / word).glob(f"*/{word}/{table}.csv"))
    parts = [pd.read_csv(file).assign(run=file.parts[-3]) for file in files]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def reliance_table(root: Path | None = None) -> pd.DataFrame:
    """Choices of ten examples on whole data sets, in per cent: run, examples, accuracy, agreement, on mistakes, near,
    reliance.

    Of root/frontier/, by default `reference_root()`. near: mean rank of the examples at layer 14 (of the training set);
    reliance: on the network's mistakes, to first order (`ebe_utils.reliance`).
    """
    table = kept_frontiers(root).drop(columns="examples").rename(columns={"choice": "examples"})
    table["near"] = table["near"].map("{:.2f}".format)  # from hundredths to 50
    shown = table["examples"].str.contains("^(?:layer 14|pooled|logits|influence|random$)")
    return table.loc[shown, ["run", "examples", "accuracy", "agreement", "on mistakes", "near", "reliance"]]


# Places at which an embedding can be taken around layer 15, and what is said of them: (layer, tap, cosine).
AROUND_15 = {
    "convolution 14": (14, "convolution", "raw"), "ReLU after 14, the input of 15": (14, "ReLU", "raw"),
    "convolution 15": (15, "convolution", "raw"), "convolution 15, centred": (15, "convolution", "centred"),
    "after the residual sum of 15": (15, "sum", "raw"),
    **{f"convolution {layer}, also second in its block": (layer, "convolution", "raw") for layer in (12, 17, 20)},
}


def taps_table(runs: Iterable[Run], column: str = "accuracy") -> pd.DataFrame:
    """Where the accuracy drops around layer 15: a row for each place, a column for each group of runs.

    Accuracies (or what else taps.csv has) in per cent, mean ± standard deviation over the seeds.
    """
    columns = {}
    for group, same in groups(runs).items():
        taps = [pd.read_csv(run.file("taps", "taps.csv")).query("pooling == 'flattened'").set_index(
            ["layer", "tap", "cosine"])[column] for run in same]
        columns[group] = [_mean(pd.Series([table.loc[place] for table in taps])) for place in AROUND_15.values()]
    return pd.DataFrame({"taken at": [*AROUND_15], **columns})
