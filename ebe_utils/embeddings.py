"""Step 3, embeddings: the output of a layer for each image (Transform in the paper's algorithm 1)."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from .activations import peak_activations
from .batches import Stacked, batch_length
from .checks import integer, one_of
from .data import as_tensor, check_values, scale
from .forward import LayerError, evaluating, on_device, only_tensor, run_network
from .inputs import as_inputs
from .layers import INPUT_OF, layer_name, layer_names
from .pooling import POOLINGS, pool, real_tokens

Layers = str | int | Sequence[str | int]
Batch = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


def embed_batches(model: nn.Module, batches: Iterable[Batch], layers: Layers = "all", pooling: str = "none",
                  device: str | torch.device = "auto", into: Mapping | None = None,
                  ) -> Iterator[tuple[dict, torch.Tensor]]:
    """Yield ({layer: embeddings}, logits) for each of `batches`, in a single pass.

    batches: what the network takes: tensors (b, ...); tuples or lists of tensors, for networks with several inputs;
    or dicts, which become keyword arguments. They are moved to `device`, floating-point numbers to the network's dtype.
    layers: "all" (every convolution, by number), or a list of the paper's numbers and module names.
    embeddings: (b, dimension) float32 on `device`: the layer's output, flattened (pooling="none"), averaged over its
    positions ("avg") or at the first token ("first"), padding left out; see `ebe_utils.pooling` for what is padding,
    and which axis holds the channels. In a network of another precision they are rounded to float32. logits: (b,
    classes) float32, see `logits_of`.
    into: {layer: float32 tensor (rows, dimension)} to write the embeddings to, in place of new memory for each batch;
    rows is a multiple of the batch size, or enough for all inputs, and is filled from the top again when it is full.

    The network runs in evaluation mode and is left as it was; several threads may use it at once. Raises ValueError for
    a layer that is not there, that runs more or less than once per forward pass, whose output is not one tensor with a
    row for each input, or whose output is not finite.
    """
    one_of("pooling", pooling, POOLINGS)
    model, device = on_device(model, device)
    start = 0
    with _capture(model, layer_names(model, layers), pooling, into) as outputs:
        for batch in batches:
            size = batch_length(batch)
            with outputs.during(start, size, real_tokens(model, batch)), evaluating(model), torch.inference_mode():
                logits = run_network(model, batch, device).float()
            found = outputs.collect()
            if not torch.isfinite(logits.sum()) and not (finite := torch.isfinite(logits).all(1)).all():
                raise ValueError(f"the network's own output holds NaN or infinity (first for input "
                                 f"{start + int((~finite).nonzero()[0])}); its weights or the input are broken.")
            yield found, logits
            start += size


def iter_embeddings(model: nn.Module, images: ArrayLike | torch.Tensor, layers: Layers = "all", pooling: str = "none",
                    batch_size: int = 256, device: str | torch.device = "auto", into: Mapping | None = None,
                    ) -> Iterator[tuple[slice, dict, torch.Tensor]]:
    """Yield (slice, {layer: embeddings}, logits) for one batch of images after another: `embed_batches`, which see."""
    integer("batch_size", batch_size, 1)
    images = as_tensor(images)
    check_values(images, "the images")
    one_of("pooling", pooling, POOLINGS)
    model, device = on_device(model, device)
    batches = (scale(part.to(device)) for part in images.split(batch_size))
    start = 0
    for found, logits in embed_batches(model, batches, layers, pooling, device, into):
        yield slice(start, start + len(logits)), found, logits
        start += len(logits)


def embed(model: nn.Module, examples: Any, layers: Layers = "all", pooling: str = "none", batch_size: int = 256,
          device: str | torch.device = "auto") -> np.ndarray | dict:
    """{layer: (n, dimension) float32 array} for all `layers` from a single pass; see `embed_batches`.

    examples: arrays, a torch Dataset, a DataLoader, ...; see `ebe_utils.inputs.as_inputs`. One layer, not in a list,
    gives its array alone.
    """
    single = isinstance(layers, int | np.integer) or isinstance(layers, str) and layers != "all"
    wanted: Any = [layers] if single else layers
    integer("batch_size", batch_size, 1)
    inputs = as_inputs(examples)
    rows: dict[Any, Stacked] = {}
    for found, _ in embed_batches(model, inputs.batches(batch_size), wanted, pooling, device):
        for layer, values in found.items():
            rows.setdefault(layer, Stacked(inputs.n)).add(values.cpu().numpy())
    arrays = {layer: stacked.whole() for layer, stacked in rows.items()}
    return arrays[layers] if single else arrays


def probe(model: nn.Module, images: ArrayLike | torch.Tensor, layers: Layers = "all", pooling: str = "none",
          device: str | torch.device = "auto") -> tuple[dict, int]:
    """({layer: dimension}, the most bytes that outputs take at a time for one image), from one image."""
    model, device = on_device(model, device)
    image = as_tensor(images)[:1]
    _, found, _ = next(iter_embeddings(model, image, layers, pooling, device=device))
    with evaluating(model), torch.inference_mode():
        peak = peak_activations(lambda: run_network(model, scale(image.to(device)), device))
    return {layer: values.shape[1] for layer, values in found.items()}, peak


def feature_maps(model: nn.Module, examples: Any, layer: str | int, device: str | torch.device = "auto",
                 batch_size: int = 256) -> np.ndarray:
    """A layer's output before it is flattened, (n, channels, height, width) float32 for a convolution of images.

    examples: arrays, a torch Dataset, a DataLoader, ...; see `ebe_utils.inputs.as_inputs`.
    """
    model, device = on_device(model, device)
    inputs = as_inputs(examples)
    maps, start = Stacked(inputs.n), 0
    with _capture(model, {layer: layer_name(model, layer)}, None, None) as outputs:
        for batch in inputs.batches(integer("batch_size", batch_size, 1)):
            with outputs.during(start, batch_length(batch)), evaluating(model), torch.inference_mode():
                run_network(model, batch, device)
            maps.add(outputs.collect()[layer].cpu().numpy())
            start += batch_length(batch)
    return maps.whole()


class _Outputs:
    """Embeddings of the forward pass that runs: {layer: [embeddings, ...]}, one in each list if all went well."""

    def __init__(self, model, names, pooling, into):
        self.model, self.names, self.pooling, self.into = model, names, pooling, into
        self.found: dict[int | str, list[torch.Tensor]] = {layer: [] for layer in names}
        self.start, self.size, self.thread = 0, 0, None
        self.real: torch.Tensor | None = None

    @contextlib.contextmanager
    def during(self, start, size, real=None):
        """The forward pass of a batch of inputs, from number `start`: only what it runs is kept.

        real: (size, tokens) booleans, which of them are no padding, or None.

        Hooks see every pass through a module: other threads' passes, and the consumer's between two batches.
        """
        for found in self.found.values():
            found.clear()
        self.start, self.size, self.real, self.thread = start, size, real, threading.get_ident()
        try:
            yield
        finally:
            self.thread = None

    def keep(self, layer, output):
        if self.thread != threading.get_ident():
            return
        out = only_tensor(output)
        if out is None or out.ndim < 2:
            raise LayerError(f"layer {layer!r} outputs a {type(output).__name__}, not one tensor per image; "
                             "choose another, one inside it perhaps.")
        if len(out) != self.size:
            raise LayerError(f"layer {layer!r} outputs {len(out)} rows for a batch of {self.size} inputs (shape "
                             f"{tuple(out.shape)}); an embedding needs one row for each. Choose another layer, or "
                             "build the network with batch_first=True.")
        out = out.detach()
        if self.pooling is not None:
            real = None if self.real is None else self.real.to(out.device)
            out = pool(out, self.pooling, self.model, self.names[layer], real)
        # A copy: a later in-place operation (ReLU) may overwrite what the layer returned.
        if self.into is None:
            out = out.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            out = out if self.pooling is None else out.flatten(1)
        elif not self.found[layer]:
            buffer = self.into[layer]
            at = self.start % len(buffer)
            out = buffer[at:at + len(out)].view_as(out).copy_(out).view(len(out), -1)
        self.found[layer].append(out)

    def collect(self):
        for layer, found in self.found.items():
            if len(found) != 1:
                raise ValueError(
                    f"layer {layer!r} runs {len(found)} times in a forward pass, so its output is not one embedding; "
                    "choose a module that runs once (the block around it, say)." if found else
                    f"layer {layer!r} runs 0 times in a forward pass, or where its output cannot be seen (compiled and "
                    "scripted networks, nn.DataParallel); choose another, or pass the plain network.")
        kept = {layer: found.pop() for layer, found in self.found.items()}
        # A sum is not finite if one of its terms is not: one number per layer leaves the device.
        sums = torch.stack([out.sum() for out in kept.values()])
        if not torch.isfinite(sums).all():
            for layer, out in kept.items():
                if not (finite := torch.isfinite(out.flatten(1)).all(1)).all():
                    raise ValueError(f"the output of layer {layer!r} holds NaN or infinity (first for input "
                                     f"{self.start + int((~finite).nonzero()[0])}), so nothing is near it; the "
                                     "network's weights or the input are broken, or its precision is too low.")
        return kept


@contextlib.contextmanager
def _capture(model, names, pooling, into):
    """`_Outputs` that hooks fill while the with block lasts."""
    outputs, handles = _Outputs(model, names, pooling, into), []
    for layer, name in names.items():
        module = model.get_submodule(name.removeprefix(INPUT_OF))
        if name.startswith(INPUT_OF):
            handles.append(module.register_forward_pre_hook(
                lambda module, args, layer=layer: outputs.keep(layer, args[0] if len(args) == 1 else args)))
        else:
            handles.append(module.register_forward_hook(
                lambda module, args, out, layer=layer: outputs.keep(layer, out)))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
