"""The file that holds the neighbours of a sweep: safetensors, with what describes them as JSON in its metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import read_tensors, write_tensors

ARRAYS = ("train_labels", "test_labels", "network")
LOGITS = ("network_logits", "train_logits")  # not in files of earlier versions


def write_neighbors(path: str | Path, neighbors: Any) -> None:
    """Write all fields of a `LayerNeighbors` but its notes; its metric must be a name."""
    tensors = {f"{kind}.{layer}": torch.from_numpy(values) for kind in ("indices", "distances")
               for layer, values in getattr(neighbors, kind).items()}
    tensors |= {f"nnk.{k}.{layer}": torch.from_numpy(values) for layer, found in neighbors.nnk.items()
                for k, values in found.items()}
    tensors |= {name: torch.from_numpy(getattr(neighbors, name)) for name in ARRAYS + LOGITS
                if getattr(neighbors, name) is not None}
    layers = [[layer, name, neighbors.dimensions[layer]] for layer, name in neighbors.names.items()]
    write_tensors(path, tensors, {"layers": json.dumps(layers), "metric": neighbors.metric,
                                  "outputs": json.dumps([neighbors.n_outputs, neighbors.n_classes])})


def read_neighbors(path: str | Path) -> dict[str, Any]:
    """The fields that `write_neighbors` wrote; ValueError if the file is damaged or another one."""
    tensors, metadata = read_tensors(path)
    if "layers" not in metadata:
        raise ValueError(f"{path} holds no neighbours of a sweep; delete it and sweep again.")
    layers, arrays = json.loads(metadata["layers"]), {name: t.numpy() for name, t in tensors.items()}

    def nnk(layer: Any) -> dict[int, np.ndarray]:
        return {int(name.split(".")[1]): values for name, values in arrays.items()
                if re.fullmatch(rf"nnk\.\d+\.{re.escape(str(layer))}", name)}

    n_outputs, n_classes = json.loads(metadata.get("outputs", "[null, null]"))
    return {"names": {layer: name for layer, name, _ in layers},
            "dimensions": {layer: dimension for layer, _, dimension in layers}, "metric": metadata["metric"],
            "nnk": {layer: found for layer, _, _ in layers if (found := nnk(layer))},
            "n_outputs": n_outputs, "n_classes": n_classes,
            **{kind: {layer: arrays[f"{kind}.{layer}"] for layer, _, _ in layers} for kind in ("indices", "distances")},
            **{name: arrays[name] for name in ARRAYS}, **{name: arrays.get(name) for name in LOGITS}}
