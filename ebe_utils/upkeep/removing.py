"""The answers of small networks that were trained again without examples, as a committed table for each data set."""

from pathlib import Path

import pandas as pd

from ..datasets import load_dataset
from ..files import write_text
from ..study.removals import removals
from .publishing import REFERENCE

FOLDER = REFERENCE / "removals"
N_TRAIN, N_TEST = 500, 1000


def keep_removals(dataset: str, images: int = 30, seeds: int = 2, seed: int = 0, folder: Path = FOLDER,
                  n_train: int = N_TRAIN, n_test: int = N_TEST) -> Path:
    """Write folder/dataset.csv, the rows of `removals`; after an interruption it goes on with the next image.

    A finished table is left as it is: another machine trains other networks, whose rows must not be mixed with these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{dataset}.csv"
    found = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {row["image"] for row in found}
    if len(done) >= 2 * images:
        return file
    parts = load_dataset(dataset, None, n_train, n_test, seed)
    for rows in removals(*parts, images, seeds, seed, done=done):
        found = sorted([*found, *rows], key=lambda row: row["image"])
        write_text(file, pd.DataFrame(found).to_csv(index=False, float_format="%.5g"))
    return file
