"""What decides numbers besides the parameters: versions, device, processor."""

import importlib.metadata
import platform
import re
from pathlib import Path

_VERSIONS = ("ebe-utils", "torch", "torchvision", "numpy", "scikit-learn")


def processor():
    """Name of the processor: numbers that come out of a training differ in their last digits from one to another."""
    try:  # Linux, where the platform module does not know it
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor()


def versions():
    """{package: version} of what decides the numbers."""
    return {package: importlib.metadata.version(package) for package in _VERSIONS}


def device_name():
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
