# SPDX-License-Identifier: MIT
"""Find the cache of a call, and how many tokens it holds.

A bias is aligned with the whole text, so it must be known how much of the text is in the cache. If
a cache were overlooked, the new tokens would look like the whole text, and the bias would silently
go to the wrong ones. So a cache under an unexpected name is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

# Names that transformers has given the cache, oldest first: `cache` since 5.24. Newer models accept
# an older name, too; older models silently drop an argument with a newer name.
CACHE_ARGUMENTS = ("past_key_values", "cache")


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """Return the name that a model's `forward` has for its cache; None if it has none of these.

    Args:
        forward: The method of the model.

    Example:
        >>> cache_argument(lambda input_ids, cache=None: None)
        'cache'

    """
    names = inspect.signature(forward).parameters
    return next((name for name in reversed(CACHE_ARGUMENTS) if name in names), None)


def cache_of(own: str | None, given: Mapping[str, Any]) -> Any:
    """Return the cache of a call, or None if it has none.

    Args:
        own: The model's name for it, see `cache_argument`.
        given: Arguments of the call, by name.

    Example:
        >>> cache_of("cache", {"input_ids": [], "past_key_values": "filled"})
        'filled'

    """
    found = [given[name] for name in _accepted(own) if given.get(name) is not None]
    return found[-1] if found else None


def check_cache(own: str | None, given: Mapping[str, Any]) -> None:
    """Check that `cache_of` finds the cache of a call, if the call has one.

    Args:
        own: The model's name for it, see `cache_argument`.
        given: Arguments of the call, by name.

    Raises:
        ValueError: If there is a cache under another name, or caches under two names.

    """
    accepted = _accepted(own)
    for name, value in given.items():
        if name not in accepted and isinstance(value, Cache):
            wanted = f"given as {own}" if own else "left out, as the model has no known name for it"
            raise ValueError(
                f"the cache must be {wanted}, so that guide_bias and guide_seed find its tokens, "
                f"got a {type(value).__name__} as {name}"
            )
    present = [name for name in accepted if name in given]
    # transformers ignores the older name then, even if the newer one holds None.
    if len(present) > 1 and any(given[name] is not None for name in present[:-1]):
        raise ValueError(f"the cache must be given as {own} alone, got {' and '.join(present)}")


def seen_tokens(cache: Any) -> int | None:
    """Return the number of slots that a cache holds, or None if one would have to wait for it.

    A static cache counts on its device. Waiting for a GPU at every token would cost time, and a
    graph that is being traced or captured cannot wait at all.
    """
    if cache is None:
        return 0
    count = getattr(cache, "get_seq_length", None)
    return None if count is None else on_host(count())


def on_host(count: int | Tensor) -> int | None:
    """Return a number of slots as an int, or None if one would have to wait for the device."""
    if isinstance(count, Tensor):
        readable = count.device.type == "cpu" and not torch.compiler.is_compiling()
        return int(count) if readable else None
    return count


def _accepted(own: str | None) -> tuple[str, ...]:
    return () if own is None else CACHE_ARGUMENTS[: CACHE_ARGUMENTS.index(own) + 1]
