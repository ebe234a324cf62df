"""Checks on what a user passes in: each message names the value, what is allowed and what to do."""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def did_you_mean(value: object, allowed: Iterable[object]) -> str:
    """' Did you mean ...?' for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """`value` if it is among `allowed`, else ValueError."""
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}."
                         + did_you_mean(value, allowed))
    return value


def integer(name: str, value: Any, low: int | None = None, high: int | None = None, why: str = "") -> int:
    """`value` as an int within [low, high]; TypeError for any other type, ValueError outside."""
    bounds = (f"from {low} to {high}" if low is not None and high is not None
              else f"of at least {low}" if low is not None else "")
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass an integer {bounds}.".replace(" .", "."))
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{name}={value} is out of range; pass an integer {bounds}{why}.")
    return number


def boolean(name: str, value: Any) -> bool:
    """`value` as a bool; TypeError for anything else, "false" and 0 included."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass True or False.")
    return bool(value)


def real(name: str, value: Any, above: float = 0.0) -> float:
    """`value` as a finite float greater than `above`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass a number greater than {above}.")
    number = float(value)
    if not above < number < float("inf"):
        raise ValueError(f"{name}={value} is out of range; pass a number greater than {above}.")
    return number


def same_shape(name: str, value: Any, like: Any) -> None:
    """ValueError unless `value` has the shape of `like`."""
    if np.shape(value) != np.shape(like):
        raise ValueError(f"{name} has shape {np.shape(value)}; pass one of shape {np.shape(like)}, a row for each "
                         "image explained.")
