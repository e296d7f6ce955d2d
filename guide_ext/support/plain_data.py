# SPDX-License-Identifier: MIT
"""Checks of plain data that may come from anywhere; error messages name what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

_LONGEST = 60


def brief(value: Any) -> str:
    """Return the ``repr`` of a value for an error message, cut off where it is long."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a JSON array."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number, so that a picture can show it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def string(data: Mapping[str, Any], name: str, where: str) -> str:
    """Return the entry `name` of some data, a text.

    Raises:
        ValueError: If it is not a text, or missing.

    """
    value = data.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} of the {where} must be a text, got {brief(value)}")
    return value


def objects(data: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    """Return the entry `name` of some data, a list of objects; an empty list if it is missing.

    Raises:
        ValueError: If it is not a list of objects.

    """
    found = data.get(name, [])
    if not is_list(found) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{name} of the {where} must be a list of objects, got {brief(found)}")
    return list(found)


def mapping(data: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """Return the entry `name` of some data, an object.

    Raises:
        ValueError: If it is not an object, or missing.

    """
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} of the {where} must be an object, got {brief(value)}")
    return value


def number(value: Any, where: str) -> float:
    """Return a value that must be a finite number.

    Raises:
        ValueError: If it is not a finite number; null is not one.

    """
    if not is_finite_number(value):
        raise ValueError(f"{where} must be a finite number, got {brief(value)}")
    return value


def whole(data: Mapping[str, Any], name: str, where: str) -> int:
    """Return the entry `name` of some data, a whole number from 1.

    Raises:
        ValueError: If it is not a whole number from 1, or missing.

    """
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} of the {where} must be a whole number from 1, got {brief(value)}")
    return value
