"""What a sweep comes to, as tidy tables."""

import numpy as np
import pandas as pd

from .votes import effective_number, one_hot, softmax_weights, vote_weights

KS = (1, 3, 5, 10, 20, 50)  # the k that the figures and claims are about


def sweep_table(neighbors, ks=range(1, 51), weights="uniform"):
    """Accuracy for every layer and k as a tidy DataFrame, one row each.

    Columns: layer (0 for raw pixels), name, dimension, k, accuracy (share of test images that EBE gets right),
    agreement (share where EBE says what the network says), network_accuracy. Accuracies run from 0 to 1. After an
    approximate search also recall, the share of the true K nearest that it found.
    """
    rows, ks = [], [neighbors._check_k(k) for k in ks]
    for layer, name in neighbors.names.items():
        votes, note = neighbors.votes(layer, weights), neighbors.notes.get(layer, {})
        for k in ks:
            rows.append({"layer": layer, "name": name, "dimension": neighbors.dimensions[layer], "k": k,
                         "accuracy": (votes[:, k - 1] == neighbors.test_labels).mean(),
                         "agreement": (votes[:, k - 1] == neighbors.network).mean(),
                         "network_accuracy": neighbors.network_accuracy,
                         **({"recall": note["recall"]} if "recall" in note else {})})
    return pd.DataFrame(rows)


def vote_table(neighbors, ks, weights):
    """How many examples a vote rests on, and how good it is, for several weights: a tidy DataFrame.

    weights: {name: "uniform", "distance" or a function, see `vote_weights`}. Columns: layer, k, weights, accuracy,
    agreement, effective (mean of `effective_number` over the test images).
    """
    labels, rows = one_hot(neighbors.train_labels), []
    for layer in neighbors.names:
        for k in map(neighbors._check_k, ks):
            for name, how in weights.items():
                share = vote_weights(neighbors.distances[layer][:, :k], how)
                votes = np.einsum("nk,nkc->nc", share, labels[neighbors.indices[layer][:, :k]]).argmax(1)
                rows.append({"layer": layer, "k": k, "weights": name,
                             "accuracy": (votes == neighbors.test_labels).mean(),
                             "agreement": (votes == neighbors.network).mean(),
                             "effective": effective_number(share).mean()})
    return pd.DataFrame(rows)


def joint_correctness(neighbors, ks, weights="uniform"):
    """How many test images each two predictors get right together, a symmetric DataFrame of integers.

    Predictors: "all" (always right, so that its row counts what each gets right, and its own entry the test images),
    "network", and "layer/k" for every layer and every k of `ks`. From it follow McNemar's test for any two of them
    and the covariance of all accuracies (`ebe_utils.claims`).
    """
    right = {"all": np.ones(len(neighbors.test_labels), bool), "network": neighbors.network == neighbors.test_labels}
    for layer in neighbors.names:
        votes = neighbors.votes(layer, weights)
        right |= {f"{layer}/{k}": votes[:, neighbors._check_k(k) - 1] == neighbors.test_labels for k in ks}
    rows = np.stack([*right.values()]).astype(np.int64)
    return pd.DataFrame(rows @ rows.T, index=pd.Index(right, name="predictor"), columns=[*right])


def save_tables(neighbors, folder, weights="uniform"):
    """Write what is kept of a sweep as CSV: sweep (every k up to the largest), together and votes (the `KS`)."""
    k_max = next(iter(neighbors.indices.values())).shape[1]
    ks = [k for k in KS if k <= k_max]
    sweep_table(neighbors, range(1, k_max + 1), weights).to_csv(folder / "sweep.csv", index=False)
    joint_correctness(neighbors, ks, weights).to_csv(folder / "together.csv")
    votes = vote_table(neighbors, ks, {"uniform": "uniform", "distance": "distance", "softmax": softmax_weights()})
    votes.to_csv(folder / "votes.csv", index=False, float_format="%.6g")
