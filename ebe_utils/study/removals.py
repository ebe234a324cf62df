"""Networks trained again without an image's examples: does the network's answer need them?

One network says the answers and chooses the examples. For each image and each choice of examples the same network is
trained anew without them, from several seeds, beside as many networks that saw everything. Hundreds of trainings need
a small network and few training images. What is found is about that network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data import ImageSet, scale
from ..forward import predict_logits, softmax
from ..frontier import Frontier
from ..paths import reference_root
from ..search import kneighbors
from ..statistics import mean_interval
from ..training import train

LAYER = 3  # the last convolution of the small network
PIXELS = "raw pixels"
RIGHT, WRONG = "right", "wrong"


def small_network(data: ImageSet, seed: int = 0, epochs: int = 8, device: str = "auto") -> nn.Module:
    """A trained network of three convolutions; `seed` decides its initial weights and the order of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        widths, layers = [data.shape[0], 16, 32, 64], []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, len(data.classes)))
    return train(net, data, epochs=epochs, batch_size=64, learning_rate=0.003, schedule="linear", seed=seed,
                 device=device, progress=False)


def equal_choices(frontier: Frontier, train_set: ImageSet, test_set: ImageSet) -> dict[str, np.ndarray]:
    """{choice: (n_test, k) examples}: those of `Frontier.choices` with equal weights, and the nearest in raw pixels."""
    chosen = {name: at for name, (at, weights) in frontier.choices().items() if weights is None}
    rows, queries = (scale(part.images).flatten(1).numpy() for part in (train_set, test_set))
    return chosen | {PIXELS: kneighbors(rows, queries, frontier.k)[1]}


def removals(train_set: ImageSet, test_set: ImageSet, images: int = 30, seeds: int = 2, seed: int = 0, k: int = 10,
             candidates: int = 50, network: Callable[..., Any] = small_network, layer: int | str = LAYER,
             done: Collection[int] = ()) -> Iterator[list[dict[str, Any]]]:
    """For each of the first `images` test images that the network gets right, and as many that it gets wrong, its rows.

    Rows: image, answer (right or wrong), choice, same label (share of its examples whose label is the network's
    answer), before and after (the probability of the answer by networks trained with and without the choice's
    examples, mean over the seeds), kept before and kept after (how many of them give that answer). network(data,
    seed): trains one; that of `seed` gives the answers and the examples, and it is trained anew from seed, seed + 1,
    ...; done: images to leave out. The yielded lists have a row for each choice.
    """
    frontier = Frontier(network(train_set, seed), train_set, test_set, layer, k, (candidates,), seed)
    choices = equal_choices(frontier, train_set, test_set)
    right = np.flatnonzero(frontier.answers == frontier.truth)
    asked = sorted([*right[:images], *frontier.wrong[:images]])
    full = [softmax(predict_logits(network(train_set, seed + s), test_set.images)) for s in range(seeds)]
    for i in (int(i) for i in asked if i not in done):
        answer, image = frontier.answers[i], test_set.images[i:i + 1]

        def said(out, answer=answer, image=image):
            kept = train_set.subset(np.setdiff1d(np.arange(len(train_set)), out))
            without = [softmax(predict_logits(network(kept, seed + s), image))[0] for s in range(seeds)]
            return _mean(without, answer)

        before = _mean([proba[i] for proba in full], answer)
        about = {"image": i, "answer": RIGHT if answer == frontier.truth[i] else WRONG}
        rows = []
        for name, at in choices.items():
            after = said(at[i])
            rows.append(about | {"choice": name, "same label": float((train_set.labels[at[i]] == answer).mean()),
                                 "before": before[0], "after": after[0], "kept before": before[1],
                                 "kept after": after[1]})
        yield rows


def _mean(probabilities, answer):
    """(mean probability of the answer, how many give it)."""
    return (float(np.mean([p[answer] for p in probabilities])),
            sum(int(p.argmax() == answer) for p in probabilities))


def kept_removals(root: Path | None = None) -> pd.DataFrame:
    """The committed rows of all data sets, with a column dataset: root/removals, by default of `reference_root()`."""
    files = sorted((Path(root or reference_root()) / "removals").glob("*.csv"))
    tables = [pd.read_csv(file).assign(dataset=file.stem) for file in files]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def falls(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the answer's probability falls without the examples: dataset, choice, answer, fall, low, high, images.

    rows: `kept_removals`. fall: mean over the images, in points; low, high: its 95 % interval over the images.
    """
    found = []
    for (dataset, choice, answer), part in rows.groupby(["dataset", "choice", "answer"], sort=False):
        values = 100 * (part["before"] - part["after"]).to_numpy()
        found.append((dataset, choice, answer, values.mean(), *mean_interval(values), len(values)))
    return pd.DataFrame(found, columns=["dataset", "choice", "answer", "fall", "low", "high", "images"])


def fall_beyond(rows: pd.DataFrame, choice: str, other: str) -> tuple[float, float, float]:
    """(difference, low, high): how much more the answer falls without the examples of one choice than of another.

    rows: of `kept_removals`, of one data set and mostly of one kind of answer; points, with the 95 % interval of the
    paired difference over the images.
    """
    after = rows.pivot(index=["dataset", "image"], columns="choice", values="after")
    values = 100 * (after[other] - after[choice]).to_numpy()
    return float(values.mean()), *mean_interval(values)


def removals_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`falls` as the results page shows them: a row for each choice, a column for each data set and kind of answer."""
    table = falls(rows)
    cells = table.assign(cell=[f"{fall:.1f} ({low:.1f} to {high:.1f})" for fall, low, high in
                               zip(table["fall"], table["low"], table["high"], strict=True)],
                         column=table["dataset"] + ", " + table["answer"])
    wide = cells.pivot(index="choice", columns="column", values="cell").reindex(cells["choice"].unique())
    return wide.sort_index(axis=1).reset_index().rename_axis(columns=None)
