"""The drawing of docs/architecture.md: which module may import from which, as the import contract says."""

import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.patches import FancyBboxPatch

from ..files import write_text
from ..study.figures import style
from .publishing import CHECKOUT

DRAWING = CHECKOUT / "docs" / "architecture.svg"
WINGS = {"files": "below everything", "data": "the library: import ebe_utils",
         "parameters": "ebe_utils.study: what notebooks and the command run on",
         "upkeep": "ebe_utils.upkeep: only in the checkout"}  # by the first module of each


def contract_layers(pyproject: Path = CHECKOUT / "pyproject.toml") -> list[list[str]]:
    """The layers of the import contract, the lowest first, each a list of modules; those of the study in its place."""
    def layers(contract: dict) -> list[list[str]]:
        return [re.findall(r"\w+", layer) for layer in reversed(contract["layers"])]

    library, study = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][:2]
    package = CHECKOUT / "ebe_utils"
    found = [[name for name in layer if (package / name).exists() or (package / f"{name}.py").exists()]
             for layer in layers(library)]
    at = found.index(["study"])
    return [layer for layer in found[:at] + layers(study) + found[at + 1:] if layer]


def draw(path: Path = DRAWING) -> None:
    """Draw the layers below each other, in the order in which data flow, and save them as SVG."""
    layers = contract_layers()
    with plt.rc_context():
        style()
        plt.rc("axes", grid=False)
        figure, axes = plt.subplots(figsize=(9, 0.52 * len(layers) + 0.34 * len(WINGS)), layout="none")
        figure.subplots_adjust(0, 0, 1, 1)
        y, color = 0.0, None
        colors = iter(sns.color_palette("pastel", len(WINGS)))
        for layer in layers:
            if wing := next((WINGS[name] for name in layer if name in WINGS), None):
                y, color = y + 0.34, next(colors)
                axes.text(0.1, y - 0.02, wing, fontsize=10, va="bottom", weight="bold")
            axes.add_patch(FancyBboxPatch((0.12, y + 0.04), 8.76, 0.36, boxstyle="round,pad=0.02", facecolor=color,
                                          edgecolor="0.4", linewidth=0.8))
            axes.text(4.5, y + 0.22, "   ".join(layer), fontsize=10, ha="center", va="center")
            y += 0.52
        axes.set(xlim=(0, 9), ylim=(y, 0))
        axes.axis("off")
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    write_text(path, "".join(f"{line.rstrip()}\n" for line in path.read_text(encoding="utf-8").splitlines()))
