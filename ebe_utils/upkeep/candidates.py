"""Every setting that `select` could choose, judged on the test images: by accuracy, and by agreement with the network.

One table for each run, data/reference/candidates/RUN.csv: a row for each layer, k, metric and way of voting.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..data import ImageSet
from ..layer_neighbors import layer_neighbors
from ..layers import conv_layers
from ..selection import candidate_votes
from ..study.results import groups, run_table
from ..study.run import Run
from ..tables import KS
from .publishing import REFERENCE, keep_table

FOLDER = REFERENCE / "candidates"
METRICS = ("cosine", "euclidean")  # with those of `KS` and all ways of voting, the candidates of notebook 09
_HALVES = ("first half", "second half")


def keep_candidates(name: str, folder: Path = FOLDER) -> Path:
    """Judge all candidates on a run's test images, and write the table; RunError without a trained network."""
    run = Run.open(name)
    train_set, test_set = run.load_data()
    table = judge_candidates(run.load_model(train_set), train_set, test_set)
    return keep_table(table.assign(run=run.name), folder, run.name)


def judge_candidates(model: nn.Module, train_set: ImageSet, test_set: ImageSet, ks: Sequence[int] = KS,
                     metrics: Sequence[str] = METRICS, seed: int = 0) -> pd.DataFrame:
    """A row for each candidate: its setting, and shares of the test images.

    accuracy, agreement (with the network), on mistakes (agreement where the network is wrong). The columns "accuracy,
    first half" and so on are those of two random halves of the test images: chosen on one and measured on the other,
    a candidate is measured on images that did not choose it.
    """
    half = np.random.default_rng(seed).permutation(len(test_set)) % 2 == 0
    rows = []
    for metric in metrics:
        found = layer_neighbors(model, train_set, test_set, [*conv_layers(model), "avgpool"], max(ks), metric,
                                pixels=False, progress=False)
        wrong = found.network != found.test_labels
        for row, votes in candidate_votes(found, model, train_set, test_set, ks):
            said = votes.argmax(1)
            right, agrees = said == found.test_labels, said == found.network
            row |= {"accuracy": right.mean(), "agreement": agrees.mean(), "on mistakes": agrees[wrong].mean()}
            for which, part in zip(_HALVES, (half, ~half), strict=True):
                row |= {f"accuracy, {which}": right[part].mean(), f"agreement, {which}": agrees[part].mean(),
                        f"on mistakes, {which}": agrees[part & wrong].mean()}
            rows.append(row)
    return pd.DataFrame(rows).assign(network=1 - wrong.mean(), mistakes=int(wrong.sum()))


def chosen_candidates(table: pd.DataFrame) -> pd.DataFrame:
    """What accuracy and agreement choose among the candidates of one run, in per cent, beside fixed settings.

    by accuracy, by agreement: of equals, the one with fewer examples. Their measures are means over the two halves,
    each measured with the candidate that is best on the other; the setting named is the best on all test images.
    """
    rows = []
    for by in ("accuracy", "agreement"):
        crossed = []
        for chooses, measures in (_HALVES, _HALVES[::-1]):
            best = _best(table, f"{by}, {chooses}")
            crossed.append([best[f"{what}, {measures}"] for what in ("accuracy", "agreement", "on mistakes")])
        rows.append([f"by {by}", _words(_best(table, by)), *np.mean(crossed, axis=0)])
    for name, layer, weights, k in (("the paper", "14", "uniform", 10), ("layer 14, NNK", "14", "nnk", 50),
                                    ("pooled features", "avgpool", "uniform", 10)):
        fixed = table[(table["layer"].astype(str) == layer) & (table["metric"] == "cosine")
                      & (table["weights"] == weights) & (table["k"] == k)].iloc[0]
        rows.append([name, _words(fixed), *fixed[["accuracy", "agreement", "on mistakes"]]])
    shown = pd.DataFrame(rows, columns=["chosen", "setting", "accuracy", "agreement", "on mistakes"])
    shown[["accuracy", "agreement", "on mistakes"]] = 100 * shown[["accuracy", "agreement", "on mistakes"]]
    return shown


def candidates_table(folder: Path = FOLDER) -> pd.DataFrame:
    """`chosen_candidates` of all kept runs, as the results page shows them; empty without any."""
    parts = []
    for file in sorted(folder.glob("*.csv")):
        table = pd.read_csv(file, dtype={"layer": str})
        parts.append(chosen_candidates(table).assign(run=file.stem, network=100 * table["network"][0]))
    if not parts:
        return pd.DataFrame()
    shown = pd.concat(parts, ignore_index=True)
    for column in ("network", "accuracy", "agreement", "on mistakes"):
        shown[column] = shown[column].map("{:.1f}".format)
    return shown[["run", "network", "chosen", "setting", "accuracy", "agreement", "on mistakes"]]


def profiles_table(root: Path = REFERENCE) -> pd.DataFrame:
    """Networks of the profile "fast" beside those of "paper": accuracy on the test images, in per cent.

    Of the fast ones, those whose candidates are kept; of the others the mean over the seeds. Empty without any.
    """
    runs, rows = groups(Run.kept(root).values()), []
    for file in sorted((root / "candidates").glob("*-fast-seed*.csv")):
        dataset = file.stem.split("-")[0]
        fast = 100 * pd.read_csv(file)["network"][0]
        same = [100 * run_table(run, "sweep.csv")["network_accuracy"][0] for run in runs.get(f"{dataset}-paper", [])]
        if same:
            rows.append([dataset, f"{fast:.2f}", f"{np.mean(same):.2f}", len(same), f"{fast - np.mean(same):+.2f}"])
    return pd.DataFrame(rows, columns=["data", "fast (12 epochs)", "paper (60 epochs)", "seeds", "difference"])


def _best(table, by):
    return table.sort_values([by, "k"], ascending=[False, True], kind="stable").iloc[0]


def _words(row):
    layer = f"layer {row['layer']}" if str(row["layer"]).isdigit() else str(row["layer"])
    votes = "NNK votes" if row["weights"] == "nnk" else f"k = {row['k']}, {row['metric']}, {row['weights']}"
    return f"{layer}, {votes}"
