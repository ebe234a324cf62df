"""Drawings of why two images are similar."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..data import as_tensor, scale
from ..files import read_tensors, write_tensors
from ..properties import foreground
from ..similarity import Similarity
from .figures import draw_image


def draw_heat(axes: Axes, image: torch.Tensor, values: np.ndarray, colors: str = "RdBu_r", low: float | None = None,
              high: float | None = None, title: str = "", xlabel: str = "") -> AxesImage:
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


def similarity_figure(similarities: Sequence[Similarity],
                      unit: str = "contribution to the cosine") -> tuple[Figure, pd.DataFrame]:
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
        for drawn, axis, label in ((heat, panels[4], unit), (warm, panels[7], "logits")):
            figure.colorbar(drawn, cax=axis).set_label(label, fontsize=8)
            axis.tick_params(labelsize=8)
        rows += [{"layer": s.layer, "map": name, "y": y, "x": x, "value": value}
                 for name, values in zip(("test image", "neighbour", "Grad-CAM"), (*s.maps, s.cam), strict=True)
                 for (y, x), value in np.ndenumerate(values)]
    return figure, pd.DataFrame(rows)


def write_similarities(path: str | Path, groups: Mapping[str, Sequence[Similarity]], about: str) -> None:
    """Write groups of `Similarity` to a safetensors file; about: a line that says where they are from."""
    tensors: dict[str, torch.Tensor] = {}
    layers: dict[str, list[int | str]] = {}
    for name, similarities in groups.items():
        layers[name] = [s.layer for s in similarities]
        for i, s in enumerate(similarities):
            parts = {"image": s.image, "neighbor": s.neighbor, "map0": s.maps[0], "map1": s.maps[1], "cam": s.cam,
                     "values": np.asarray(s.values, float)}
            tensors |= {f"{name}/{i}/{part}": torch.as_tensor(value).clone() for part, value in parts.items()}
    write_tensors(path, tensors, {"layers": json.dumps(layers), "about": about})


def read_similarities(path: str | Path) -> tuple[dict[str, list[Similarity]], str]:
    """({group: its `Similarity`s}, about) of a file that `write_similarities` wrote; files.DamagedFileError."""
    tensors, metadata = read_tensors(path)
    groups: dict[str, list[Similarity]] = {}
    for name, layers in json.loads(metadata["layers"]).items():
        groups[name] = []
        for i, layer in enumerate(layers):
            part = {key: tensors[f"{name}/{i}/{key}"] for key in ("image", "neighbor", "map0", "map1", "cam", "values")}
            groups[name].append(Similarity(part["image"], part["neighbor"], layer, (
                part["map0"].numpy(), part["map1"].numpy()), (*part["values"].tolist(),), part["cam"].numpy()))
    return groups, metadata["about"]
