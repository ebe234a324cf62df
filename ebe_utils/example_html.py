"""One example as HTML: by the user's own function, as a picture, as text, or by its shape."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from .batches import each_part
from .data import scale


def one_by_one(examples: Any, n: int) -> list:
    """n examples as a list: of an array or list (n, ...), of a tuple or dict of arrays, or of None."""
    if examples is None:
        return [None] * n
    if isinstance(examples, tuple | Mapping):
        return [each_part(examples, lambda x, at=i: x[at]) for i in range(n)]
    return list(examples)


def is_image(example: Any) -> bool:
    """Whether it is a grey or colour image, (C, H, W)."""
    shape: tuple[int, ...] = getattr(example, "shape", ())
    return len(shape) == 3 and shape[0] in (1, 3)


def example_html(example: Any, describe: Callable[[Any], Any] | None = None, side: int = 56,
                 alt: str = "training or test image") -> str:
    """HTML of one example, escaped; describe: see `EBEClassifier`, whose own HTML is taken as it is."""
    if example is None:
        return "not at hand"
    if describe is not None:
        said = describe(example)
        return said._repr_html_() if hasattr(said, "_repr_html_") else html.escape(str(said))
    if isinstance(example, Mapping):
        return html.escape(f"an input with {', '.join(map(str, example))}")
    if not isinstance(example, torch.Tensor | np.ndarray):
        return html.escape(example if isinstance(example, str) else f"an input of type {type(example).__name__}")
    if not is_image(example):
        return f"an input of shape {tuple(example.shape)}"
    return (f'<img class="ebe-image" width="{side}" style="image-rendering:pixelated" alt="{html.escape(alt)}" '
            f'src="data:image/png;base64,{_png(example)}">')


def _png(image):
    from PIL import Image

    pixels = (scale(torch.as_tensor(image)).float().numpy().clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
