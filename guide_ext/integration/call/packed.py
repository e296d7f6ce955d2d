# SPDX-License-Identifier: MIT
"""One call of continuous batching: tokens of many requests in one row, each with its own steering.

transformers lays the queries of all requests behind each other, and the keys that its paged cache
returns, too. So a request is a stretch of queries and, in every kind of layer, a stretch of keys.
Attention runs over these stretches one by one, and never over two requests at once. Where they lie
is known on the host, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from guide_ext.integration.call.carrier import Structure, TablePlace, pack, scaled

# What transformers passes with every call of continuous batching. All of it says where queries and
# keys lie, which `PackedBatch` says, too, or is meant for what comes after the layers.
_KEYWORDS = (
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "read_index", "write_index",
    "logits_indices", "logits_processor_args", "block_table",
)  # fmt: skip


@dataclass(frozen=True)
class RequestSteering:
    """The steering of one request, for the tokens of its prompt; everything is on the host.

    Attributes:
        bias: Nats, ``[1, tokens]``, float32; None for an unsteered request.
        strength: Multiplier of the bias, ``[1, layers, heads]``, float32, or None for 1.
        share: Minimum share of the attention, on each marked token, ``[1, tokens]``, float32, or
            None.

    """

    bias: Tensor | None = None
    strength: Tensor | None = None
    share: Tensor | None = None


@dataclass(frozen=True)
class Stretch:
    """The tokens of one request in one call.

    Attributes:
        queries: Where its queries lie in the row.
        keys: Where its keys lie, for each kind of layer. They end with the last query.
        end: Tokens of its text up to and including the last query.
        steering: Its steering.

    """

    queries: slice
    keys: dict[str, slice]
    end: int
    steering: RequestSteering

    def cut(self, numbers: Tensor, kind: str) -> Tensor:
        """Cut the numbers of the keys out of those of a prompt, ``[1, seqlen_k]``.

        Generated tokens have none, and come after the prompt even if they are read again with it.
        """
        whole = F.pad(numbers, (0, max(self.end - numbers.shape[1], 0)))
        keys = self.keys[kind]
        return whole[:, self.end - (keys.stop - keys.start) : self.end]


@dataclass
class PackedBatch:
    """The requests of one call.

    Attributes:
        cache: The cache that the call reads and writes.
        windows: For each kind of layer, how many keys before its own a query sees; −1 for all.
        stretches: The requests, in the order of their tokens.

    """

    cache: PagedAttentionCache
    windows: dict[str, int]
    stretches: Sequence[Stretch]
    _moved: dict[tuple[int, str, str, torch.device], Tensor] = field(default_factory=dict)

    def masks(self, device: torch.device) -> Tensor | dict[str, Tensor]:
        """Make what the model gets as its mask: causality and window for each kind of layer.

        A model with one kind of layers takes one mask, any other a mask by the name of the kind.
        """
        made = {
            kind: pack(Structure(is_causal=True, window_left=window), 0, 1, device)
            for kind, window in self.windows.items()
        }
        return made if len(made) > 1 else next(iter(made.values()))

    def kind_of(self, module: nn.Module, structure: Structure) -> str:
        """Return the kind of a layer, to which its mask must agree.

        Raises:
            ValueError: If the cache has no such layer, or another window for it than its mask.

        """
        index = getattr(module, "layer_idx", None)
        allocator = self.cache.layer_to_allocator.get(index)
        kind = None if allocator is None else allocator.layer_type
        if kind is None or structure != Structure(True, self.windows.get(kind, -1)):
            found = "no layer of the cache" if kind is None else f"{kind} in the cache"
            raise ValueError(
                f"continuous batching must give every layer a mask of its kind to steer it, got "
                f"a {type(module).__name__} with layer_idx {index}, {found}, and a mask with "
                f"window_left {structure.window_left}; use generate() for this model"
            )
        return str(kind)

    def keys_and_values(
        self, module: nn.Module, key: Tensor, value: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all requests, and take out the keywords of the cache.

        In transformers 5.24 a model updates the cache itself. Before, attention functions did.
        """
        cache: Any = kwargs.get("cache")
        if cache is self.cache:
            key, value = cache.update(key, value, module.layer_idx, kwargs=kwargs)
            del kwargs["cache"]
        for name in _KEYWORDS:
            kwargs.pop(name, None)
        return key, value

    def check_lengths(self, kind: str, seqlen_q: int, seqlen_k: int) -> None:
        """Compare the lengths of a layer's operands with the requests.

        Raises:
            RuntimeError: If they differ, so that a bias would be that of other tokens.

        """
        last = self.stretches[-1]
        wanted = (last.queries.stop, last.keys[kind].stop)
        if (seqlen_q, seqlen_k) != wanted:
            raise RuntimeError(
                f"continuous batching must give its layers (queries, keys) = {wanted} to steer "
                f"them, got {(seqlen_q, seqlen_k)}; padded steps are not supported"
            )

    def steering_of(
        self, index: int, kind: str, layer: TablePlace, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (key bias, share) of one request in one layer, on the device.

        Returns:
            Nats ``[1, 1 or num_heads, seqlen_k]``, or None for an unsteered request; and the share
            on each marked key, ``[1, seqlen_k]``, or None.

        """
        stretch = self.stretches[index]
        steering = stretch.steering
        if steering.bias is None:
            return None, None

        def here(name: str, numbers: Tensor) -> Tensor:
            """Move numbers to the device, once for all layers of a kind."""
            place = (index, kind, name, device)
            found = self._moved.get(place)
            if found is None:
                whole = name == "strength"
                cut = numbers.flatten(1) if whole else stretch.cut(numbers, kind)
                found = self._moved[place] = cut.to(device)
            return found

        key_bias = here("bias", steering.bias)[:, None, :]
        if steering.strength is not None:
            key_bias = scaled(key_bias, layer.of(here("strength", steering.strength)))
        share = None if steering.share is None else here("share", steering.share)
        return key_bias, share


def windows_of(cache: PagedAttentionCache) -> dict[str, int]:
    """Return `PackedBatch.windows` of a cache.

    Raises:
        ValueError: If it has a kind of layers that is not known here.

    """
    windows = {}
    for kind, allocator in cache.cache_allocators.items():
        if kind == "full_attention":
            windows[kind] = -1
        elif kind == "sliding_attention":
            windows[kind] = allocator.sliding_window - 1  # their window counts the query itself
        else:
            raise ValueError(
                "continuous batching must have layers of full or sliding-window attention alone "
                f"to be steered, got {kind!r}; use generate() for this model"
            )
    return windows
