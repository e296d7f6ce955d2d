# SPDX-License-Identifier: MIT
"""Let what is kept beside a cache move its rows as the cache does.

Beam search reorders the rows of a cache; users repeat and select them. What we know of its rows is
kept on the cache object, and must do the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

_FOLLOWERS = "_guide_followers"


class Follower(Protocol):
    """What is kept on a cache, one row for each of its rows."""

    def before_reorder(self) -> None:
        """Do what must be done before beam search reorders rows."""

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply `change` to every tensor whose first dimension is the rows."""


def keep_on(cache: Any, name: str, follower: Follower) -> None:
    """Set an attribute of a cache, and move its rows from now on as the cache does.

    Args:
        cache: A cache of transformers.
        name: The attribute; what it held before is dropped.
        follower: What it is to hold.

    """
    setattr(cache, name, follower)
    names = getattr(cache, _FOLLOWERS, ())
    if name in names:
        return
    setattr(cache, _FOLLOWERS, (*names, name))
    for method in _CHANGES:
        if hasattr(cache, method):
            setattr(cache, method, _Moving(cache, method))


class _Moving:
    """Replaces a method of one cache.

    It is an object and not a closure, so that a copied or pickled cache moves its own rows. It does
    not keep its cache alive: otherwise keys and values would stay in memory until Python collects
    cycles.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self._cache = weakref.ref(cache)
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Move the rows of the followers, then those of the cache."""
        cache = self._owner()
        rows = args[0] if args else next(iter(kwargs.values()))
        for name in getattr(cache, _FOLLOWERS):
            follower = getattr(cache, name)
            if self._name == "reorder_cache":
                follower.before_reorder()
            follower.map_rows(_CHANGES[self._name](rows))
        return getattr(type(cache), self._name)(cache, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Moving:
        """Return the method of the copy of the cache, which is being made."""
        copied = memo.get(id(self._owner()))
        if copied is None:
            raise self._shallow()
        return _Moving(copied, self._name)

    def __reduce__(self) -> Any:
        """Pickle as the method of the cache that is being pickled."""
        return _Moving, (self._owner(), self._name)

    def _owner(self) -> Any:
        cache = self._cache()
        if cache is None:
            raise self._shallow()
        return cache

    def _shallow(self) -> RuntimeError:
        return RuntimeError(
            f"{self._name}() must belong to the cache that it is called on, got a shallow copy, "
            "which shares its keys and values; copy the original with copy.deepcopy()"
        )


def _selected(rows: Any) -> Callable[[Tensor], Tensor]:
    return lambda table: table[rows.to(table.device) if isinstance(rows, Tensor) else rows]


def _repeated(repeats: int) -> Callable[[Tensor], Tensor]:
    return lambda table: table.repeat_interleave(repeats, 0)


# The methods of a cache that change its rows, and what each does to a table, by its argument.
_CHANGES: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "reorder_cache": _selected,
    "batch_repeat_interleave": _repeated,
    "batch_select_indices": _selected,
}
