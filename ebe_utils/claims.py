"""The paper's eight claims, turned into numbers that a sweep can answer (sections 3.3 and 4 of the paper)."""

import pandas as pd

KS = (1, 3, 5, 10, 20, 50)  # the k that the figures show
MIDDLE = range(6, 16)  # stages 2 and 3 of ResNet18
PAR = 0.01  # "on a par", "clearly below": one point of accuracy
HOLDS = {True: "holds", False: "does not hold"}


def check_claims(sweep, dataset, k=10):
    """The claims as a DataFrame: claim, text, measured, verdict.

    sweep: `sweep_table` with the 20 convolutional layers of ResNet18. verdict: "holds", "does not hold", or "does
    not apply" if the claim is about another data set than `dataset`; measured is given all the same. Raises
    ValueError if a layer or k is missing.
    """
    layers = sweep[sweep["layer"] != 0]
    table = layers.pivot(index="layer", columns="k", values="accuracy")
    network = sweep["network_accuracy"].iloc[0]
    if list(table.index) != list(range(1, 21)):
        raise ValueError(f"the claims are about ResNet18's layers 1 to 20; this sweep has {list(table.index)}. "
                         "Sweep with layers='all'.")
    ks = [j for j in KS if j in table.columns]
    if k not in table.columns or len(ks) < 2:
        raise ValueError(f"the sweep has k = {list(table.columns)}; it needs {k} and at least two of {KS}.")
    grid = table[ks]
    mean = grid.mean(axis=1)
    best = int(mean.idxmax())
    found = []

    def claim(number, text, about, measured, holds):
        verdict = HOLDS[bool(holds)] if dataset in about else "does not apply"
        found.append({"claim": number, "text": text, "measured": measured, "verdict": verdict})

    def beats(number, text, about, rows):
        above = grid.loc[rows] > network
        claim(number, text, about, f"{int(above.sum().sum())} of {above.size} (layer, k) above the network's "
              f"{network:.4f}; smallest difference {grid.loc[rows].min().min() - network:+.4f}", above.all().all())

    beats("1", "MNIST: every layer but the first beats ResNet18, whatever k", {"mnist"}, range(2, 21))
    beats("2a", "Fashion-MNIST: so do layers 9 to 20 (“below” read as deeper)", {"fashion_mnist"}, range(9, 21))
    beats("2b", "Fashion-MNIST: so do layers 1 to 9 (“below” read as smaller)", {"fashion_mnist"}, range(1, 10))
    claim("3", "On both, middle layers are best, not the deepest", {"mnist", "fashion_mnist"},
          f"best layer {best} ({mean[best]:.4f}, mean over k); best of 16 to 20 {mean[16:].max():.4f}", best in MIDDLE)
    by_layer = (grid.max() - grid.min()).mean()
    by_k = (grid.max(axis=1) - grid.min(axis=1)).mean()
    claim("4", "The choice of layer matters far more than k (at least twice the range)",
          {"mnist", "fashion_mnist", "cifar10"},
          f"range over layers {by_layer:.4f}, over k {by_k:.4f}, both on average", by_layer >= 2 * by_k)
    at = table[k]
    claim("5", "CIFAR-10: layers 16 and 19 are on a par with ResNet18 (within one point)", {"cifar10"},
          f"layer 16 {at[16] - network:+.4f}, layer 19 {at[19] - network:+.4f}, k = {k}",
          min(at[16], at[19]) >= network - PAR)
    claim("6", "CIFAR-10: layer 15 drops clearly below its neighbours (by a point)", {"cifar10"},
          f"layers 14, 15, 16: {at[14]:.4f}, {at[15]:.4f}, {at[16]:.4f}, k = {k}", at[15] <= min(at[14], at[16]) - PAR)
    row = grid.loc[best]
    ten = row.get(10, at[best])
    claim("7", "CIFAR-10: k = 10 is a good compromise (half a point above k = 1, no larger k half a point better)",
          {"cifar10"}, f"layer {best}: k = {ks[0]} {row[ks[0]]:.4f}, k = 10 {ten:.4f}, best larger k "
          f"{row[[j for j in ks if j >= 10]].max() if max(ks) >= 10 else ten:.4f}",
          ten - row[ks[0]] >= PAR / 2 and row[[j for j in ks if j >= 10]].max() - ten <= PAR / 2)
    enough = [j for j in table.columns if table[j].max() >= network]
    claim("8", "Few examples explain a prediction at no loss of accuracy (at most 10, at some layer)",
          {"mnist", "fashion_mnist", "cifar10", dataset},
          f"smallest k that reaches the network's accuracy at some layer: {min(enough) if enough else 'none'}",
          enough and min(enough) <= 10)
    return pd.DataFrame(found)
