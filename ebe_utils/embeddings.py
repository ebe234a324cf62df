"""Step 3, embeddings: what a layer puts out for an image (Transform in the paper's algorithm 1)."""

import contextlib

import numpy as np
import torch

from .checks import integer, one_of
from .data import as_tensor, check_values, scale
from .layers import layer_name, layer_names
from .model import evaluating, on_device

POOLINGS = ("none", "avg")


def iter_embeddings(model, images, layers="all", pooling="none", batch_size=256, device="auto", into=None):
    """Yield (slice, {layer: embeddings}, logits) for one batch of images after another, in a single pass.

    layers: "all" (every convolution, by number), or a list of the paper's numbers and module names. embeddings:
    float32 tensors on `device`, (batch, dimension), of what the layer puts out, before batch normalisation and
    residual sum; flattened, or averaged over positions for pooling="avg". logits: the network's own output.
    into: {layer: float32 tensor (rows, dimension)} to write the embeddings to, in place of new memory for each batch;
    rows is a multiple of batch_size, or enough for all images, and is filled from the top again when it is full.

    The network is run in evaluation mode and left as it was. Raises ValueError for a layer that is not there, that
    runs more or less than once per forward pass, or whose output is not one tensor.
    """
    one_of("pooling", pooling, POOLINGS)
    integer("batch_size", batch_size, 1)
    images = as_tensor(images)
    check_values(images, "the images")
    model, device = on_device(model, device)
    with _capture(model, layer_names(model, layers), pooling, into) as outputs:
        for start in range(0, len(images), batch_size):
            outputs.start = start
            # Afresh for each batch: a consumer may train the same network between two of them.
            outputs.clear()
            with evaluating(model), torch.inference_mode():
                logits = model(scale(images[start:start + batch_size].to(device)))
            yield slice(start, start + len(logits)), outputs.collect(), logits


def embed(model, images, layers="all", pooling="none", batch_size=256, device="auto"):
    """{layer: (n, dimension) float32 array} for all `layers` from a single pass; see `iter_embeddings`.

    One layer, not in a list, gives its array alone.
    """
    single = isinstance(layers, int | np.integer) or isinstance(layers, str) and layers != "all"
    images = as_tensor(images)
    wanted = [layers] if single else layers
    dimensions, _ = probe(model, images, wanted, pooling, device)
    out = {layer: torch.empty(len(images), d) for layer, d in dimensions.items()}
    for _ in iter_embeddings(model, images, wanted, pooling, batch_size, device, out):
        pass
    out = {layer: values.numpy() for layer, values in out.items()}
    return out[layers] if single else out


def probe(model, images, layers="all", pooling="none", device="auto"):
    """({layer: dimension}, bytes that the largest output of any module takes for one image), from one image."""
    sizes = []
    hooks = [module.register_forward_hook(
        lambda m, args, out: sizes.append(out.nbytes) if isinstance(out, torch.Tensor) else None)
        for module in model.modules()]
    try:
        _, found, _ = next(iter_embeddings(model, images[:1], layers, pooling, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: values.shape[1] for layer, values in found.items()}, max(sizes, default=0)


def feature_maps(model, images, layer, device="auto"):
    """What a layer puts out before it is flattened, (n, channels, height, width) float32."""
    model, device = on_device(model, device)
    maps = []
    hook = model.get_submodule(layer_name(model, layer)).register_forward_hook(
        lambda module, args, out: maps.append(out.detach().float().cpu().numpy().copy()))
    try:
        with evaluating(model), torch.inference_mode():
            model(scale(as_tensor(images).to(device)))
    finally:
        hook.remove()
    return np.concatenate(maps)


class _Outputs:
    """Embeddings of the last forward pass: {layer: [embeddings, ...]}, one in each list if all went well."""

    def __init__(self, layers, pooling, into):
        self.found, self.pooling, self.into, self.start = {layer: [] for layer in layers}, pooling, into, 0

    def clear(self):
        for found in self.found.values():
            found.clear()

    def keep(self, layer, out):
        if not isinstance(out, torch.Tensor) or out.ndim < 2:
            raise ValueError(f"layer {layer!r} puts out {type(out).__name__}, not one tensor per image; "
                             "choose another.")
        out = out.detach()
        if self.pooling == "avg" and out.ndim > 2:
            out = out.flatten(2).mean(2)
        # A copy: a later in-place operation (ReLU) may overwrite what the layer put out.
        if self.into is None:
            out = out.flatten(1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        elif not self.found[layer]:
            buffer = self.into[layer]
            at = self.start % len(buffer)
            out = buffer[at:at + len(out)].view_as(out).copy_(out).view(len(out), -1)
        self.found[layer].append(out)

    def collect(self):
        for layer, found in self.found.items():
            if len(found) != 1:
                times = len(found)
                self.clear()
                raise ValueError(f"layer {layer!r} runs {times} times in a forward pass, so its output is not one "
                                 "embedding; choose a module that runs once (the block around it, say).")
        return {layer: found.pop() for layer, found in self.found.items()}


@contextlib.contextmanager
def _capture(model, names, pooling, into):
    """`_Outputs` that hooks fill while the with block lasts."""
    outputs = _Outputs(names, pooling, into)
    handles = [model.get_submodule(name).register_forward_hook(
        lambda module, args, out, layer=layer: outputs.keep(layer, out)) for layer, name in names.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def embed_batches(model, batches, layers="all", pooling="none", device="auto", into=None):
    model, device = on_device(model, device)
    with _capture(model, layer_names(model, layers), pooling, into) as outputs:
        for batch in batches:
            outputs.clear()
            with evaluating(model), torch.inference_mode():
                out = model(**batch) if isinstance(batch, dict) else model(*batch) if isinstance(batch, tuple | list) else model(batch)
            logits = out if isinstance(out, torch.Tensor) else out[0] if isinstance(out, tuple) else out.logits
            yield outputs.collect(), logits
