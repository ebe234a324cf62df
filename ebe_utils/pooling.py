"""What is made of a layer's output, one tensor (n, ...), before it is an embedding: nothing, or one vector of channels.

Which axis holds the channels cannot be seen from a tensor. It is decided by the module that was captured:

(n, C, L), (n, C, H, W), (n, C, D, H, W)   channels first: convolutions, batch, instance and group normalisation,
                                           pooling layers, and blocks of them
(n, tokens, C), (n, H, W, C)               channels last: linear layers, layer normalisation, attention, transformer
                                           layers and embeddings, and blocks of them

A block, or a layer without a rule of its own (an activation), takes the rule of the layers inside it or around it
whose number of features is the size of the axis. Where that leaves a doubt, nothing is averaged: a ValueError asks for
pooling="avg-channels-first" or "avg-channels-last".

Padding is no position: a mean leaves it out, and the first token is the first that is none (`real_tokens`).
"""

from collections.abc import Mapping
from typing import Any

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


def real_tokens(model: nn.Module, batch: Any) -> torch.Tensor | None:
    """(n, tokens) booleans, which tokens of a batch are no padding; None where nothing says so.

    The batch's "attention_mask" (of a tokenizer of Hugging Face), or else the padding_idx of the network's first
    `nn.Embedding` that has one, where the batch is token numbers, (n, tokens) integers, or has them as "input_ids".
    """
    tokens = batch
    if isinstance(batch, Mapping):
        mask, tokens = batch.get("attention_mask"), batch.get("input_ids")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            return mask != 0
    if not isinstance(tokens, torch.Tensor) or tokens.ndim != 2 or tokens.dtype not in (torch.int64, torch.int32):
        return None
    padding = next((module.padding_idx for module in model.modules()
                    if isinstance(module, nn.Embedding) and module.padding_idx is not None), None)
    return None if padding is None else tokens != padding


def pool(out: torch.Tensor, pooling: str, model: nn.Module, name: str, real: torch.Tensor | None = None,
         ) -> torch.Tensor:
    """The output of the module `name`, (n, ...), as (n, ...) for pooling="none", else as (n, channels).

    real: (n, tokens) booleans, see `real_tokens`; padding is left out. Where the layer has fewer positions than there
    are tokens, it must have dropped padding at the end that all have. Outputs (n, d) have no positions and stay as they
    are. Raises `LayerError`, a ValueError, where it cannot be known, or is not given, what "avg" or "first" asks for.
    """
    if pooling == "none" or out.ndim == 2:
        return out
    if pooling == "first":
        if out.ndim != 3 or channel_axis(model, name, tuple(out.shape)) == 1:
            raise LayerError(f"layer {name!r} outputs shape (n, {', '.join(map(str, out.shape[1:]))}), which is not a "
                             "sequence of tokens (n, tokens, channels); pass pooling='avg' or 'none'.")
        if real is None:
            return out[:, 0]
        real = _positions_of(real, out.shape[1], name)
        return out[torch.arange(len(out), device=out.device), real.int().argmax(1)]
    given = {"avg-channels-first": 1, "avg-channels-last": -1}
    axis = given[pooling] if pooling in given else channel_axis(model, name, tuple(out.shape))
    if axis is None:
        raise LayerError(f"layer {name!r} outputs shape (n, {', '.join(map(str, out.shape[1:]))}), and which axis "
                         "holds the channels cannot be known; pass pooling='avg-channels-first' for (n, channels, "
                         "...), 'avg-channels-last' for (n, ..., channels), or pooling='none'.")
    positions = out.flatten(2) if axis == 1 else out.flatten(1, -2)
    kind = torch.float64 if out.dtype == torch.float64 else torch.float32  # a mean in half precision would be rounded
    count = positions.shape[2 if axis == 1 else 1]
    if real is None or count == 1 or bool(real.all()) or out.ndim != 3:
        return positions.mean(2 if axis == 1 else 1, dtype=kind)
    real = _positions_of(real, count, name)
    sizes = real.sum(1, dtype=kind)[:, None]
    real = real[:, None] if axis == 1 else real[:, :, None]
    return torch.where(real, positions, 0).sum(2 if axis == 1 else 1, dtype=kind) / sizes


def _positions_of(real, count, name):
    """`real` for the positions of a layer, (n, count) on its device."""
    if not real.any(1).all():
        raise LayerError(f"input {int((~real.any(1)).nonzero()[0])} of a batch is nothing but padding, so it has no "
                         "tokens to average; leave it out.")
    if real.shape[1] < count or real[:, count:].any():
        raise LayerError(f"layer {name!r} outputs {count} positions for {real.shape[1]} tokens, so which of them are "
                         "padding cannot be known; pass pooling='none', or another layer.")
    return real[:, :count]


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
