"""What does a layer capture? Measurable properties that neighbours share more than chance (section 3.2, in numbers)."""

from typing import Any

import numpy as np
import pandas as pd

from .checks import integer, one_of
from .data import as_image_set, as_tensor, scale
from .layer_neighbors import PIXELS, LayerNeighbors
from .statistics import percentile_interval
from .votes import one_hot


def concepts(images: np.ndarray, labels: np.ndarray, n_classes: int) -> dict[str, np.ndarray]:
    """{property: (n, d) non-negative float32} of images (n, 1 or 3, H, W), uint8 or 0 to 1, for `shared`.

    intensity, or colour: histogram of 16 levels, or of 4 each of red, green and blue (Swain and Ballard 1991). edges:
    histogram of 8 orientations, weighted by the gradient (Freeman and Roth 1995). frequency: amplitude in rings of one
    cycle per image. structure: edges in each of 4 by 4 cells (Dalal and Triggs 2005, simplified). shape: see
    `foreground`. class: one-hot labels. Histograms and spectra sum to 1, or are 0 where there is no edge or contrast.
    """
    tensor = as_tensor(images)
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {tuple(tensor.shape)} have no colour or intensity; pass (n, 1 or 3, H, W).")
    parts = [_concepts(scale(part).double().numpy()) for part in tensor.split(2048)]
    name = "intensity" if tensor.shape[1] == 1 else "colour"
    found = dict(zip((name, "edges", "frequency", "structure", "shape"), zip(*parts, strict=True), strict=True))
    return {key: np.concatenate(part).astype(np.float32) for key, part in found.items()} | {
        "class": one_hot(labels, n_classes).astype(np.float32)}


