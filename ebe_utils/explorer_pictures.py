"""What the explorer shows of each input: a tile of one large picture, a text, or a curve.

A page has room for so many bytes. Pictures are kept without loss where they fit, else as JPEG; where that is still too
much, the inputs that come last in the list are left without a picture.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .data import ImageSet, scale

LARGEST_SIDE = 64  # pixels of a tile; larger images are made smaller
LONGEST_TEXT = 400  # characters
LONGEST_CURVE = 128  # points
_QUALITY = 85  # of JPEG
_TRIAL = 1000  # training inputs by which the bytes of all are estimated


def packed(values: np.ndarray) -> dict[str, Any]:
    """An array as JSON can hold it: type, shape and the little-endian bytes in base64."""
    values = np.ascontiguousarray(values)
    return {"dtype": values.dtype.name, "shape": list(values.shape),
            "data": base64.b64encode(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()).decode()}


def kind_of_inputs(inputs: Any) -> str:
    """"image", "series" or "text": how such inputs are shown without a function that describes them.

    Raises TypeError for inputs that are none of them.
    """
    rows = inputs.images if isinstance(inputs, ImageSet) else inputs
    shape = getattr(rows, "shape", None)
    if shape is not None:
        if len(shape) == 4 and shape[1] in (1, 3):
            return "image"
        if len(shape) in (2, 3) and torch.as_tensor(rows[:1]).dtype not in (torch.int32, torch.int64):
            return "series"
    elif isinstance(inputs, Sequence) and len(inputs) and all(isinstance(one, str) for one in inputs):
        return "text"
    shown = f"of shape {tuple(shape)}" if shape is not None else f"of type {type(inputs).__name__}"
    raise TypeError(f"inputs {shown} are neither images (n, 1 or 3, H, W), nor series (n, length) or (n, channels, "
                    "length), nor a list of texts; pass describe=, a function that turns one of them into a text.")


def pictures(test: Any, test_at: np.ndarray, train: Any, train_at: np.ndarray, room: int,
             describe: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """How the explorer shows the test inputs at `test_at` and as many of the training inputs at `train_at` as fit.

    test, train: `ImageSet`s, arrays or lists of texts (`kind_of_inputs`). describe: turns one input into a text. room:
    bytes. Returns a dict for JSON: "kind", "count" (how many of train_at are shown, from the first on), and what the
    kind needs. Raises ValueError where not even the test inputs fit.
    """
    test, train = (part.images if isinstance(part, ImageSet) else part for part in (test, train))
    kind = "text" if describe is not None else kind_of_inputs(test)
    make: Callable[..., dict[str, Any]] = {"text": _texts, "image": _sprite, "series": _curves}[kind]
    given = (_Described(test, describe), _Described(train, describe)) if describe is not None else (test, train)
    lossless, count, n = True, len(train_at), len(test_at)
    found = make(*given, test_at, train_at[:_TRIAL], lossless)
    if kind == "image" and _expected(found, n + _TRIAL, n + count) > room:
        lossy = make(*given, test_at, train_at[:_TRIAL], False)
        found, lossless = (lossy, False) if lossy["bytes"] < found["bytes"] else (found, True)
    # Bytes are nearly in proportion to the number of inputs: a little more than fit to begin with, then a little less.
    count = min(count, int(1.05 * max(room, 0) / max(1, found["bytes"]) * (n + min(_TRIAL, count))))
    while True:
        found = make(*given, test_at, train_at[:count], lossless)
        if found["bytes"] <= room:
            return {"kind": kind, "count": count, **found}
        if not count:
            raise ValueError(f"the {n} test inputs take {found['bytes']:,} bytes, and {max(room, 0):,} are left for "
                             "them; show fewer (images), or keep fewer neighbours (k_max), or allow a larger page "
                             "(max_bytes).")
        count = min(count - 1, max(0, int((count + n) * room / found["bytes"] * 0.98) - n))


def _expected(found, seen, all_of_them):
    return found["bytes"] * max(1.0, all_of_them / seen)


class _Described:
    """Inputs as a function describes them, when they are asked for."""

    def __init__(self, inputs: Any, describe: Callable[[Any], Any]) -> None:
        self.inputs, self.describe = inputs, describe

    def __getitem__(self, at: int) -> str:
        return str(self.describe(self.inputs[at]))


def _texts(test, train, test_at, train_at, _):
    def cut(text):
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT - 1] + "…"

    words = {"test": [cut(test[int(at)]) for at in test_at], "train": [cut(train[int(at)]) for at in train_at]}
    return {**words, "bytes": len(json.dumps(words).replace("<", "\\u003c"))}  # as the page holds them


def _pixels(images, at):
    """(n, H, W, C) uint8 of some images (N, C, H, W), none larger than a tile."""
    images, at = torch.as_tensor(images), torch.from_numpy(np.asarray(at, np.int64))
    height, width = images.shape[2:]
    factor = min(1, LARGEST_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    tiles = np.empty((len(at), size[1], size[0], images.shape[1]), np.uint8)
    for first in range(0, len(at), 256):  # large images of many examples would fill the memory
        part = scale(images[at[first:first + 256]]).float().numpy().clip(0, 1)
        part = (part * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        for i, one in enumerate(part, first):
            small = one if factor == 1 else np.asarray(Image.fromarray(
                one.squeeze(2) if one.shape[2] == 1 else one).resize(size, Image.Resampling.LANCZOS))
            tiles[i] = small.reshape(tiles.shape[1:])
    return tiles


def _sprite(test, train, test_at, train_at, lossless):
    tiles = np.concatenate([_pixels(test, test_at), _pixels(train, train_at)])
    n, height, width, channels = tiles.shape
    # JPEG works on blocks of 8 by 8: a tile that ends where a block ends does not bleed into the next one.
    pad = (0, 0) if lossless else (-height % 8, -width % 8)
    columns = int(np.ceil(np.sqrt(n)))
    tiles = np.pad(tiles, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    sheet = np.zeros((columns * -(-n // columns), *tiles.shape[1:]), np.uint8)
    sheet[:n] = tiles
    down, across = tiles.shape[1:3]
    sheet = sheet.reshape(-1, columns, down, across, channels).transpose(0, 2, 1, 3, 4).reshape(
        -1, columns * across, channels)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet)
    if lossless:
        picture.save(buffer, "png", optimize=True)
    else:
        picture.save(buffer, "jpeg", quality=_QUALITY, subsampling=0)
    kind = "png" if lossless else "jpeg"
    data = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"sprite": data, "width": width, "height": height, "across": across, "down": down, "columns": columns,
            "lossless": lossless, "bytes": len(data)}


def _curves(test, train, test_at, train_at, _):
    def rows(values, at):
        chosen = torch.as_tensor(values)[torch.from_numpy(np.asarray(at, np.int64))].float().numpy()
        chosen = chosen[:, None] if chosen.ndim == 2 else chosen
        length = chosen.shape[2]
        if length <= LONGEST_CURVE:
            return chosen
        between = np.linspace(0, length - 1, LONGEST_CURVE)
        return np.stack([[np.interp(between, np.arange(length), line) for line in one] for one in chosen]).reshape(
            len(chosen), chosen.shape[1], LONGEST_CURVE)

    curves = np.concatenate([rows(test, test_at), rows(train, train_at)])
    low, high = float(curves.min()), float(curves.max())
    steps = np.round((curves - low) / ((high - low) or 1) * 65535).astype(np.uint16)
    values = packed(steps)
    return {"curves": values, "low": low, "high": high, "length": test.shape[-1], "bytes": len(values["data"])}
