"""Running any network without changing it: where it is, its mode, its inputs and what it returns."""

import contextlib
import copy
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .batches import Stacked, batch_length
from .checks import integer
from .devices import check_device
from .inputs import as_inputs


class LayerError(ValueError):
    """A layer's output of which no embedding can be made: raised during a forward pass, and not the network's fault."""


def check_network(model: Any) -> None:
    """TypeError for what is not a network of torch."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the network is a {type(model).__name__}; pass a torch.nn.Module.")


def device_of(model: nn.Module) -> torch.device:
    """The device of the network's first parameter or buffer."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the network's first floating-point parameter, or buffer: that of its inputs."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def on_device(model: nn.Module, device: str | torch.device = "auto") -> tuple[nn.Module, torch.device]:
    """(network, device): the network itself if it is there already, else a copy moved there.

    "auto": where the network is, but CUDA if there is one and the network is on the CPU. A copy is made at each call:
    what needs the network more than once asks once, and hands on what it got.
    """
    check_network(model)
    here = device_of(model)
    if here.type == "meta":
        raise ValueError("the network's parameters have no values (they are on torch's 'meta' device); load its "
                         "weights first.")
    if device == "auto":
        device = torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here
    else:
        device = check_device(device, "'auto', ")
    same = here.type == device.type and (device.index is None or here.index == device.index)
    return (model, here) if same else (copy.deepcopy(model).to(device), device)


_modes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # {module: [with blocks it is in, its own mode]}
_modes_lock = threading.Lock()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode for the time of a with block; every module's own mode is put back after it.

    With blocks may overlap, in several threads too: modes are put back when the last block ends.
    """
    modules = list(model.modules())
    with _modes_lock:
        for module in modules:
            _modes.setdefault(module, [0, module.training])[0] += 1
        if any(module.training for module in modules):
            model.eval()
    try:
        yield model
    finally:
        with _modes_lock:
            for module in modules:
                _modes[module][0] -= 1
                if not _modes[module][0]:
                    module.training = _modes.pop(module)[1]


def logits_of(output: Any, probability: bool = False) -> torch.Tensor:
    """The logits (n, classes) in what a network returns; ValueError if they cannot be found.

    output: a tensor (n, classes); an object with `.logits` (Inception, GoogLeNet, Hugging Face), a dict with "logits",
    or a tuple, list or dict that holds one tensor. A single logit z, (n,) or (n, 1), is that of class 1 against class
    0 and becomes the pair (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)): class 1 is predicted where z > 0.
    probability: whether a single number is sigmoid(z) instead, as that of a network that ends in `nn.Sigmoid` is; one
    that calls `torch.sigmoid` itself cannot be recognised, and should return z.
    """
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None:
        found = only_tensor(output)
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"the network returns a {type(output).__name__}, in which the logits cannot be found; wrap it "
                         "in a module that returns one tensor, (n, classes).")
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.is_floating_point():
        raise ValueError(f"the network returns {found.dtype} of shape {tuple(found.shape)}, not logits (n, classes); "
                         "wrap it in a module that returns one number per class.")
    if found.shape[1] > 1:
        return found
    found = torch.logit(found, eps=1e-6) if probability else found
    return torch.cat([torch.zeros_like(found), found], 1)


def only_tensor(output: Any) -> torch.Tensor | None:
    """The tensor that `output` is, or that it holds if it is a tuple, list or dict with one; else None."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        tensors = [item for item in output if item is not None]
        output = tensors[0] if len(tensors) == 1 else None
    return output if isinstance(output, torch.Tensor) else None


def run_network(model: nn.Module, batch: Any, device: str | torch.device) -> torch.Tensor:
    """The logits (n, classes) of one batch, see `logits_of`, in the network's own dtype and in its own mode.

    batch: a tensor, a tuple or list of tensors (several inputs) or a dict of them (keyword arguments). Tensors are
    moved to `device`, floating-point ones to the network's dtype. Raises ValueError if the network fails on them.
    """
    dtype = dtype_of(model)

    def ready(value):
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    try:
        if isinstance(batch, Mapping):
            output = model(**{key: ready(value) for key, value in batch.items()})
        elif isinstance(batch, tuple | list):
            output = model(*map(ready, batch))
        else:
            output = model(ready(batch))
    except torch.OutOfMemoryError:
        raise
    except LayerError as error:
        raise LayerError(f"{error}{_hint(model, batch)}") from None
    except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
        if "allocate memory" in str(error):
            raise
        what = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"the network does not take this input ({_shapes(batch)}): {what}.{_hint(model, batch)}"
                         ) from error
    ends_in_sigmoid = isinstance(deque(model.modules(), 1).pop(), nn.Sigmoid)
    logits, n = logits_of(output, ends_in_sigmoid), batch_length(batch)
    if len(logits) != n:
        raise ValueError(f"the network returns {len(logits)} rows for a batch of {n} inputs ({_shapes(batch)}); it "
                         f"must return one row for each.{_hint(model, batch)}")
    return logits


def _shapes(batch):
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {tuple(v.shape)}" for key, v in batch.items() if isinstance(v, torch.Tensor))
    values = batch if isinstance(batch, tuple | list) else [batch]
    return ", ".join(f"shape {tuple(v.shape)}" for v in values if isinstance(v, torch.Tensor))


def _hint(model, batch):
    """What to change in an input (n, ...), by the first convolution of the network; an empty string if it would fit."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    if first is None or not isinstance(batch, torch.Tensor):
        return ""
    dims, channels, shape = len(first.kernel_size), first.in_channels, tuple(batch.shape)
    wanted = f" Its first convolution takes (n, {channels}, {', '.join(('depth', 'height', 'width')[-dims:])})"
    if len(shape) == dims + 1 and channels == 1:
        return f"{wanted}: add the axis of one channel, inputs[:, None]."
    if len(shape) == dims + 2 and shape[1] != channels and shape[-1] == channels:
        order = ", ".join(map(str, (0, dims + 1, *range(1, dims + 1))))
        return f"{wanted}: put the channels first, inputs.permute({order})."
    return f"{wanted}." if len(shape) != dims + 2 or shape[1] != channels else ""


def predict_logits(model: nn.Module, examples: Any, batch_size: int = 256, device: str | torch.device = "auto"
                   ) -> np.ndarray:
    """The network's outputs, (n, classes) float32, see `logits_of`.

    examples: arrays, a torch Dataset, a DataLoader, ...; see `ebe_utils.inputs.as_inputs`.
    """
    integer("batch_size", batch_size, 1)
    inputs = as_inputs(examples)
    model, device = on_device(model, device)
    logits = Stacked(inputs.n)
    with evaluating(model), torch.inference_mode():
        for batch in inputs.batches(batch_size):
            logits.add(run_network(model, batch, device).float().cpu().numpy())
    return logits.whole()


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, outputs) float64 probabilities of logits (n, outputs)."""
    return torch.from_numpy(logits).double().softmax(1).numpy()
