"""Results that are committed: tables of finished runs in data/reference/, their figures, and what the README says."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from .claims import judge_claims
from .figures import accuracy_figure, save_figure, style
from .pipeline import CHECKOUT
from .runs import REFERENCE, Run, RunError, write_text

# What is kept of steps that not every run has been through.
ALSO = {"evaluation": ["summary.csv"], "choosing": ["choices.csv", "optimism.csv", "ways.csv"]}


def keep_results(run, root=REFERENCE, figures=CHECKOUT / "figures"):
    """Copy what is small of a run to `root`/name: parameters, and of each step the tables and the manifest.

    Needed are the steps of notebooks 01, 04, 05 and 07; those of 08 and 09 are kept where they are done. The manifest
    lists, as outputs, what was kept, and under "not_kept" the rest (weights, neighbours, pictures), by hash. The
    figures go to `figures`/group: pictures of images from the lowest seed that is kept, accuracies drawn anew over all
    of its seeds. Returns the folder of the tables. RunError if the run is not there, but only what is kept of it.
    """
    if run.committed:
        raise RunError(f"there is no run {run.name} on this machine, only what is kept of it, in {run.path}; do it "
                       f"again with\n  {run.command()}")
    target, part = Path(root) / run.name, Path(root) / f".{run.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    also = [step for step in ALSO if (run.path / step / "manifest.json").exists()]
    for step in ("train", run.parameters.sweep_step, "figures", "taps", *also):
        manifest = run.manifest(step)
        kept = {name: digest for name, digest in manifest["outputs"].items()
                if name.endswith(".csv") and name in ALSO.get(step, [name])}
        manifest["not_kept"] = {n: digest for n, digest in manifest["outputs"].items() if n not in kept}
        manifest["outputs"] = kept
        (part / step).mkdir(parents=True)
        for name in kept:
            shutil.copyfile(run.file(step, name), part / step / name)
        write_text(part / step / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    shutil.copyfile(run.path / "parameters.json", part / "parameters.json")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    group, folder = run.parameters.group, Path(figures) / run.parameters.group
    same = groups(Run.kept(root).values())[group]
    if run.name == same[0].name:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path / "figures", folder, ignore=shutil.ignore_patterns("*.json", "examples.csv", ".*"))
    with plt.rc_context():
        style()
        for name, column in ((next(folder.glob("figure*_accuracy.csv")).stem, "accuracy"), ("agreement", "agreement")):
            figure, data = accuracy_figure(seeds_table(same), column=column, title=title(same))
            save_figure(folder, name, figure, data)
            plt.close(figure)
    return target


def title(same):
    """Title of a figure over the runs of one group."""
    return f"{same[0].parameters.group}, seed{'s' * (len(same) > 1)} {', '.join(str(r.parameters.seed) for r in same)}"


def groups(runs):
    """{what they have in common: runs that differ in the seed only, by seed} (`Parameters.group`)."""
    found = {}
    for run in sorted(runs, key=lambda run: run.parameters.seed):
        found.setdefault(run.parameters.group, []).append(run)
    return found


def seeds_table(same):
    """The `sweep_table`s of runs below each other, with a column "seed"."""
    return pd.concat([_sweep(run).assign(seed=run.parameters.seed) for run in same], ignore_index=True)


def results_table(runs, k=10):
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


def verdicts_table(runs, k=10):
    """`judge_claims` of runs in short: a row for each claim, a column for each group, verdicts with their counts."""
    columns, texts = {}, pd.Series(index=pd.Index([], dtype=str), dtype=str)
    for group, same in groups(runs).items():
        judged = [judge_claims(_table(run, "together.csv", index_col=0), run.parameters.dataset, k) for run in same]
        judged = pd.concat(judged).set_index("claim")
        texts = judged["text"].groupby(level=0).first().str.replace(r" \(layer \d+\)", "", regex=True)
        columns[group] = judged["verdict"].groupby(level=0).agg(_in_short)
    return pd.DataFrame({"claim": texts.index + ": " + texts, **columns}).reset_index(drop=True)


def evaluation_table(summaries):
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


def choices_table(choices, optimism):
    """What held-out training images chose in each of {run: choices.csv of notebook 09}, and what that loses.

    Points of accuracy on the test images by which the choice, fixed rules (k = 10) and the network miss the best
    candidate; without luck: by which the choice misses the one that is best on other images. optimism: {run:
    optimism.csv}; the column is the mean over layers 16 to 20 of estimate minus test accuracy where the held-out
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
                     "without luck": f"{100 * chosen['without_luck']:.2f}",
                     **{name: f"{points[rule]:.2f}" for name, rule in (
                         ("layer 14", "layer 14"), ("layer 14, NNK", "layer 14, NNK votes"),
                         ("layer 20", "last convolution"),
                         ("pooled", "pooled, before the classifier"), ("network", "the network itself"))},
                     "optimism": f"{seen['optimism'][deep].mean():+.2f}"})
    return pd.DataFrame(rows)


def _reported(runs, step, name, figures=CHECKOUT / "figures"):
    """{name: table} of one step: the default run's as it is published, and of the kept runs that have been there."""
    found = {"digits-quick-seed0": figures / step / name}
    found |= {run.name: run.file(step, name) for run in runs if (run.path / step).exists()}
    return {run: pd.read_csv(file) for run, file in found.items()}


def update_readme(path=CHECKOUT / "README.md", root=REFERENCE):
    """Write the tables of the committed runs into the README, between the comments that name them."""
    runs = Run.kept(root).values()
    text = path.read_text(encoding="utf-8")
    tables = {"results": results_table(runs), "verdicts": verdicts_table(runs),
              "evaluation": evaluation_table(_reported(runs, "evaluation", "summary.csv")),
              "choices": choices_table(_reported(runs, "choosing", "choices.csv"),
                                       _reported(runs, "choosing", "optimism.csv"))}
    for name, table in tables.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", lambda m, t=table: m[1] + markdown(t) + m[2],
                      text, flags=re.DOTALL)
    write_text(path, text)


def markdown(table):
    """A DataFrame as a table in Markdown."""
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _sweep(run):
    return _table(run, "sweep.csv")


def _table(run, name, **how):
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
