# SPDX-License-Identifier: MIT
"""Checks of arguments that are numbers or text."""

from __future__ import annotations

import math
from numbers import Real


def is_int(value: object) -> bool:
    """Return whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_float(value: object) -> float:
    """Return a number as a float; NaN if it is not a number, or too large for a float."""
    if isinstance(value, Real) and not isinstance(value, bool):
        # Not contextlib.suppress, which torch.compile of torch 2.10 cannot trace.
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return math.nan


def finite(name: str, value: float) -> float:
    """Return a number of nats as a float; raise ValueError if it is not a finite number."""
    number = as_float(value)
    if not math.isfinite(number):
        msg = f"{name} must be a finite number of nats, got {value!r}"
        raise ValueError(msg)
    return number


def require_str(name: str, value: object) -> None:
    """Raise TypeError if a value is not a string."""
    if not isinstance(value, str):
        msg = f"{name} must be a str, got {type(value).__name__}"
        raise TypeError(msg)
