"""A fitted classifier in a folder: safetensors and JSON, no pickle; the embeddings are mapped, not read.

classifier.json    parameters, classes, layer, fingerprint of the network, and the SHA-256 of the other files
arrays.safetensors labels, the network's probabilities, and what the search made ready
embeddings.safetensors, examples.safetensors, features.safetensors   one large array each (examples only where the
                   inputs were arrays; features, what goes into the last layer, only where the choice needs them)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .calibration import Calibration
from .data import ImageSet
from .files import forget_pages, sync, text_checksum, write_text
from .fingerprint import NetworkWatch, network_fingerprint
from .inputs import Inputs, as_inputs
from .layers import last_layer
from .network_examples import NetworkView
from .search import Index

FORMAT = 1
_NAMES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
          "U8": np.uint8, "I8": np.int8, "BOOL": np.bool_}
_CODES = {np.dtype(kind): code for code, kind in _NAMES.items()}
_PARAMETERS = ("k", "metric", "weights", "pooling", "target", "candidates", "choice", "batch_size",
               "memory_budget")


class _Stored(Inputs):
    """The training examples of a classifier that was read: mapped arrays, or what the user passed again."""

    def __init__(self, n, labels, classes, arrays=None, again=None):
        self.n, self.labels, self.classes, self.arrays, self.again = n, labels, classes, arrays, again

    def fetch(self, indices):
        if self.again is not None:
            return self.again.fetch(indices)
        return None if self.arrays is None else torch.from_numpy(np.ascontiguousarray(self.arrays[np.asarray(indices)]))


def save_classifier(ebe: Any, folder: str | Path) -> Path:
    """Write a fitted `EBEClassifier` to a folder, under a temporary name that is changed when it is whole.

    Raises ValueError for a metric or weights that are functions (only names can be written), and for a folder that
    holds something else.
    """
    ebe._check_unchanged()
    for name in ("metric", "weights"):
        if not isinstance(getattr(ebe, name), str):
            raise ValueError(f"{name}={getattr(ebe, name)!r} is a function, which cannot be saved without pickle; "
                             f"pass the name of one, or save the classifier with {name} set to a name and set it again "
                             "after load.")
    target = Path(folder)
    if target.exists() and not (target / "classifier.json").is_file() and (
            not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} holds something else than a saved classifier; choose a new folder.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        try:
            _write(ebe, part)
        except SafetensorError as error:  # its kind for a full disk, too
            raise OSError(f"{target} cannot be written ({error})") from None
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            target.rename(old)
        for file in part.iterdir():
            sync(file)
        try:
            part.rename(target)
        finally:  # where another process was quicker, or the disk is full, the one that is there stays
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write(ebe, part):
    ready = {} if ebe._index.basis is None else ebe._index.state()  # a small index is made again as fast as it is read
    arrays = {"labels": ebe.labels_} | {f"index.{name}": value for name, value in ready.items()}
    if ebe.network_proba_ is not None:
        arrays["network_proba"] = ebe.network_proba_
    calibration, rest = getattr(ebe, "calibration_", None), None
    if calibration is not None and all(getattr(ebe, name) == value for name, value in calibration.settings.items()):
        kept, rest = calibration.state()  # one for other votes would be refused when it is asked
        arrays |= {f"calibration.{name}": value for name, value in kept.items()}
    if ebe.classes_.dtype.kind in "iub":
        arrays["classes"] = ebe.classes_
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, part / "arrays.safetensors")
    write_large(part / "embeddings.safetensors", np.asarray(ebe._embeddings))
    if ebe._said.features is not None:
        write_large(part / "features.safetensors", np.asarray(ebe._said.features))
    if (examples := _examples(ebe.train_)) is not None and ebe._has_examples:
        write_large(part / "examples.safetensors", examples)
    about = {"format": FORMAT, "layer": ebe.layer_, "layer_name": ebe.layer_name_, "class_names": ebe.class_names_,
             "classes_are": ebe.classes_.dtype.kind, "comparable": ebe.comparable_, "pooling": ebe.pooling_,
             "network": None if ebe.model is None else ebe._watch.fingerprint, "has_examples": ebe._has_examples,
             "signature": _plain(ebe._signature), "parameters": {name: getattr(ebe, name) for name in _PARAMETERS},
             "calibration": rest, "files": {f.name: _digest(f) for f in sorted(part.glob("*.safetensors"))}}
    about = json.loads(json.dumps(about))
    write_text(part / "classifier.json", json.dumps(about | {"checksum": text_checksum(about)}, indent=1) + "\n")


def load_classifier(kind: type, folder: str | Path, model: torch.nn.Module | None = None, train_set: Any = None,
                    verify: bool = False) -> Any:
    """Read what `save_classifier` wrote. Embeddings and examples are mapped: they are read when they are needed.

    model: the network that was explained; another one is refused. train_set: the training examples, to be shown, where
    they were not saved. verify: also compare the large files with their SHA-256, which reads them whole; the small ones
    are compared always. Raises FileNotFoundError or ValueError for what is missing, damaged or does not fit.
    """
    folder = Path(folder)
    if not (folder / "classifier.json").is_file():
        raise FileNotFoundError(f"there is no saved classifier in {folder}; save one with EBEClassifier.save(folder).")
    about = _read_about(folder)
    for name, digest in about["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; save the classifier again.")
        if (verify or name == "arrays.safetensors") and _digest(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged; save the classifier again.")
    if (model is None) != (about["network"] is None):
        raise ValueError("this classifier explains a network; pass the same network as model." if model is None else
                         "this classifier was made from embeddings, without a network; pass no model.")
    if model is not None and network_fingerprint(model) != about["network"]:
        raise ValueError(f"the network is not the one that {folder} was saved for (its weights differ); pass that one, "
                         "or fit a new classifier.")
    arrays, embeddings = load_file(folder / "arrays.safetensors"), map_large(folder / "embeddings.safetensors")
    ebe = kind(model, layer=about["layer"], **about["parameters"])
    ebe.layer_, ebe.layer_name_, ebe.metric_, ebe.pooling_ = (
        about["layer"], about["layer_name"], about["parameters"]["metric"], about["pooling"])
    ebe.labels_, ebe.class_names_ = arrays["labels"], tuple(about["class_names"])
    ebe.classes_ = arrays["classes"] if "classes" in arrays else np.array(about["class_names"])
    ebe.network_proba_ = arrays.get("network_proba")
    ebe.network_predictions_ = None if ebe.network_proba_ is None else ebe.network_proba_.argmax(1)
    ebe.comparable_, ebe.n_features_in_ = about["comparable"], embeddings.shape[1]
    features = None
    if model is not None and "features.safetensors" in about["files"]:
        features, ebe._last = map_large(folder / "features.safetensors"), last_layer(model)
    ebe._said = NetworkView(ebe.labels_ if ebe.comparable_ else None, ebe.network_proba_, features)
    ebe._signature, ebe._embeddings = _signature(about["signature"]), embeddings
    shown = map_large(folder / "examples.safetensors") if "examples.safetensors" in about["files"] else None
    again = None if train_set is None else as_inputs(train_set)
    if again is not None and again.n != len(ebe.labels_):
        raise ValueError(f"train_set has {again.n} examples, the saved classifier {len(ebe.labels_)}; pass the "
                         "examples that it was fitted on.")
    ebe.train_ = _Stored(len(ebe.labels_), ebe.labels_, ebe.class_names_, shown, again)
    ebe._has_examples = about["has_examples"]
    state = {name.removeprefix("index."): value for name, value in arrays.items() if name.startswith("index.")}
    ebe._index = Index.from_state(embeddings, state, ebe.metric_) if state else Index(embeddings, ebe.metric_)
    if about.get("calibration") is not None:
        kept = {name.removeprefix("calibration."): value for name, value in arrays.items() if "calibration." in name}
        ebe.calibration_ = Calibration.from_state(kept, about["calibration"])
    if model is not None:
        ebe._watch = NetworkWatch(model, about["network"])
    return ebe


def _read_about(folder):
    try:
        about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, this version reads {FORMAT}")
        if about.pop("checksum", None) not in (None, text_checksum(about)):  # earlier versions wrote none
            raise ValueError("its contents do not have the checksum written with them")
        return about
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'classifier.json'} is damaged or of another version ({error}); save the "
                         "classifier again.") from None


# --- one large array in a safetensors file -----------------------------------------------------------------------


def write_large(path: Path, array: np.ndarray, name: str = "data") -> None:
    """A safetensors file of one array, written a part at a time: the library would copy it whole."""
    if array.dtype not in _CODES:
        raise ValueError(f"arrays of {array.dtype} cannot be saved; pass one of {', '.join(map(str, _CODES))}.")
    about = {name: {"dtype": _CODES[array.dtype], "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 64)  # rows start where a cache line does
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        step = max(1, 2**26 // max(1, array.nbytes // max(1, len(array))))
        for i in range(0, len(array), step):
            np.ascontiguousarray(array[i:i + step]).tofile(file)
            forget_pages(array)
        file.flush()
        os.fsync(file.fileno())


def map_large(path: Path, name: str = "data") -> np.ndarray:
    """The array of `write_large`, mapped from the file, read-only. ValueError if the file is damaged."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > 2**20:
                raise ValueError("its header is too long")
            about = json.loads(file.read(size))[name]
        shape, kind = tuple(about["shape"]), np.dtype(_NAMES[about["dtype"]])
        if path.stat().st_size != 8 + size + int(np.prod(shape)) * kind.itemsize:
            raise ValueError("its length is wrong")
        return np.memmap(path, kind, "r", 8 + size, shape)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the classifier again.") from None


def _examples(train):
    """The training examples as one array, or None where they are none."""
    arrays = train.images.images if isinstance(train.images, ImageSet) else getattr(train, "arrays", None)
    if isinstance(arrays, torch.Tensor):
        arrays = arrays.numpy()
    return arrays if isinstance(arrays, np.ndarray) and arrays.dtype in _CODES else None


def _plain(signature):
    if isinstance(signature, Mapping):
        return {name: _plain(value) for name, value in signature.items()}
    if isinstance(signature, tuple) and signature and isinstance(signature[0], torch.dtype):
        return [str(signature[0]).removeprefix("torch."), list(signature[1])]
    return [_plain(part) for part in signature] if isinstance(signature, tuple) else None


def _signature(plain):
    if isinstance(plain, Mapping):
        return {name: _signature(value) for name, value in plain.items()}
    if isinstance(plain, list) and plain and isinstance(plain[0], str):
        return getattr(torch, plain[0]), tuple(plain[1])
    return tuple(map(_signature, plain)) if isinstance(plain, list) else None


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
