"""When the claims hold: snapshots of whole trainings, and recipes on parts of the data, as committed tables."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..data import random_part
from ..datasets import load_dataset
from ..files import write_text
from ..geometry import layer_geometry
from ..layer_neighbors import layer_neighbors
from ..model import load_model, resnet18_for
from ..study.recipes import DEFAULT, RECIPES, judge_readings, train_recipe
from ..study.run import Run
from ..study.shortcuts import judge_blocks, judge_shortcuts
from ..study.snapshots import (
    AVERAGE,
    EPOCHS,
    load_snapshots,
    snapshot_tables,
    train_snapshots,
    verdicts_over,
    write_together,
)
from .publishing import REFERENCE

SNAPSHOTS, GRID, SHORTCUTS = REFERENCE / "snapshots", REFERENCE / "recipes", REFERENCE / "shortcuts"
N_TRAIN, N_TEST, GRID_EPOCHS = 10_000, 2_000, 20  # of each training of the grid
LAYERS = (12, 14, 15, 16, 20)  # around layer 15, and the other second convolutions that drop or do not
SAMPLE = 5_000, 1_000  # images by which the geometry of a snapshot's layers is measured


def keep_snapshots(name: str, folder: Path = SNAPSHOTS, epochs: Iterable[int] = EPOCHS, last: int = 10,
                   shortcuts: Path = SHORTCUTS) -> Path:
    """Train the network of a run with snapshots, sweep each, and write the tables to `folder`/name.

    name: as of a run's folder, "fashion_mnist-paper-seed1". layers.csv: `snapshot_tables` of each snapshot;
    together.csv.gz: the upper half of `joint_correctness`; verdicts.csv: the claims judged at each; geometry.csv:
    `layer_geometry` of `LAYERS`. `last`: epochs whose weights are averaged. The blocks of the last snapshot are added
    to blocks.csv in `shortcuts`, see `judge_blocks`. Everything that is finished is found again after an interruption.
    """
    dataset, profile, seed = name.rsplit("-", 2)
    run = Run.start(dataset=dataset, profile=profile, seed=int(seed.removeprefix("seed")))
    train_set, test_set = run.load_data()
    p, place = run.parameters, run.path / "snapshots"
    files = train_snapshots(train_set, test_set, epochs, place, p.seed, p.stem, batch_size=p.batch_size,
                            learning_rate=p.learning_rate, optimizer=p.optimizer, augment=p.augment, progress=False)
    small = train_set.subset(range(min(SAMPLE[0], len(train_set)))), test_set.subset(
        range(min(SAMPLE[1], len(test_set))))
    for snapshot, model in load_snapshots(files, train_set, sorted(files)[-last:] if last else (), p.stem):
        part = place / f"{snapshot}.csv"
        if part.exists():
            continue
        layers, together = snapshot_tables(layer_neighbors(model, train_set, test_set, progress=False))
        geometry = layer_geometry(model, *small, LAYERS)
        write_text(place / f"{snapshot}.together.csv", together.to_csv())
        write_text(place / f"{snapshot}.geometry.csv", geometry.to_csv(index=False, float_format="%.5g"))
        write_text(part, layers.to_csv(index=False, float_format="%.6g"))
    about = {"dataset": dataset, "images": len(train_set), "epochs": max(files), "optimizer": p.optimizer,
             "shortcuts": DEFAULT, "seed": p.seed}
    if not len(_rows(shortcuts / "blocks.csv", about)[1]):
        model = load_model(files[max(files)], resnet18_for(train_set, p.stem), train_set)
        shortcuts.mkdir(parents=True, exist_ok=True)
        _add(shortcuts / "blocks.csv", judge_blocks(model, small[0], test_set, small[1]), about)
    return gather(place, [*map(str, sorted(files)), *[AVERAGE] * bool(last)], dataset, folder / name)


def gather(place: Path, snapshots: Iterable[str], dataset: str, target: Path) -> Path:
    """The tables of single snapshots in `place` as those of the whole training, in the folder `target`."""
    snapshots = list(snapshots)
    together = {one: pd.read_csv(place / f"{one}.together.csv", index_col="predictor") for one in snapshots}
    target.mkdir(parents=True, exist_ok=True)
    for kind, end in (("layers", ".csv"), ("geometry", ".geometry.csv")):
        tables = pd.concat([pd.read_csv(place / f"{one}{end}").assign(snapshot=one) for one in snapshots])
        tables = tables[["snapshot", *tables.columns.drop("snapshot")]]
        write_text(target / f"{kind}.csv", tables.to_csv(index=False, float_format="%.5g"))
    write_text(target / "verdicts.csv", verdicts_over(together, dataset).to_csv(index=False, float_format="%.5g"))
    write_together(target / "together.csv.gz", together)
    return target


def keep_recipe(dataset: str, recipe: str, seed: int = 0, folder: Path = GRID, n_train: int = N_TRAIN,
                n_test: int = N_TEST, epochs: int = GRID_EPOCHS) -> None:
    """Train one of `RECIPES` on a part of a data set, judge the claims by each reading, and add it to the tables.

    `folder` gets claims.csv and layers.csv, whose rows of the same data set, recipe and seed are replaced. A training
    whose rows are there is not done again.
    """
    about = {"dataset": dataset, "recipe": recipe, "seed": seed}
    if recipe not in RECIPES:
        raise ValueError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}.")
    if len(_rows(folder / "claims.csv", about)[1]):
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = random_part(*load_dataset(dataset, seed=seed), n_train, n_test, seed)
    model, train_set, test_set = train_recipe(recipe, *parts, epochs, seed)
    for name, table in zip(("claims", "layers"), judge_readings(model, train_set, test_set, dataset), strict=True):
        _add(folder / f"{name}.csv", table, about)


def keep_shortcuts(dataset: str, shortcuts: str, seed: int = 0, optimizer: str = "adam", folder: Path = SHORTCUTS,
                   n_train: int = N_TRAIN, n_test: int = N_TEST, epochs: int = GRID_EPOCHS) -> None:
    """`judge_shortcuts` on a part of a data set, added to blocks.csv in `folder`, unless its rows are there."""
    about = {"dataset": dataset, "images": n_train, "epochs": epochs, "optimizer": optimizer, "shortcuts": shortcuts,
             "seed": seed}
    if len(_rows(folder / "blocks.csv", about)[1]):
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = random_part(*load_dataset(dataset, seed=seed), n_train, n_test, seed)
    _add(folder / "blocks.csv", judge_shortcuts(shortcuts, *parts, epochs, seed, optimizer), about)


def _add(file, table, about):
    """Add the rows about one training to a table, in place of those that are there."""
    others, _ = _rows(file, about)
    columns = [*about, *[name for name in ("reading",) if name in table]]
    table = table.assign(**about)[[*columns, *[name for name in table if name not in columns]]]
    write_text(file, pd.concat([others, table]).to_csv(index=False, float_format="%.5g"))


def _rows(file, about):
    """(all other rows of a table, those about this training)."""
    if not file.exists():
        return pd.DataFrame(), pd.DataFrame()
    table = pd.read_csv(file)
    mine = (table[list(about)] == pd.Series(about)).all(axis=1)
    return table[~mine], table[mine]
