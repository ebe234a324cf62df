"""The results of a sweep as tidy tables."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from .layer_neighbors import LayerNeighbors
from .memory import row_parts
from .votes import effective_number, one_hot, softmax_weights, vote_weights

KS = (1, 3, 5, 10, 20, 50)  # the k that the figures and claims are about


def sweep_table(neighbors: LayerNeighbors, ks: Iterable[int] = range(1, 51), weights: str | Callable = "uniform",
                ) -> pd.DataFrame:
    """Accuracy for every layer and k as a tidy DataFrame, one row each.

    Columns: layer (0 for raw pixels), name, dimension, k, accuracy (share of test images that EBE gets right),
    agreement (share where EBE says what the network says), network_accuracy. Accuracies run from 0 to 1. Where the
    network's outputs are not the data set's classes (`LayerNeighbors.same_classes`), agreement and network_accuracy are
    NaN. After an approximate search also recall, the share of the true K nearest that it found.
    """
    rows, ks = [], [neighbors._check_k(k) for k in ks]
    for layer, name in neighbors.names.items():
        votes, note = neighbors.votes(layer, weights), neighbors.notes.get(layer, {})
        for k in ks:
            rows.append({"layer": layer, "name": name, "dimension": neighbors.dimensions[layer], "k": k,
                         "accuracy": (votes[:, k - 1] == neighbors.test_labels).mean(),
                         "agreement": _agreement(neighbors, votes[:, k - 1]),
                         "network_accuracy": neighbors.network_accuracy,
                         **({"recall": note["recall"]} if "recall" in note else {})})
    return pd.DataFrame(rows)


def _agreement(neighbors, votes):
    return float((votes == neighbors.network).mean()) if neighbors.same_classes else float("nan")


def vote_table(neighbors: LayerNeighbors, ks: Iterable[int], weights: Mapping[str, str | Callable]) -> pd.DataFrame:
    """How many examples a vote rests on, and how good it is, for several weights: a tidy DataFrame.

    weights: {name: "uniform", "distance" or a function, see `vote_weights`}. Columns: layer, k, weights, accuracy,
    agreement, effective (mean of `effective_number` over the test images).
    """
    labels, rows = one_hot(neighbors.train_labels), []
    ks = [neighbors._check_k(k) for k in ks]
    for layer in neighbors.names:
        for k in ks:
            indices = neighbors.indices[layer][:, :k]
            for name, how in weights.items():
                share = vote_weights(neighbors.distances[layer][:, :k], how)
                votes = np.concatenate([np.einsum("nk,nkc->nc", share[part], labels[indices[part]]).argmax(1)
                                        for part in row_parts(len(indices), 2 * k * labels.shape[1] * 8)])
                rows.append({"layer": layer, "k": k, "weights": name,
                             "accuracy": (votes == neighbors.test_labels).mean(),
                             "agreement": _agreement(neighbors, votes),
                             "effective": effective_number(share).mean()})
    return pd.DataFrame(rows)


def joint_correctness(neighbors: LayerNeighbors, ks: Iterable[int], weights: str | Callable = "uniform",
                      ) -> pd.DataFrame:
    """How many test images each two predictors get right together, a symmetric DataFrame of integers.

    Predictors: "all" (always right, so that its row counts what each gets right, and its own entry the test images),
    "network" (but not one whose classes are others), and "layer/k" for every layer and every k of `ks`. From it follow
    McNemar's test for any two of them and the covariance of all accuracies (`ebe_utils.claims`).
    """
    right = {"all": np.ones(len(neighbors.test_labels), bool)}
    if neighbors.same_classes:
        right["network"] = neighbors.network == neighbors.test_labels
    ks = list(ks)
    for layer in neighbors.names:
        votes = neighbors.votes(layer, weights)
        right |= {f"{layer}/{k}": votes[:, neighbors._check_k(k) - 1] == neighbors.test_labels for k in ks}
    rows = np.stack([*right.values()]).astype(np.int64)
    return pd.DataFrame(rows @ rows.T, index=pd.Index(right, name="predictor"), columns=[*right])


def save_tables(neighbors: LayerNeighbors, folder: Path, weights: str | Callable = "uniform") -> None:
    """Write what is kept of a sweep as CSV: sweep (every k up to the largest), together and votes (the `KS`)."""
    k_max = next(iter(neighbors.indices.values())).shape[1]
    ks = [k for k in KS if k <= k_max]
    sweep_table(neighbors, range(1, k_max + 1), weights).to_csv(folder / "sweep.csv", index=False)
    joint_correctness(neighbors, ks, weights).to_csv(folder / "together.csv")
    votes = vote_table(neighbors, ks, {"uniform": "uniform", "distance": "distance", "softmax": softmax_weights()})
    votes.to_csv(folder / "votes.csv", index=False, float_format="%.6g")