def _concepts(pixels):
    """The properties of pixels (n, C, H, W) from 0 to 1, without the class, each (n, d)."""
    n, channels, height, width = pixels.shape
    bins = 16 if channels == 1 else 4
    levels = np.minimum((pixels * bins).astype(int), bins - 1)
    color = _histograms(np.tensordot(levels, bins ** np.arange(channels), (1, 0)), bins**channels)
    grey = pixels.mean(1)
    dy, dx = np.gradient(grey, axis=(1, 2))
    turn = np.rint(np.arctan2(dy, dx) / np.pi * 8).astype(int) % 8  # light to dark and dark to light are one
    strength = np.hypot(dy, dx)
    edges = _histograms(turn, 8, strength)
    cells = (np.arange(height) * 4 // height * 4)[:, None] + np.arange(width) * 4 // width  # (H, W), from 0 to 15
    structure = _histograms(cells * 8 + turn, 128, strength)
    radius = np.rint(np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
                     * min(height, width)).astype(int)  # in cycles along the shorter side
    rings = radius.ravel()[:, None] == np.arange(1, min(height, width) // 2 + 1)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))).reshape(n, -1) @ rings
    return color, edges, _share(amplitude), structure, foreground(grey).reshape(n, -1)


def _histograms(values, bins, weights=None):
    """(n, bins) shares of the integers in values (n, H, W)."""
    n = len(values)
    at = (values.reshape(n, -1) + bins * np.arange(n)[:, None]).ravel()
    return _share(np.bincount(at, None if weights is None else weights.ravel(), n * bins).reshape(n, bins))


def _share(values):
    total = values.sum(1, keepdims=True)
    return np.where(total > 1e-9, values / np.where(total > 1e-9, total, 1), 0)


def foreground(grey: np.ndarray) -> np.ndarray:
    """Otsu's foreground (1979) of grey images (n, H, W) from 0 to 1, booleans: the side with less of the border.

    Right for an object on an even ground; in a photograph it is often just where there is light, or shadow.
    """
    levels = np.rint(np.asarray(grey) * 255).astype(int)
    weight = _histograms(levels, 256).cumsum(1)  # (n, 256): share of the pixels up to each level
    moment = (_histograms(levels, 256) * np.arange(256)).cumsum(1)
    rest = weight * (1 - weight)
    between = np.where(rest > 1e-9, (moment[:, -1:] * weight - moment)**2 / np.where(rest > 1e-9, rest, 1), 0)
    mask = levels > between.argmax(1)[:, None, None]
    border = np.concatenate([mask[:, 0], mask[:, -1], mask[:, 1:-1, 0], mask[:, 1:-1, -1]], 1)
    return mask ^ (border.mean(1) > 0.5)[:, None, None]


def shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Similarity of properties in [0, 1], the sum of minima by that of maxima over the last axis (Ruzicka 1958).

    1 only for equal ones (two of nothing are equal). Of masks: intersection over union; of labels: 1 or 0.
    """
    most = np.maximum(a, b).sum(-1)
    return np.where(most > 0, np.minimum(a, b).sum(-1) / np.where(most > 0, most, 1), 1)


def concept_effects(neighbors: LayerNeighbors, train_set: Any, test_set: Any, k: int = 10,
                    against: str | LayerNeighbors = "chance", random: int = 50, draws: int = 1000, seed: int = 0
                    ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(effects, peaks): how much more of each property neighbours share than others do, layer by layer.

    neighbors: `LayerNeighbors` of these sets. against: "chance", `random` training images for each test image;
    "class", as many as neighbours and of their classes, so that what is shared because the class is does not count;
    or `LayerNeighbors` of another network. draws: bootstrap samples of the test images, for 95 % intervals.
    effects: layer, property, neighbours and others (mean similarities), effect (their difference, in standard
    deviations of random pairs; NaN if these are all alike), low, high, ceiling (the effect if neighbours were equal).
    peaks: property, peak (the layer, but for the pixels, with the largest effect), low, high, and effect there.
    """
    if isinstance(against, str):
        one_of("against", against, ("chance", "class"))
    for found in (neighbors, *([] if isinstance(against, str) else [against])):
        integer("k", k, 1, next(iter(found.indices.values())).shape[1], ", so many neighbours were searched")
    train_set, test_set, rng = as_image_set(train_set), as_image_set(test_set), np.random.default_rng(seed)
    n, classes = len(test_set), len(train_set.classes)
    mine, theirs = (concepts(part.images, part.labels, classes) for part in (test_set, train_set))
    names = [name for name in mine if against != "class" or name != "class"]

    def similarities(indices):
        return {name: np.stack([shared(mine[name], theirs[name][i]) for i in indices.T], 1) for name in names}

    samples = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), draws)]) / n  # the first: all, once each
    chance = similarities(rng.integers(0, len(train_set), (n, random)))
    rows, drawn = [], {name: dict[int | str, np.ndarray]() for name in names}
    for layer, indices in neighbors.indices.items():
        if against == "class":
            chance = others = similarities(_of_class(train_set.labels, train_set.labels[indices[:, :k]], rng))
        else:
            others = chance if isinstance(against, str) else similarities(against.indices[layer][:, :k])
        for name, near in similarities(indices[:, :k]).items():
            far = chance[name]
            sd = np.sqrt(np.maximum(samples @ (far**2).mean(1) - (samples @ far.mean(1))**2, 0))
            sd = np.where(sd > 1e-6, sd, np.nan)
            other = samples @ others[name].mean(1)
            effect = drawn[name][layer] = (samples @ near.mean(1) - other) / sd
            low, high = percentile_interval(effect[1:])
            rows.append({"layer": layer, "property": name, "neighbours": near.mean(), "others": others[name].mean(),
                         "effect": effect[0], "low": low, "high": high, "ceiling": (1 - other[0]) / sd[0]})
    return pd.DataFrame(rows), _peaks(drawn)


def _of_class(labels, wanted, rng):
    """Positions of random entries of labels (n,) whose label is the wanted one, in wanted's shape."""
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
    return order[(counts.cumsum() - counts)[wanted] + (rng.random(wanted.shape) * counts[wanted]).astype(int)]


def _peaks(drawn):
    rows = []
    for name, effects in drawn.items():
        layers = [layer for layer in effects if layer != PIXELS]
        values = np.stack([effects[layer] for layer in layers])  # (layers, 1 + draws)
        if np.isfinite(values).all():
            at = values.argmax(0)
            low, high = (round(end) for end in percentile_interval(at[1:]))
            rows.append({"property": name, "peak": layers[at[0]], "low": layers[low], "high": layers[high],
                         "effect": values[at[0], 0]})
    return pd.DataFrame(rows)
