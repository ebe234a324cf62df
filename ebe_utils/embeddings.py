"""Step 3, embeddings: what a layer puts out for an image (Transform in the paper's algorithm 1)."""

import contextlib

import numpy as np
import torch

from .checks import integer, one_of
from .data import as_tensor, check_values
from .model import evaluating, layer_name, layer_names, on_device, scale

POOLINGS = ("none", "avg")


def iter_embeddings(model, images, layers="all", pooling="none", batch_size=256, device="auto"):
    """Yield (slice, {layer: embeddings}, logits) for one batch of images after another, in a single pass.

    layers: "all" (every convolution, by number), or a list of the paper's numbers and module names. embeddings:
    float32 tensors on `device`, (batch, dimension), of what the layer puts out, before batch normalisation and
    residual sum; flattened, or averaged over positions for pooling="avg". logits: the network's own output.

    The network is run in evaluation mode and left as it was. Raises ValueError for a layer that is not there, that
    runs more or less than once per forward pass, or whose output is not one tensor.
    """
    one_of("pooling", pooling, POOLINGS)
    integer("batch_size", batch_size, 1)
    images = as_tensor(images)
    check_values(images, "the images")
    model, device = on_device(model, device)
    with _capture(model, layer_names(model, layers), pooling) as outputs:
        for start in range(0, len(images), batch_size):
            # Afresh for each batch: a consumer may train the same network between two of them.
            for kept in outputs.values():
                kept.clear()
            with evaluating(model), torch.inference_mode():
                logits = model(scale(images[start:start + batch_size].to(device)))
            yield slice(start, start + len(logits)), _collect(outputs), logits


def embed(model, images, layers="all", pooling="none", batch_size=256, device="auto"):
    """{layer: (n, dimension) float32 array} for all `layers` from a single pass; see `iter_embeddings`.

    One layer, not in a list, gives its array alone.
    """
    single = isinstance(layers, int | np.integer) or isinstance(layers, str) and layers != "all"
    images, out = as_tensor(images), {}
    for rows, batch, _ in iter_embeddings(model, images, [layers] if single else layers, pooling, batch_size, device):
        for layer, values in batch.items():
            if layer not in out:
                out[layer] = np.empty((len(images), values.shape[1]), np.float32)
            out[layer][rows] = values.cpu().numpy()
    return out[layers] if single else out


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


@contextlib.contextmanager
def _capture(model, names, pooling):
    """Hooks that keep each layer's embeddings of the last forward pass; {layer: [embeddings, ...]}."""
    outputs = {layer: [] for layer in names}

    def hook(layer):
        def keep(module, args, out):
            if not isinstance(out, torch.Tensor) or out.ndim < 2:
                raise ValueError(f"layer {layer!r} puts out {type(out).__name__}, not one tensor per image; "
                                 "choose another.")
            out = out.detach()
            if pooling == "avg" and out.ndim > 2:
                out = out.flatten(2).mean(2)
            # A copy: a later in-place operation (ReLU) may overwrite what the layer put out.
            outputs[layer].append(out.flatten(1).to(torch.float32, memory_format=torch.contiguous_format, copy=True))
        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(layer)) for layer, name in names.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _collect(outputs):
    for layer, found in outputs.items():
        if len(found) != 1:
            times = len(found)
            for kept in outputs.values():
                kept.clear()
            raise ValueError(f"layer {layer!r} runs {times} times in a forward pass, so its output is not one "
                             "embedding; choose a module that runs once (the block around it, say).")
    return {layer: found.pop() for layer, found in outputs.items()}
