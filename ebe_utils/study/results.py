"""Tables over several runs: accuracies, verdicts on the claims, measures of explanations, regret of choices."""

from collections.abc import Iterable

import pandas as pd

from .claims import judge_claims
from .run import Run


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


def evaluation_table(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Summaries of notebook 08 side by side: a row for each metric, a column for each of {name: summary}.

    A cell says what the layer reaches, in parentheses its interval, and after a stroke what raw pixels reach.
    """
    columns = {}
    for name, table in summaries.items():
        ends = table[["low", "high"]].map("{:.3f}".format)
        reached = table[["layer 14", "raw pixels"]].map("{:.3f}".format)
        columns[name] = (reached["layer 14"] + " (" + ends["low"] + " to " + ends["high"] + ") / "
                         + reached["raw pixels"]).set_axis(table["metric"])
    metrics = pd.concat(summaries)["metric"].unique()
    return pd.DataFrame(columns).reindex(metrics).fillna("–").reset_index(names="metric")


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


def run_table(run: Run, name: str, **how) -> pd.DataFrame:
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
