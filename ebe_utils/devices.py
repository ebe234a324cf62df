"""Where torch computes: devices that can be used, and where float64 is added up."""

from __future__ import annotations

import torch


def check_device(device: torch.device | str, also: str = "") -> torch.device:
    """The device; ValueError for one that holds no values ("meta"), or that torch does not have here.

    also: what else the user may pass, for the error.
    """
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}); pass {also}'cpu' "
                         "or the name of a device that torch sees.") from None
    if device.type == "meta":
        raise ValueError(f"device='meta' holds no values; pass {also}'cpu' or the name of a device that torch sees.")
    return device


def float64_device(device: torch.device | str) -> torch.device:
    """Where float64 work of a `device` is done: there, or on the CPU if it has no float64 (Apple's MPS)."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device
