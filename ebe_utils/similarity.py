"""Beyond the paper: why is an example close? Which positions make two embeddings similar, and which measurable
properties neighbours share more than chance ("what a layer captures", section 3.2 of the paper, in numbers)."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .attribution import one_hot
from .checks import integer, one_of
from .data import as_image_set, as_tensor
from .embeddings import POOLINGS, feature_maps
from .figures import draw_image
from .model import evaluating, layer_name, on_device, predict_logits, scale
from .sweep import PIXELS

# --- positions -----------------------------------------------------------------------------------------------------


def contributions(f, g, metric="cosine", pooling="none"):
    """(on f, on g): what each position adds to the cosine, or squared euclidean distance, of two embeddings.

    f, g: what a layer puts out, (..., channels, height, width), where ... broadcasts; the maps, (..., height, width)
    float64, each sum to the whole value. pooling="none": a position is compared with the same position only, so the
    two maps are one. "avg": the value is a mean over all pairs of positions; a map sums the pairs of each position.
    The cosine with an embedding of zeros is 0. Raises ValueError for shapes that do not fit.
    """
    one_of("metric", metric, ("cosine", "euclidean"))
    one_of("pooling", pooling, POOLINGS)
    f, g = np.asarray(f, float), np.asarray(g, float)
    if min(f.ndim, g.ndim) < 3 or f.shape[-3] != g.shape[-3] or (pooling == "none" and f.shape[-2:] != g.shape[-2:]):
        raise ValueError(f"outputs of shapes {f.shape} and {g.shape} do not fit; pass two of one layer, (..., "
                         "channels, height, width), for pooling='none' of the same height and width.")
    if pooling == "none":
        both = ((f - g)**2 if metric == "euclidean" else f * g / (_length(f) * _length(g))).sum(-3)
        return both, both
    f_mean, g_mean = (maps.mean((-2, -1), keepdims=True) for maps in (f, g))  # (..., channels, 1, 1)
    if metric == "euclidean":  # a pair of positions p, q adds (f_mean - g_mean) · (f(p) - g(q))
        sides = (f_mean - g_mean) * (f - g_mean), (f_mean - g_mean) * (f_mean - g)
    else:
        lengths = _length(f_mean) * _length(g_mean)
        sides = f * g_mean / lengths, f_mean * g / lengths
    return tuple(side.sum(-3) / np.prod(side.shape[-2:]) for side in sides)


def pair_contributions(f, g):
    """What each pair of positions adds to the cosine of two averaged embeddings, (height, width, height, width).

    f, g: (channels, height, width). Summed over g's positions, or f's, it is `contributions(pooling="avg")`.
    """
    f, g = np.asarray(f, float), np.asarray(g, float)
    lengths = np.prod([_length(maps.mean((1, 2), keepdims=True)).item() for maps in (f, g)])
    return np.einsum("chw,cyx->hwyx", f, g) / (lengths * f[0].size * g[0].size)


def _length(maps):
    """Euclidean length over channels and positions, (..., 1, 1, 1); 1 in place of 0."""
    length = np.sqrt((maps**2).sum((-3, -2, -1), keepdims=True))
    return np.where(length > 0, length, 1)


def grad_cam(model, images, layer, classes=None, device="auto"):
    """Grad-CAM (Selvaraju et al. 2017): where a layer speaks for a class, (n, height, width) float32, in logits.

    The layer's channels, weighted by the mean gradient of the class's logit and summed, negative sums set to 0.
    classes: a class index for each image; None takes the network's own. ImportError without captum.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise ImportError("Grad-CAM needs captum, which is not installed: `pip install captum`, or install this "
                          "package with the extra that has it, `pip install -e .[test]`.") from None
    images = as_tensor(images)
    classes = predict_logits(model, images, device=device).argmax(1) if classes is None else classes
    model, device = on_device(model, device)
    inputs = scale(images).to(device).clone().requires_grad_()  # a frozen network has no other way to the gradient
    with evaluating(model):
        cam = LayerGradCam(model, model.get_submodule(layer_name(model, layer))).attribute(
            inputs, target=[int(c) for c in classes], relu_attributions=True)
    return cam.detach().cpu().numpy()[:, 0]


@dataclass(frozen=True, repr=False)
class Similarity:
    """Why two images, (C, H, W), are similar at a layer.

    maps: on the image and on the neighbour, each (height, width) with sum values[0] and values[1]: the cosine, or by
    how much it is above that with other images. cam: Grad-CAM of the image.
    """

    image: object
    neighbor: object
    layer: int | str
    maps: tuple
    values: tuple
    cam: np.ndarray


def why_similar(model, image, neighbor, layer, pooling="none", others=None, device="auto"):
    """A `Similarity`. others: images (n, C, H, W) whose mean map is taken off, so that what any image has is left."""
    f, g = feature_maps(model, np.stack([image, neighbor]), layer, device)
    maps = contributions(f, g, pooling=pooling)
    if others is not None:
        rest = feature_maps(model, others, layer, device)
        chance = contributions(f, rest, pooling=pooling)[0], contributions(rest, g, pooling=pooling)[1]
        maps = tuple(side - other.mean(0) for side, other in zip(maps, chance, strict=True))
    return Similarity(image, neighbor, layer, maps, tuple(float(side.sum()) for side in maps),
                      grad_cam(model, image[None], layer, device=device)[0])


