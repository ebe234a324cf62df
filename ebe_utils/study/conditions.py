"""Networks over training and over recipes, read from committed tables: who leads, how steady, and layer 15."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..paths import reference_root
from .snapshots import AVERAGE


def kept_snapshots(table: str, root: str | Path | None = None) -> pd.DataFrame:
    """One of the tables of all trainings with snapshots (layers, geometry, verdicts), with a column run."""
    files = sorted(Path(root or reference_root() / "snapshots").glob(f"*/{table}.csv"))
    parts = [pd.read_csv(file, dtype={"snapshot": str, "claim": str}).assign(run=file.parent.name) for file in files]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def kept_recipes(table: str, root: str | Path | None = None) -> pd.DataFrame:
    """The claims or the layers of all trainings by other recipes."""
    file = Path(root or reference_root() / "recipes") / f"{table}.csv"
    return pd.read_csv(file, dtype={"claim": str}) if file.exists() else pd.DataFrame()


def kept_shortcuts(root: str | Path | None = None) -> pd.DataFrame:
    """`judge_shortcuts` of all networks with other shortcuts, with columns about its training."""
    file = Path(root or reference_root() / "shortcuts") / "blocks.csv"
    return pd.read_csv(file) if file.exists() else pd.DataFrame()


def leads(layers: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """How the votes of k examples stand to the network at each snapshot of `layers`.

    Returns run, snapshot, network, ahead (convolutions whose vote is more accurate than the network, of 20), and the
    accuracies of layers 9, 14, 15 and 19, from 0 to 1.
    """
    at = layers[(layers["k"] == k) & (layers["layer"] > 0)]
    table = at.pivot(index=["run", "snapshot"], columns="layer", values="accuracy")
    network = at.groupby(["run", "snapshot"])["network_accuracy"].first()
    found = pd.DataFrame({"network": network, "ahead": table.gt(network, axis=0).sum(axis=1),
                          **{f"layer {layer}": table[layer] for layer in (9, 14, 15, 19)}}).reset_index()
    return found.assign(order=found["snapshot"].map(epoch_of)).sort_values(["run", "order"], ignore_index=True).drop(
        columns="order")


def epoch_of(snapshot: str) -> float:
    """The epoch of a snapshot as a number, after all others for the averaged network."""
    return float("inf") if snapshot == AVERAGE else float(snapshot)


def steadiness(layers: pd.DataFrame, last: int = 10, k: int = 10) -> pd.DataFrame:
    """Standard deviation of the accuracy over the last epochs, in points: network and votes of each layer, by run.

    Returns run, epochs, network, layer 14, median layer (of all convolutions), averaged (accuracy of the averaged
    network minus the mean of these epochs, in points; NaN without one).
    """
    rows = []
    for run, table in layers[(layers["k"] == k) & (layers["layer"] > 0)].groupby("run"):
        epochs = sorted({name for name in table["snapshot"] if name != AVERAGE}, key=epoch_of)[-last:]
        late = table[table["snapshot"].isin(epochs)]
        spread = late.pivot(index="snapshot", columns="layer", values="accuracy").std() * 100
        network = late.groupby("snapshot")["network_accuracy"].first() * 100
        mean = table.loc[table["snapshot"] == AVERAGE, "network_accuracy"]
        rows.append({"run": run, "epochs": len(epochs), "network": network.std(), "layer 14": spread[14],
                     "median layer": spread.median(),
                     "averaged": 100 * mean.iloc[0] - network.mean() if len(mean) else float("nan")})
    return pd.DataFrame(rows)


def layer_15_table(geometry: pd.DataFrame, snapshots: Iterable[str] = ("1", "8", "20", "40", "60", AVERAGE),
                   layers: Iterable[int] = (14, 15, 16)) -> pd.DataFrame:
    """What cosine votes see at layer 15 and beside it while a network is trained, as the results page shows it.

    geometry: of `kept_snapshots`. A row for each run and snapshot, a column for each layer: the share of the variance
    in two directions, and the accuracies of ten cosine votes as they are and after whitening, in per cent.
    """
    at = geometry.set_index(["run", "snapshot", "layer"])[["top", "raw", "whitened"]]
    rows = []
    for run in dict.fromkeys(geometry["run"]):
        for snapshot in snapshots:
            if (run, snapshot, 15) in at.index:
                rows.append({"run": run, "epoch": snapshot, **{f"layer {layer}": " / ".join(
                    f"{100 * share:.1f}" for share in at.loc[(run, snapshot, layer)]) for layer in layers}})
    return pd.DataFrame(rows)


def recipes_table(layers: pd.DataFrame, reading: str = "as here") -> pd.DataFrame:
    """What the recipe of the training does to the lead of the layers, and to the variance at layer 15.

    layers: of `kept_recipes`. Columns: dataset, recipe, seeds (how many; all else are means over these); network,
    layer 14 (accuracies of the network and of ten votes), agreement (of the latter with the network), on mistakes (the
    same where the network is wrong), ahead (layers more accurate than the network, of 20), layer 15 (accuracy of the
    votes there, minus the mean of those at 14 and 16); top, the share of the variance in two directions at layer 15,
    and cosine, the mean cosine of two images there. All but the counts from 0 to 1.
    """
    rows = []
    for about, part in layers[layers["reading"] == reading].groupby(["dataset", "recipe", "seed"], sort=False):
        at = part.set_index("layer")
        votes = at["accuracy"]
        rows.append({**dict(zip(("dataset", "recipe", "seed"), about, strict=True)),
                     "network": at["network_accuracy"].iloc[0], "layer 14": votes[14],
                     "agreement": at["agreement"][14], "on mistakes": at["where wrong"][14],
                     "ahead": (votes > at["network_accuracy"]).sum(), "layer 15": votes[15] - votes[[14, 16]].mean(),
                     "top": at["top"][15], "cosine": at["mean_cosine"][15]})
    both = pd.DataFrame(rows).groupby(["dataset", "recipe"], sort=False)
    return both.mean().drop(columns="seed").reset_index().assign(seeds=both.size().to_numpy())[
        ["dataset", "recipe", "seeds", *[name for name in rows[0] if name not in ("dataset", "recipe", "seed")]]]
