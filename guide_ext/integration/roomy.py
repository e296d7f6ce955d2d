# SPDX-License-Identifier: MIT
"""A cache that a new token does not copy.

transformers' `DynamicLayer` makes a new tensor for every token: with long prompts, most of the time
of a step goes into copying what was there. This one leaves room behind its last token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens; a step copies nothing until they are used up


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, at the beginning of larger tensors."""

    keys: Tensor
    values: Tensor
    _key_room: Tensor | None = None
    _value_room: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, and return all; see `DynamicLayer.update`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        self._key_room, self.keys = _appended(self._key_room, self.keys, key_states, start)
        self._value_room, self.values = _appended(
            self._value_room, self.values, value_states, start
        )
        return self.keys, self.values


def roomy_cache(config: Any) -> DynamicCache | None:
    """Return an empty cache of this kind; None if the model's layers need others.

    Args:
        config: Configuration of the model.

    Example:
        >>> from transformers import LlamaConfig, MistralConfig
        >>> len(roomy_cache(LlamaConfig(num_hidden_layers=3)).layers)
        3
        >>> roomy_cache(MistralConfig(sliding_window=8)) is None
        True

    """
    cache = DynamicCache(config=config)
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def slots_of(cache: DynamicCache) -> int:
    """Return how many tokens the tensors of a cache could hold: its memory, whatever is used."""
    found = 0
    for layer in cache.layers:
        room = getattr(layer, "_key_room", None)
        held = room if room is not None else layer.keys
        found = max(found, 0 if held is None else held.shape[-2])
    return found


def repeat_rows(cache: DynamicCache, rows: Tensor, further: Tensor) -> None:
    """Let a cache hold rows of its own in another order and number, and shorter if need be.

    Args:
        cache: What `roomy_cache` returned, filled with rows that end in the same slot.
        rows: Of each row that it is to hold, the number of the one it holds now, ``[batch]``.
        further: How many of its last tokens are left out, ``[batch]``. The others move to the
            right in their place; what stands before them is meaningless, and must be masked.

    """
    if not further.any():
        cache.batch_select_indices(rows)
        return
    for layer in cache.layers:
        slots = torch.arange(layer.keys.shape[-2], device=rows.device)
        slots = (slots - further[:, None]).clamp(min=0)
        layer.keys = layer.keys.transpose(1, 2)[rows[:, None], slots].transpose(1, 2)
        layer.values = layer.values.transpose(1, 2)[rows[:, None], slots].transpose(1, 2)


def _appended(room: Tensor | None, held: Tensor, new: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Write new tokens behind those that are held; return the room and the part of it in use."""
    end = start + new.shape[-2]
    # Whoever selects rows of a cache or crops it puts tensors of his own in place of the room.
    is_own = room is not None and held.data_ptr() == room.data_ptr() and len(held) == len(room)
    if room is None or not is_own or room.shape[-2] < end:
        shape = (*new.shape[:-2], end + _ROOM + end // 8, new.shape[-1])
        room = torch.empty(shape, dtype=new.dtype, device=new.device)
        if start:
            room[..., :start, :] = held
    room[..., start:end, :] = new
    return room, room[..., :end, :]
