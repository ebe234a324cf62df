"""Which stretch of time makes two series close: the cosine of two embeddings, taken apart into steps.

The decomposition is that of `ebe_utils.similarity.contributions`, for layers with outputs (channels, positions).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .checks import real
from .embeddings import feature_maps
from .similarity import contributions


@dataclass(frozen=True, repr=False, eq=False)  # equal means the same one: arrays have no truth
class StretchMatch:
    """Why two series, (channels, steps), are similar at a layer, position by position.

    cosines: two arrays (positions,), what each position of the series, and of the example, adds to the cosine of the
    two embeddings; both sum to `cosine`, and without pooling they are one. leads: what each adds to the cosine's lead
    over other series, or the cosines if there were none.
    """

    series: np.ndarray
    example: np.ndarray
    cosines: tuple[np.ndarray, np.ndarray]
    leads: tuple[np.ndarray, np.ndarray]

    @property
    def cosine(self) -> float:
        """Of the two embeddings."""
        return float(self.cosines[0].sum())

    @property
    def lead(self) -> tuple[float, float]:
        """By how much the cosine is above that of the series, and of the example, with other series."""
        return float(self.leads[0].sum()), float(self.leads[1].sum())


def stretch_match(model: nn.Module, series: Any, example: Any, layer: int | str, pooling: str = "none",
                  others: Any = None, device: str | torch.device = "auto") -> StretchMatch:
    """The `StretchMatch` of two series, (channels, steps), at a layer with outputs (n, channels, positions).

    pooling: "none" compares a step with the same step only, "avg" with every step. others: series (n, channels, steps)
    whose mean is taken off, so that what any series has is left. Raises ValueError for a layer with other outputs.
    """
    pair = np.stack([np.asarray(series, np.float32), np.asarray(example, np.float32)])
    maps = feature_maps(model, pair, layer, device)
    if maps.ndim != 3:
        raise ValueError(f"layer {layer!r} outputs shape {maps.shape}; pass one with outputs (n, channels, positions).")
    f, g = maps[:, :, None]  # (channels, 1, positions), as maps of height 1
    cosines = [side[0] for side in contributions(f, g, pooling=pooling)]
    leads = cosines
    if others is not None:
        rest = feature_maps(model, others, layer, device)[:, :, None]
        chance = contributions(f, rest, pooling=pooling)[0], contributions(rest, g, pooling=pooling)[1]
        leads = [side - other[:, 0].mean(0) for side, other in zip(cosines, chance, strict=True)]
    return StretchMatch(pair[0], pair[1], (cosines[0], cosines[1]), (leads[0], leads[1]))


def shortest_stretch(values: np.ndarray, share: float = 0.5) -> tuple[int, int]:
    """(start, stop) of the shortest stretch of neighbouring positions whose values sum to `share` of the whole sum.

    values: (positions,). Of several as short, the one with the largest sum. Raises ValueError where the whole is not
    positive, so that no stretch of it is a share, and for a share outside (0, 1].
    """
    values = np.asarray(values, float)
    real("share", share, 0)
    whole = values.sum()
    if share > 1 or not whole > 0:
        raise ValueError(f"a share {share} of a sum {whole:.4g} is no stretch; pass a share up to 1 of values with a "
                         "positive sum.")
    sums = np.concatenate([[0.0], values.cumsum()])
    for length in range(1, len(values) + 1):
        inside = sums[length:] - sums[:-length]
        if inside.max() >= share * whole * (1 - 1e-9):
            start = int(inside.argmax())
            return start, start + length
    raise AssertionError("the whole is a stretch of itself")
