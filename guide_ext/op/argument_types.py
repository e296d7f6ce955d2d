# SPDX-License-Identifier: MIT
"""Refuses arguments of a wrong Python type before torch sees them.

`checks` looks at the metadata of tensors. This module catches what torch would reject in obscure
words or, worse, accept: a bool as a number, or a tensor as the scale, whose gradient would be lost.
"""

from __future__ import annotations

import numbers
from typing import Any, NoReturn

import torch
from torch import Tensor

_REQUIRED = ("query", "key", "value")
_OPTIONAL = ("key_bias", "influence", "attn_bias", "sinks", "q_start")
_WITHOUT_DENSE = ("key_bias", "influence", "sinks", "q_start")
_STRIDED = torch.strided
_INTEGERS = (int, torch.SymInt)
_PLAIN_NUMBERS = (float, int)
_NUMBERS = (float, int, torch.SymFloat, torch.SymInt)


def check_types(
    function: str,
    required: tuple[object, ...],
    optional: tuple[object, ...],
    is_causal: object,
    window_left: object,
    window_right: object,
    scale: object,
    softcap: object,
) -> None:
    """Raise for the first argument of a wrong type. Costs a few isinstance checks a call.

    Args:
        function: Whose arguments they are, for the message.
        required: query, key, value.
        optional: key_bias, influence, attn_bias, sinks, q_start; or the same without attn_bias.
        is_causal: Must be a bool.
        window_left: Must be a whole number.
        window_right: Must be a whole number.
        scale: Must be a number or None.
        softcap: Must be a number.

    Raises:
        TypeError: ``<function>: <argument> must be ..., got ...; pass ...``.
        ValueError: For a tensor of another layout than strided, nested tensors included.

    """
    if (
        type(is_causal) is bool
        and type(window_left) is type(window_right) is int
        and (scale is None or type(scale) is float)
        and type(softcap) in _PLAIN_NUMBERS
    ):
        for tensor in required:
            if type(tensor) is not Tensor or tensor.layout is not _STRIDED or tensor.is_nested:
                break
        else:
            for tensor in optional:
                if tensor is not None and (type(tensor) is not Tensor or not _is_strided(tensor)):
                    break
            else:
                return  # nearly every call
    for index, tensor in enumerate(required):
        if not isinstance(tensor, Tensor) or not _is_strided(tensor):
            refuse_tensor(function, _REQUIRED[index], tensor, "a torch.Tensor")
    for index, tensor in enumerate(optional):
        if tensor is not None and not (isinstance(tensor, Tensor) and _is_strided(tensor)):
            names = _OPTIONAL if len(optional) == len(_OPTIONAL) else _WITHOUT_DENSE
            refuse_tensor(function, names[index], tensor, "a torch.Tensor or None")
    if not isinstance(is_causal, bool) and not _is_other_bool(is_causal):
        _refuse(function, "is_causal", "True or False", is_causal)
    if not is_whole(window_left):
        _refuse(function, "window_left", _WINDOW, window_left, "pass -1 for no limit")
    if not is_whole(window_right):
        _refuse(function, "window_right", _WINDOW, window_right, "pass -1 for no limit")
    if scale is not None and not is_number(scale):
        advice = (
            "pass scale.item(), or multiply query by it if it shall have a gradient"
            if isinstance(scale, Tensor)
            else "pass None for 1/sqrt(head_dim)"
        )
        _refuse(function, "scale", "a number or None", scale, advice)
    if not is_number(softcap):
        _refuse(function, "softcap", "a number", softcap, "pass 0.0 for none")


_WINDOW = "a whole number: -1 (no limit) or at least 0"


def refuse_tensor(function: str, name: str, value: object, expected: str) -> NoReturn:
    """Say what is wrong with an argument that should be a strided tensor."""
    if isinstance(value, Tensor):
        if value.is_nested:
            raise ValueError(
                f"{function}: {name} must be a strided tensor, got a nested one; pad it with "
                "torch.nested.to_padded_tensor and hide the padding by a key_bias of -inf"
            ) from None
        layout = str(value.layout).removeprefix("torch.")
        text = f"{function}: {name} must be a strided tensor, got layout {layout}"
        raise ValueError(text) from None
    is_array = type(value).__name__ == "ndarray"
    convert = "torch.from_numpy(...)" if is_array else "torch.tensor(...)"
    if name == "q_start":
        convert = "torch.tensor([position], dtype=torch.int32, device=query.device)"
    _refuse(function, name, expected, value, f"pass {convert}" if value is not None else "")


def is_whole(value: object) -> bool:
    """Say whether a value is a whole number: Python's, numpy's or a symbol, but no bool."""
    if isinstance(value, _INTEGERS):
        return not isinstance(value, bool)
    return isinstance(value, numbers.Integral)


def is_number(value: object) -> bool:
    """Say whether a value is a real number: Python's, numpy's or a symbol, but no bool."""
    if isinstance(value, _NUMBERS):
        return not isinstance(value, bool)
    return isinstance(value, numbers.Real)


def described(value: object) -> str:
    """Name the type of a value, and show the value if it is short."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if value is None:
        return "None"
    return f"{name} {value!r}" if isinstance(value, (bool, int, float, complex, str)) else name


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout is _STRIDED and not tensor.is_nested


def _is_other_bool(value: Any) -> bool:
    return isinstance(value, torch.SymBool) or type(value).__name__ in ("bool_", "bool")


def _refuse(function: str, name: str, expected: str, value: object, advice: str = "") -> NoReturn:
    ending = f"; {advice}" if advice else ""
    text = f"{function}: {name} must be {expected}, got {described(value)}{ending}"
    raise TypeError(text) from None
