"""The paper's claims over training: one training, stopped for a look at several epochs.

Training with a constant learning rate has no natural end, and the paper names 60 epochs without saying why. What holds
at epoch 60 and not at 59 is a property of the stopping epoch. Here the network is swept at many of them, and once more
with its weights averaged over the last ones (stochastic weight averaging, Izmailov et al. 2018).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ..data import ImageSet, scale
from ..geometry import layer_geometry
from ..layer_neighbors import LayerNeighbors, layer_neighbors
from ..model import freeze, load_model, resnet18_for, save_model
from ..tables import KS, joint_correctness, sweep_table
from ..training import train
from .claims import judge_claims

EPOCHS = (1, 2, 3, 5, 8, 12, 20, 30, 40, *range(51, 61))  # of a training by the paper's recipe
AVERAGE = "average"  # the snapshot whose weights are the mean of the last ones


def train_snapshots(train_set: ImageSet, test_set: ImageSet | None, epochs: Iterable[int], folder: str | Path,
                    seed: int = 0, stem: str = "imagenet", **training: Any) -> dict[int, Path]:
    """Train ResNet18 once and keep its weights after each of `epochs`: {epoch: file}.

    folder: for the files, and for the state from which an interrupted training goes on; finished snapshots are not
    made again. training: of `ebe_utils.train` (not epochs, state; a schedule must be constant, since the snapshots are
    of one training).
    """
    folder, wanted = Path(folder), sorted(set(epochs))
    if training.get("schedule", "constant") != "constant":
        raise ValueError(f"schedule={training['schedule']!r} depends on where the training ends; snapshots of one "
                         "training need schedule='constant'.")
    folder.mkdir(parents=True, exist_ok=True)
    files = {epoch: folder / f"epoch-{epoch:02d}.safetensors" for epoch in wanted}
    for epoch in (e for e in wanted if not files[e].exists()):
        model = train(resnet18_for(train_set, stem, seed), train_set, test_set, epochs=epoch, seed=seed,
                      state=folder / ".state.safetensors", **training)
        save_model(files[epoch], model, train_set)
    return files


def load_snapshots(files: Mapping[int, Path], train_set: ImageSet, average: Sequence[int] = (),
                   stem: str = "imagenet") -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, network) for each file, by epoch; then (`AVERAGE`, the network averaged over the epochs `average`).

    The averaged network's batch statistics are computed anew on all training images, as torch's `update_bn` does.
    """
    def load(epoch):
        return load_model(files[epoch], resnet18_for(train_set, stem), train_set)

    for epoch in sorted(files):
        yield str(epoch), load(epoch)
    if average:
        mean = AveragedModel(load(average[0]), use_buffers=False)
        for epoch in average:
            mean.update_parameters(load(epoch))
        with torch.no_grad():
            update_bn((scale(images) for images in train_set.images.split(512)), mean)
        yield AVERAGE, freeze(mean.module)


def snapshot_tables(neighbors: LayerNeighbors, ks: Sequence[int] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(layers, together) of one snapshot's sweep, for `ks` examples (default: the `KS` that were searched).

    layers: `sweep_table`, without names and dimensions. together: `joint_correctness`, by which claims are judged.
    """
    ks = list(ks) or [k for k in KS if k <= next(iter(neighbors.indices.values())).shape[1]]
    return sweep_table(neighbors, ks).drop(columns=["name", "dimension"]), joint_correctness(neighbors, ks)


def swept_training(train_set: ImageSet, test_set: ImageSet, epochs: Sequence[int], k: int, geometry: Sequence[int],
                   seed: int = 0, average: int = 3, device: str | torch.device = "auto", **training: Any,
                   ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(layers, geometry) of a short training whose snapshots are swept and not kept.

    layers: `snapshot_tables` for k examples, with a column snapshot; the last one averages the last `average` networks.
    geometry: `layer_geometry` of these layers at the last epoch. training: of `train_snapshots`.
    """
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        files = train_snapshots(train_set, test_set, epochs, folder, seed, device=device, progress=False, **training)
        for snapshot, model in load_snapshots(files, train_set, sorted(files)[-average:]):
            found = layer_neighbors(model, train_set, test_set, k=k, device=device, progress=False)
            tables.append(snapshot_tables(found, [k])[0].assign(snapshot=snapshot))
            if snapshot == str(max(files)):
                deep = layer_geometry(model, train_set, test_set, geometry, k, device=device)
    return pd.concat(tables, ignore_index=True), deep


def verdicts_over(together: Mapping[str, pd.DataFrame], dataset: str) -> pd.DataFrame:
    """The verdicts on the claims at each snapshot: snapshot, claim, measured, low, high, verdict.

    together: {snapshot: `joint_correctness`}; dataset: that of the claims.
    """
    return pd.concat([judge_claims(table, dataset).assign(snapshot=name) for name, table in together.items()],
                     ignore_index=True)[["snapshot", "claim", "measured", "low", "high", "verdict"]]


def shares_of_epochs(verdicts: pd.DataFrame, last: int = 10) -> pd.DataFrame:
    """In how many snapshots each claim holds: claim, holds, undecided, does not hold, and the same of the last epochs.

    verdicts: of `verdicts_over`; claims about other data sets are left out. The averaged network is not counted, but
    has a column of its own, if it is there. last: how many of the largest epochs count as the end of the training.
    """
    about = verdicts[verdicts["verdict"] != "does not apply"]
    by_epoch = about[about["snapshot"] != AVERAGE]
    late = sorted({int(name) for name in by_epoch["snapshot"]})[-last:]
    kinds, rows = ("holds", "undecided", "does not hold"), []
    for claim, part in by_epoch.groupby("claim", sort=False):
        end = part[part["snapshot"].astype(int).isin(late)]
        mean = about.loc[(about["claim"] == claim) & (about["snapshot"] == AVERAGE), "verdict"]
        row = {"claim": claim, "snapshots": len(part)} | {kind: (part["verdict"] == kind).sum() for kind in kinds}
        row |= {"of the last": len(end)} | {f"{kind} at last": (end["verdict"] == kind).sum() for kind in kinds}
        rows.append(row | ({AVERAGE: mean.iloc[0]} if len(mean) else {}))
    return pd.DataFrame(rows)


def write_together(path: Path, together: Mapping[str, pd.DataFrame]) -> None:
    """{snapshot: symmetric counts} as one compressed table of their upper halves; `read_together` reads it."""
    halves = pd.concat([pd.DataFrame({
        "snapshot": snapshot, "predictor": table.index,
        "counts": [" ".join(map(str, row[at:])) for at, row in enumerate(table[table.index].to_numpy())]})
        for snapshot, table in together.items()])
    part = path.with_name(f".{path.name}.part")
    halves.to_csv(part, index=False, compression={"method": "gzip", "mtime": 0})
    part.replace(path)


def read_together(path: Path) -> dict[str, pd.DataFrame]:
    """{snapshot: `joint_correctness`} as `write_together` wrote it."""
    found = {}
    table = pd.read_csv(path, compression="gzip", dtype=str)
    for snapshot, half in table.groupby("snapshot", sort=False):
        upper = np.zeros((len(half), len(half)), np.int64)
        for at, row in enumerate(half["counts"]):
            upper[at, at:] = [int(count) for count in row.split()]
        found[str(snapshot)] = pd.DataFrame(np.maximum(upper, upper.T), [*half["predictor"]], [*half["predictor"]])
    return found
