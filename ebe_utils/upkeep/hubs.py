"""Whether fewer hubs make better explanations: mutual proximity in place of cosine distance, on whole networks.

One table for each run, data/reference/hubness/RUN.csv.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..data import ImageSet
from ..embeddings import embed
from ..hubness import MutualProximity, hubness
from ..metrics import k_occurrence
from ..model import predict_logits
from ..search import kneighbors
from ..study.run import Run
from ..votes import vote_shares
from .publishing import REFERENCE, keep_table

FOLDER = REFERENCE / "hubness"
LAYERS = (9, 14, 15, 20, "avgpool")
N_TEST, SAMPLE = 2000, 500  # test images, and training images that say what distances are usual


def keep_hubness(name: str, folder: Path = FOLDER) -> Path:
    """Compare the two distances on a run's network, and write the table; RunError without a trained network."""
    run = Run.open(name)
    train_set, test_set = run.load_data()
    test_set = test_set.subset(range(min(N_TEST, len(test_set))))
    table = judge_hubness(run.load_model(train_set), train_set, test_set)
    return keep_table(table.assign(run=run.name), folder, run.name)


def judge_hubness(model: nn.Module, train_set: ImageSet, test_set: ImageSet, layers: Sequence[int | str] = LAYERS,
                  k: int = 10, seed: int = 0) -> pd.DataFrame:
    """A row for each layer and distance, for k neighbours with equal votes.

    hubness: skewness of how often a training image is a neighbour; most: in how many explanations the most frequent
    one is; orphans: share of the training images that are in none; accuracy, agreement and on mistakes: of the vote.
    """
    network = predict_logits(model, test_set.images).argmax(1)
    wrong, n = network != test_set.labels, len(train_set)
    sample = np.sort(np.random.default_rng(seed).permutation(n)[:SAMPLE])
    rows = []
    for layer in layers:
        x, q = (embed(model, part.images, layer) for part in (train_set, test_set))
        for name, metric in (("cosine", "cosine"), ("mutual proximity", MutualProximity(x[sample]))):
            near = kneighbors(x, q, k, metric)[1]
            said, counts = vote_shares(near, train_set.labels).argmax(1), k_occurrence(near, n)
            rows.append({"layer": layer, "distance": name, "hubness": hubness(near, n), "most": int(counts.max()),
                         "orphans": (counts == 0).mean(), "accuracy": (said == test_set.labels).mean(),
                         "agreement": (said == network).mean(), "on mistakes": (said == network)[wrong].mean()})
    return pd.DataFrame(rows).assign(queries=len(test_set))


def hubness_table(folder: Path = FOLDER) -> pd.DataFrame:
    """The tables of all kept runs as the results page shows them, shares in per cent; empty without any."""
    tables = [pd.read_csv(file, dtype={"layer": str}) for file in sorted(folder.glob("*.csv"))]
    if not tables:
        return pd.DataFrame()
    shown = pd.concat(tables, ignore_index=True)
    for column in ("orphans", "accuracy", "agreement", "on mistakes"):
        shown[column] = (100 * shown[column]).map("{:.1f}".format)
    shown["hubness"] = shown["hubness"].map("{:.1f}".format)
    return shown[["run", "layer", "distance", "hubness", "most", "orphans", "accuracy", "agreement", "on mistakes"]]
