"""What decides numbers besides the parameters: versions, device, processor."""

import importlib.metadata
import platform
import re
from pathlib import Path

import torch

from .. import __version__

_VERSIONS = ("torch", "torchvision", "numpy", "scikit-learn")


def processor() -> str:
    """Name of the processor: numbers that come out of a training differ in their last digits from one to another."""
    try:  # Linux, where the platform module does not know it
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def versions() -> dict[str, str]:
    """{package: version} of what decides the numbers."""
    return {"ebe-utils": __version__} | {package: importlib.metadata.version(package) for package in _VERSIONS}


def device_class(device: str) -> str:
    """The kind of device that a parameter `device` stands for here: "cpu", "cuda", "mps", ...

    "auto" is CUDA where there is one, as in `model.on_device`. On CUDA a training runs in bfloat16.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown ({str(error).splitlines()[0]}); "
                         "pass 'auto', 'cpu' or the name of a device that torch sees.") from None


def device_name(kind: str) -> str:
    """Name of the device of that class, with the number of threads of a CPU."""
    if kind == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads" if kind == "cpu" else kind
