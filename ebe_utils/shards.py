"""Embeddings in parts, each a saved classifier in a folder of its own: more than one index, or one machine, holds.

A query asks every part for its k nearest, and the k nearest of those are the k nearest of all: exact, since a distance
depends on its two rows alone. Parts are asked by joblib, on what `joblib.parallel_config` names (processes, or a Dask
cluster, which asks a part again whose worker has died).
"""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike

from .checks import integer
from .explainer import EBEClassifier
from .search.brute_force import merge
from .search.rows import as_rows

_NAME = "part-{:012d}"  # of a part's folder: the number of its first row


def save_shards(embeddings: Any, y: ArrayLike, folder: str | Path, rows: int, **settings: Any) -> list[Path]:
    """Save embeddings (n, d) as parts of `rows` rows each (the last may have fewer); the folders, in order.

    y: (n,) labels. embeddings may be memory-mapped, and are never in memory whole. settings: of
    `EBEClassifier.from_embeddings` (k, metric, ...). Parts that are there with as many rows are kept, so that an
    interrupted call goes on. Raises ValueError where the folder holds parts of another division.
    """
    values, labels, folder = as_rows(embeddings, "the embeddings"), np.asarray(y), Path(folder)
    integer("rows", rows, 1)
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels do not match {len(values)} embeddings; pass one for each.")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(values), rows)
    parts = [folder / _NAME.format(start) for start in starts]
    if strange := [path.name for path in _parts(folder) if path not in parts]:
        raise ValueError(f"{folder} holds parts of another division ({strange[0]}); choose a new folder.")
    settings["k"] = min(settings.get("k", 10), len(values) - starts[-1])
    for start, path in zip(starts, parts, strict=True):
        if not (path / "classifier.json").is_file():
            part = slice(start, start + rows)
            EBEClassifier.from_embeddings(values[part], labels[part], **settings).save(path)
    return parts


def ask_shards(folder: str | Path, queries: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distances, indices, labels) of the k nearest of all parts, each (m, k), nearest first, by number of the row.

    queries: (m, d) embeddings. Raises FileNotFoundError where there are no parts, ValueError for a part that is missing
    between others, or damaged, and for a k above the number of all rows.
    """
    parts = _parts(Path(folder))
    if not parts:
        raise FileNotFoundError(f"there are no parts in {folder}; make them with save_shards(embeddings, y, folder, "
                                "rows).")
    # A tensor goes along with every task. An array Dask would keep on one worker, and lose with it.
    asked = torch.from_numpy(np.array(as_rows(queries, "the queries")))
    found = joblib.Parallel()(joblib.delayed(_ask)(path, asked, integer("k", k, 1)) for path in parts)
    seen = 0
    for path, (_, _, _, size) in zip(parts, found, strict=True):
        if path.name != _NAME.format(seen):
            raise ValueError(f"{folder} has no part that begins with row {seen:,} (the next one is {path.name}); save "
                             "the parts again.")
        seen += size
    integer("k", k, 1, seen, f" (there are {seen:,} rows)")
    distances, indices = merge([one[:2] for one in found], k)
    at, labels = (np.concatenate([one[i] for one in found], axis=1) for i in (1, 2))
    place = np.argsort(at, axis=1)
    where = np.take_along_axis(place, np.stack([np.searchsorted(row[order], wanted) for row, order, wanted in
                                                zip(at, place, indices, strict=True)]), 1)
    return distances, indices, np.take_along_axis(labels, where, 1)


def _parts(folder):
    return sorted(path for path in folder.glob("part-*") if path.is_dir())


def _ask(path, queries, k):
    """(distances, numbers of rows, labels) of the k nearest of one part, and its number of rows."""
    ebe = EBEClassifier.load(path)
    size = len(ebe.labels_)
    distances, indices = ebe.kneighbors(queries, min(k, size))
    return distances, indices + int(path.name.removeprefix("part-")), ebe.classes_[ebe.labels_[indices]], size