def draw_heat(axes, image, values, colors="RdBu_r", low=None, high=None, title="", xlabel=""):
    """A map over an image (C, H, W), one square for each position, under the outline of the image's foreground.

    Not smoothed, since squares are what is summed, nor see-through, so that the colour bar holds. Without low and
    high, white is zero. Returns what `Figure.colorbar` takes.
    """
    grey = scale(as_tensor(image)).float().mean(0)
    draw_image(axes, grey[None], title, xlabel=xlabel)
    limit = float(np.abs(values).max()) or 1
    height, width = grey.shape
    heat = axes.imshow(values, cmap=colors, vmin=-limit if low is None else low, vmax=limit if high is None else high,
                       interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    mask = foreground(grey[None].numpy())[0]
    if mask.any():
        axes.contour(mask, levels=[0.5], colors="0.5" if colors == "cividis" else "black", linewidths=1)
    return heat


def similarity_figure(similarities, unit="contribution to the cosine"):
    """One row for each `Similarity`: image, neighbour, what each position adds on either (red: makes them similar,
    blue: different), and Grad-CAM. Returns (figure, data)."""
    height = 1.75 * len(similarities) + 0.45  # laid out by hand, which is much faster
    figure, axes = plt.subplots(len(similarities), 8, figsize=(10.5, height), squeeze=False, layout="none",
                                gridspec_kw={"width_ratios": [1, 1, 1, 1, 0.06, 0.42, 1, 0.06]})
    figure.subplots_adjust(0.03, 0.25 / height, 0.94, 1 - 0.45 / height, 0.08, 0.18)
    rows = []
    for row, (panels, s) in enumerate(zip(axes, similarities, strict=True)):
        first, second, third, fourth, cam = [""] * 5 if row else [
            "test image", "neighbour", "similarity\non the test image", "similarity\non the neighbour", "Grad-CAM"]
        draw_image(panels[0], s.image, first)
        draw_image(panels[1], s.neighbor, second)
        panels[0].set_ylabel(f"layer {s.layer}", fontsize=10)
        limit = max(float(np.abs(side).max()) for side in s.maps) or 1
        for axis, image, values, total, title in zip(panels[2:4], (s.image, s.neighbor), s.maps, s.values,
                                                     (third, fourth), strict=True):
            heat = draw_heat(axis, image, values, low=-limit, high=limit, title=title, xlabel=f"sum {total:.3f}")
        warm = draw_heat(panels[6], s.image, s.cam, "cividis", 0, float(s.cam.max()) or 1, cam)
        panels[5].axis("off")
        for values, axis, label in ((heat, panels[4], unit), (warm, panels[7], "logits")):
            figure.colorbar(values, cax=axis).set_label(label, fontsize=8)
            axis.tick_params(labelsize=8)
        rows += [{"layer": s.layer, "map": name, "y": y, "x": x, "value": value}
                 for name, values in zip(("test image", "neighbour", "Grad-CAM"), (*s.maps, s.cam), strict=True)
                 for (y, x), value in np.ndenumerate(values)]
    return figure, pd.DataFrame(rows)


# --- properties ----------------------------------------------------------------------------------------------------


def concepts(images, labels, n_classes):
    """{property: (n, d) non-negative float32} of images (n, 1 or 3, H, W), uint8 or 0 to 1, for `shared`.

    intensity, or colour: histogram of 16 levels, or of 4 each of red, green and blue (Swain and Ballard 1991). edges:
    histogram of 8 orientations, weighted by the gradient (Freeman and Roth 1995). frequency: amplitude in rings of one
    cycle per image. structure: edges in each of 4 by 4 cells (Dalal and Triggs 2005, simplified). shape: see
    `foreground`. class: one-hot labels. Histograms and spectra sum to 1, or are 0 where there is no edge or contrast.
    """
    images = as_tensor(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {tuple(images.shape)} have no colour or intensity; pass (n, 1 or 3, H, W).")
    parts = [_concepts(scale(part).double().numpy()) for part in images.split(2048)]
    name = "intensity" if images.shape[1] == 1 else "colour"
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


def foreground(grey):
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


def shared(a, b):
    """Similarity of properties in [0, 1], the sum of minima by that of maxima over the last axis (Ruzicka 1958).

    1 only for equal ones (two of nothing are equal). Of masks: intersection over union; of labels: 1 or 0.
    """
    most = np.maximum(a, b).sum(-1)
    return np.where(most > 0, np.minimum(a, b).sum(-1) / np.where(most > 0, most, 1), 1)


def concept_effects(neighbors, train_set, test_set, k=10, against="chance", random=50, draws=1000, seed=0):
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
    rows, drawn = [], {name: {} for name in names}
    for layer, indices in neighbors.indices.items():
        if against == "class":
            chance = others = similarities(_of_class(train_set.labels, train_set.labels[indices[:, :k]], rng))
        else:
            others = chance if against == "chance" else similarities(against.indices[layer][:, :k])
        for name, near in similarities(indices[:, :k]).items():
            far = chance[name]
            sd = np.sqrt(np.maximum(samples @ (far**2).mean(1) - (samples @ far.mean(1))**2, 0))
            sd = np.where(sd > 1e-6, sd, np.nan)
            other = samples @ others[name].mean(1)
            effect = drawn[name][layer] = (samples @ near.mean(1) - other) / sd
            low, high = np.percentile(effect[1:], [2.5, 97.5])
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
            low, high = np.percentile(at[1:], [2.5, 97.5]).round().astype(int)
            rows.append({"property": name, "peak": layers[at[0]], "low": layers[low], "high": layers[high],
                         "effect": values[at[0], 0]})
    return pd.DataFrame(rows)
