# SPDX-License-Identifier: MIT
"""Change what eager attention functions are handed: the reference that shares no code with ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def changed(change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Let `change` rewrite the arguments, by name, of every eager attention in a ``with`` block."""
    original = type(ALL_ATTENTION_FUNCTIONS).get_interface

    def get_interface(self: Any, implementation: str, default: Any) -> Any:
        function = original(self, implementation, default)
        if implementation != "eager":
            return function
        signature = inspect.signature(function)

        def attend(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            change(bound.arguments)
            return function(*bound.args, **bound.kwargs)

        return attend

    type(ALL_ATTENTION_FUNCTIONS).get_interface = get_interface
    try:
        yield
    finally:
        type(ALL_ATTENTION_FUNCTIONS).get_interface = original


def add_to_mask(given: dict[str, Any], nats: Tensor) -> None:
    """Add numbers, ``[rows, 1 or heads, queries, keys]``, to the mask among some arguments."""
    mask = given.get("attention_mask")
    given["attention_mask"] = nats if mask is None else mask + nats
