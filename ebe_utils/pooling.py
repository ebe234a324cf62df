"""What is made of a layer's output, one tensor (n, ...), before it is an embedding: nothing, or one vector of channels.

Which axis holds the channels cannot be seen from a tensor. It is decided by the module that was captured:

(n, C, L), (n, C, H, W), (n, C, D, H, W)   channels first: convolutions, batch, instance and group normalisation,
                                           pooling layers, and blocks of them
(n, tokens, C), (n, H, W, C)               channels last: linear layers, layer normalisation, attention, transformer
                                           layers and embeddings, and blocks of them

A block, or a layer without a rule of its own (an activation), takes the rule of the layers inside it or around it
whose number of features is the size of the axis. Where that leaves a doubt, nothing is averaged: a ValueError asks for
pooling="avg-channels-first" or "avg-channels-last".
"""

import torch
from torch import nn
from torch.nn.modules import batchnorm, conv, instancenorm

from .forward import LayerError
from .layers import INPUT_OF

POOLINGS = ("none", "avg", "first", "avg-channels-first", "avg-channels-last")
_POOLS = tuple(kind for name, kind in vars(nn).items() if "Pool" in name and isinstance(kind, type))
_FIRST = (conv._ConvNd, batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm, *_POOLS)
_LAST = (nn.Linear, nn.RMSNorm, nn.MultiheadAttention, nn.Embedding, nn.TransformerEncoderLayer,
         nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.TransformerDecoder)
_SIZES = ("out_channels", "num_features", "num_channels", "out_features", "embed_dim", "embedding_dim")


def pool(out: torch.Tensor, pooling: str, model: nn.Module, name: str) -> torch.Tensor:
    """The output of the module `name`, (n, ...), as (n, ...) for pooling="none", else as (n, channels).

    Outputs (n, d) have no positions and stay as they are. Raises `LayerError`, a ValueError, where it cannot be known,
    or is not given, what "avg" or "first" asks for.
    """
    if pooling == "none" or out.ndim == 2:
        return out
    if pooling == "first":
        if out.ndim != 3 or channel_axis(model, name, tuple(out.shape)) == 1:
            raise LayerError(f"layer {name!r} outputs shape (n, {', '.join(map(str, out.shape[1:]))}), which is not a "
                             "sequence of tokens (n, tokens, channels); pass pooling='avg' or 'none'.")
        return out[:, 0]
    given = {"avg-channels-first": 1, "avg-channels-last": -1}
    axis = given[pooling] if pooling in given else channel_axis(model, name, tuple(out.shape))
    if axis is None:
        raise LayerError(f"layer {name!r} outputs shape (n, {', '.join(map(str, out.shape[1:]))}), and which axis "
                         "holds the channels cannot be known; pass pooling='avg-channels-first' for (n, channels, "
                         "...), 'avg-channels-last' for (n, ..., channels), or pooling='none'.")
    positions = out.flatten(2) if axis == 1 else out.flatten(1, -2)
    kind = torch.float64 if out.dtype == torch.float64 else torch.float32  # a mean in half precision would be rounded
    return positions.mean(2 if axis == 1 else 1, dtype=kind)


def channel_axis(model: nn.Module, name: str, shape: tuple) -> int | None:
    """1 or -1, the axis of the channels in an output of this shape of the module `name`; None if it is not known."""
    name = name.removeprefix(INPUT_OF)  # what goes into a module has its channels where its output has them
    module = model.get_submodule(name)
    if isinstance(module, _FIRST):
        return 1
    if isinstance(module, _LAST) or type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return -1
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):  # the module itself, then what is around it
        known = [m for m in model.get_submodule(".".join(parts[:depth])).modules()
                 if isinstance(m, (*_FIRST, *_LAST)) or type(m) is nn.LayerNorm]
        if known:
            return _of_parts(known, shape)
    return None


def _of_parts(known, shape):
    """The axis of the channels by the layers inside a block: by their kinds, and by their numbers of features."""
    sizes = {getattr(m, size) for m in known for size in _SIZES if hasattr(m, size)}
    sizes |= {m.normalized_shape[-1] for m in known if isinstance(m, nn.LayerNorm | nn.RMSNorm)}
    first, last = shape[1] in sizes, shape[-1] in sizes
    kinds = {1 if isinstance(m, _FIRST) else -1 for m in known}
    # A convolution of images whose block returns another number of axes is a patch embedding, for one.
    as_maps = {len(m.kernel_size) + 2 for m in known if isinstance(m, conv._ConvNd)} <= {len(shape)}
    only = next(iter(kinds)) if len(kinds) == 1 and (as_maps or kinds == {-1}) else None
    if first and last:
        return only
    if first:
        return 1 if 1 in kinds else None
    if last:
        return -1 if only != 1 else None
    return only if only == 1 else None
