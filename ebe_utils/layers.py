"""Layers by number or name: the convolutions of a network in the paper's order (section 3.1)."""

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .checks import did_you_mean, integer
from .forward import check_network, device_of, evaluating, run_network

INPUT_OF = "input of "  # before a module name: what goes into that module, in place of what it outputs
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def conv_layers(model: nn.Module) -> dict[int, str]:
    """{number: module name} of the convolutions, from shallow to deep, in the order of `named_modules()`.

    For ResNet18 these are the paper's 20 layers (section 3.1), of which 8, 13 and 18 are the down-sampling ones.
    """
    check_network(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("the network is a ScriptModule, whose layers do not show their outputs; pass the network that "
                        "it was made of.")
    names = [name for name, module in model.named_modules() if isinstance(module, _CONVOLUTIONS)]
    return dict(enumerate(names, start=1))


def layer_name(model: nn.Module, layer: str | int) -> str:
    """Module name of a layer given by number or by name; ValueError names what there is.

    "input of fc" is what goes into the module "fc".
    """
    convs = conv_layers(model)
    if isinstance(layer, str):
        modules = dict(model.named_modules())
        if layer.removeprefix(INPUT_OF) in modules and layer.removeprefix(INPUT_OF):
            return layer
        raise ValueError(f"layer={layer!r} is no module of this network."
                         f"{did_you_mean(layer, [m for m in modules if m])} "
                         "`dict(model.named_modules())` lists them all.")
    if not convs:
        there = ", ".join(name for name, _ in model.named_modules() if name)
        raise ValueError(f"layer={layer!r}: this network has no convolutions to number; pass a module name, "
                         f"{'one of ' + there if there else 'but there is no module inside it'}.")
    return convs[integer("layer", layer, 1, len(convs), ", the convolutions from shallow to deep, or a module name")]


def layer_names(model: nn.Module, layers: str | int | Iterable[str | int] = "all") -> dict[str | int, str]:
    """{layer as given: module name}; "all" means every convolution by number."""
    if isinstance(layers, str) and layers == "all":
        layers = list(conv_layers(model)) or [1]
    elif isinstance(layers, str | numbers.Integral):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers={layers!r} is a {type(layers).__name__}; pass 'all', or a list of numbers and module "
                        "names.")
    if len(layers := list(layers)) == 0:
        raise ValueError("layers is empty; pass 'all', or a list of numbers and module names.")
    names = [layer_name(model, layer) for layer in layers]
    return {layer if isinstance(layer, str) else int(layer): name for layer, name in zip(layers, names, strict=True)}


def last_layer(model: nn.Module) -> str:
    """Name of the last linear layer, which makes the logits; ValueError for a network that does not end in one."""
    check_network(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or not linear[-1]:
        raise ValueError("the network does not end in a linear layer inside it, on whose input its answer could be "
                         "traced back to examples; pass choice='answers'.")
    return linear[-1]


def layer_table(model: nn.Module, image_shape: tuple[int, ...], n_images: int | None = None) -> pd.DataFrame:
    """The convolutions as a DataFrame: layer, name, kernel, stride, output shape, dimension.

    With n_images, also the memory in MiB that float32 embeddings of that many images take.
    """
    convs: dict[str, Any] = {name: model.get_submodule(name) for name in conv_layers(model).values()}
    if not convs:
        raise ValueError("this network has no convolutions to list; `dict(model.named_modules())` lists its modules.")
    shapes: dict[str, tuple] = {}
    hooks = [m.register_forward_hook(lambda m, i, out, name=n: shapes.update({name: tuple(out.shape[1:])}))
             for n, m in convs.items()]
    try:
        with evaluating(model), torch.inference_mode():
            run_network(model, torch.zeros(1, *image_shape), device_of(model))
    finally:
        for hook in hooks:
            hook.remove()
    if unused := [name for name in convs if name not in shapes]:
        raise ValueError(f"these convolutions do not run: {', '.join(unused)}; pass a network that uses all.")
    rows = [{"layer": i, "name": name, "kernel": "×".join(map(str, convs[name].kernel_size)),
             "stride": convs[name].stride[0], "output": "×".join(map(str, shapes[name])),
             "dimension": int(np.prod(shapes[name]))} for i, name in conv_layers(model).items()]
    table = pd.DataFrame(rows).set_index("layer")
    return table if n_images is None else table.assign(MiB=(table["dimension"] * 4 * n_images / 2**20).round(1))


def default_layer(model: torch.nn.Module) -> int | str:
    """The layer that is explained where none is named.

    With convolutions, the one at the paper's relative depth: its layer 14 of 20, in general round(0.7 n). Without, the
    block at that depth of the longest chain of alike modules (the encoder layers of a transformer); else the module
    before the last linear one. Raises ValueError where there is none of these.
    """
    if convs := conv_layers(model):
        return max(1, round(0.7 * len(convs)))
    chains = []
    for name, module in model.named_modules():
        kinds = [type(child) for child in module.children()]
        if len(kinds) >= 3 and len(set(kinds)) == 1 and not isinstance(next(module.children()), nn.Linear):
            chains.append([f"{name}.{child}".lstrip(".") for child, _ in module.named_children()])
    if chains:
        blocks = max(chains, key=len)
        return blocks[max(0, round(0.7 * len(blocks)) - 1)]
    leaves = [(name, module) for name, module in model.named_modules() if name and not any(module.children())]
    last = max((i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear)), default=0)
    if last == 0:
        raise ValueError("this network has no layer that stands out; name one: layer='...'. "
                         "`dict(model.named_modules())` lists them.")
    return leaves[last - 1][0]
