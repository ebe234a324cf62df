"""The results of a sweep as tidy tables."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from .layer_neighbors import LayerNeighbors
from .votes import Weights, effective_number, named_weights, vote_shares

KS = (1, 3, 5, 10, 20, 50)  # the k that the figures and claims are about


def sweep_table(neighbors: LayerNeighbors, ks: Iterable[int] = range(1, 51), weights: Weights = "uniform",
                ) -> pd.DataFrame:
    """Accuracy for every layer and k as a tidy DataFrame, one row each.

    Columns: layer (0 for raw pixels), name, dimension, k, accuracy (share of test images that EBE gets right),
    agreement (share where EBE says what the network says), "where wrong" (the same among the images that the network
    gets wrong; NaN without any), network_accuracy. Accuracies run from 0 to 1. Where the network's outputs are not the
    data set's classes (`LayerNeighbors.same_classes`), the last three are NaN. After an approximate search also recall,
    the share of the true K nearest that it found. weights: see `ebe_utils.votes`; for "nnk", neighbors as `with_nnk`
    returns them.
    """
    rows, ks = [], [neighbors._check_k(k) for k in ks]
    wrong = neighbors.network != neighbors.test_labels
    for layer, name in neighbors.names.items():
        votes, note = neighbors.votes(layer, weights, ks), neighbors.notes.get(layer, {})
        for k, said in zip(ks, votes.T, strict=True):
            rows.append({"layer": layer, "name": name, "dimension": neighbors.dimensions[layer], "k": k,
                         "accuracy": (said == neighbors.test_labels).mean(),
                         "agreement": _agreement(neighbors, said),
                         "where wrong": _agreement(neighbors, said, wrong),
                         "network_accuracy": neighbors.network_accuracy,
                         **({"recall": note["recall"]} if "recall" in note else {})})
    return pd.DataFrame(rows)


def _agreement(neighbors, votes, among=slice(None)):
    same = (votes == neighbors.network)[among]
    return float(same.mean()) if neighbors.same_classes and len(same) else float("nan")


def vote_table(neighbors: LayerNeighbors, ks: Iterable[int], weights: Iterable[str] | Mapping[str, Weights],
               ) -> pd.DataFrame:
    """How many examples a vote rests on, and how good it is, for several weights: a tidy DataFrame.

    weights: names, or {name: weights}, see `ebe_utils.votes`. Columns: layer, k, weights, accuracy, agreement,
    effective (mean of `effective_number` over the test images).
    """
    weights, rows, ks = named_weights(weights), [], [neighbors._check_k(k) for k in ks]
    for layer in neighbors.names:
        for k in ks:
            indices = neighbors.indices[layer][:, :k]
            for name, how in weights.items():
                share = neighbors.weights(layer, k, how)
                votes = vote_shares(indices, neighbors.train_labels, share).argmax(1)
                rows.append({"layer": layer, "k": k, "weights": name,
                             "accuracy": (votes == neighbors.test_labels).mean(),
                             "agreement": _agreement(neighbors, votes),
                             "effective": effective_number(share).mean()})
    return pd.DataFrame(rows)


def joint_correctness(neighbors: LayerNeighbors, ks: Iterable[int], weights: Weights = "uniform") -> pd.DataFrame:
    """How many test images each two predictors get right together, a symmetric DataFrame of integers.

    Predictors: "all" (always right, so that its row counts what each gets right, and its own entry the test images),
    "network" (but not one whose classes are others), and "layer/k" for every layer and every k of `ks`. From it follow
    McNemar's test for any two of them and the covariance of all accuracies (`ebe_utils.statistics`).
    """
    right = {"all": np.ones(len(neighbors.test_labels), bool)}
    if neighbors.same_classes:
        right["network"] = neighbors.network == neighbors.test_labels
    ks = list(ks)
    for layer in neighbors.names:
        votes = neighbors.votes(layer, weights, map(neighbors._check_k, ks))
        right |= {f"{layer}/{k}": said == neighbors.test_labels for k, said in zip(ks, votes.T, strict=True)}
    rows = np.stack([*right.values()]).astype(np.int64)
    return pd.DataFrame(rows @ rows.T, index=pd.Index(right, name="predictor"), columns=[*right])


def save_tables(neighbors: LayerNeighbors, folder: Path, weights: Weights = "uniform") -> None:
    """Write what is kept of a sweep as CSV: sweep (every k up to the largest), together and votes (the `KS`).

    With weights "nnk": of all these k, those of `with_nnk`.
    """
    first = next(iter(neighbors.indices))
    every = sorted(neighbors.nnk[first]) if weights == "nnk" else range(1, neighbors.indices[first].shape[1] + 1)
    ks = [k for k in KS if k in every]
    sweep_table(neighbors, every, weights).to_csv(folder / "sweep.csv", index=False)
    joint_correctness(neighbors, ks, weights).to_csv(folder / "together.csv")
    votes = vote_table(neighbors, ks, ["uniform", "distance", "softmax", *["nnk"] * (weights == "nnk")])
    votes.to_csv(folder / "votes.csv", index=False, float_format="%.6g")
