# SPDX-License-Identifier: MIT
"""Influence of all tokens that a cache holds, level by level, while a model runs.

Slot-indexed like `guide_bias`: a token keeps its column from call to call, so what a later token
attends to is found where an earlier call left it. The state rides on the cache object of
transformers and follows its rows through beam search, repetition and selection. Cropping a cache
needs nothing: its slots are written again when they are filled again.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guide_ext.influence.forms import Form
from guide_ext.integration.call.frame import Slots
from guide_ext.integration.model.parallel import Split

CACHE_STATE = "_guide_influence"

# Slots are added by so many, or twice as many as before.
_FEWEST_SLOTS = 64


@dataclass
class Pending:
    """What the parts of a layer have told about the call that is running.

    Attributes:
        residual: Norms of E.
        attention_input: Norms of what the attention block reads.
        slots: Where keys and queries lie.
        reduced: What the kernel summed up.

    """

    residual: Tensor | None = None
    attention_input: Tensor | None = None
    slots: Slots | None = None
    reduced: Tensor | None = None


@dataclass
class Request:
    """What the calls inside are to measure, and, when they have begun, where it is.

    Attributes:
        model: The one that is to measure, and not others inside, such as its assistant.
        form: The recursion.
        keeps_heads: Whether to keep what each head saw.
        state: Of the last call that measured.

    """

    model: Any
    form: Form
    keeps_heads: bool = False
    state: InfluenceState | None = None


@dataclass
class InfluenceState:
    """Levels of Influence, and what a layer has found out so far.

    Attributes:
        form: The recursion.
        levels: For every level ``[rows, groups, slots]``, float32.
        residuals: Norms of E for every layer, ``[rows, 1, slots]``; empty unless keys are weighed.
        keeps_heads: Whether to keep what every head saw.
        split: How the heads are spread over processes; None if they are all here.
        by_head: Then for every layer a list, one tensor ``[rows, groups, heads, tokens]`` per call.
        pending: For every layer, of the call that is running.
        filled: Slots that have been made ready.
        history: What was written between two moves of the rows, ``[rows, levels, groups, slots]``
            each, on the CPU: beam search alone moves rows.

    """

    form: Form
    levels: list[Tensor]
    residuals: list[Tensor]
    keeps_heads: bool = False
    split: Split | None = None
    by_head: list[list[Tensor]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    filled: int = 0
    history: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        form: Form,
        seed: Tensor,
        num_layers: int,
        *,
        keeps_heads: bool = False,
        split: Split | None = None,
    ) -> InfluenceState:
        """Start with no token.

        Args:
            form: The recursion.
            seed: ``[rows, groups, slots]``; says how many rows and groups, and on which device.
            num_layers: Attention layers of the model.
            keeps_heads: Whether to keep what every head saw.
            split: How the heads are spread over processes; None if they are all here.

        """
        rows, groups, _ = seed.shape
        level = seed.new_zeros(rows, groups, 0, dtype=torch.float32)
        residual = seed.new_zeros(rows, 1, 0, dtype=torch.float32)
        return cls(
            form,
            [level.clone() for _ in range(num_layers + 1)],
            [residual.clone() for _ in range(num_layers if form.weighs_keys else 0)],
            keeps_heads,
            split,
            [[] for _ in range(num_layers)],
            [Pending() for _ in range(num_layers)],
        )

    def extend(self, seed: Tensor, seen: int, tokens: int, capacity: int | None = None) -> None:
        """Make room for the next tokens, and say which of them are marked.

        Args:
            seed: 1 on marked slots, ``[rows, groups, slots]``; tokens beyond it are not marked.
            seen: Slots before this call.
            tokens: Slots of this call.
            capacity: Slots that there will ever be, where that is known.

        """
        self._reserve(max(seen + tokens, capacity or 0))
        self.filled = max(self.filled, seen + tokens)
        marked = seed[:, :, seen : seen + tokens].to(self.levels[0].device, torch.float32)
        self.levels[0][:, :, seen : seen + tokens] = F.pad(marked, (0, tokens - marked.shape[2]))

    def keys(self, layer: int, slots: Slots | None, seqlen_k: int) -> Tensor:
        """Return what the kernel reduces in a layer, ``[rows, channels, seqlen_k]``.

        Args:
            layer: Which one.
            slots: Where its keys and queries lie.
            seqlen_k: Keys of the layer; those that nothing has filled yet have 0.

        Raises:
            ValueError: If nobody knows where they lie.

        """
        if slots is None:
            raise ValueError(
                "Influence must know which tokens the keys are, got a mask that the model did not "
                "make itself; pass attention_mask as [batch, tokens]"
            )
        pending = self.pending[layer]
        pending.slots = slots
        residual = pending.residual
        level = self.levels[layer if self.form.name != "raw" else 0]
        columns = _columns(slots.first_key, seqlen_k, level)
        if not self.form.weighs_keys or residual is None:
            return level.index_select(2, columns)
        written = _columns(slots.first_query, residual.shape[2], level)
        self.residuals[layer].index_copy_(2, written, residual.to(level.device))
        return self.form.channels(
            level.index_select(2, columns), self.residuals[layer].index_select(2, columns)
        )

    def take(self, layer: int, reduced: Tensor) -> None:
        """Keep what the kernel summed up in a layer, ``[rows, channels, heads, tokens]``."""
        self.pending[layer].reduced = reduced

    def step(self, layer: int, update: Tensor | None) -> None:
        """Write the level above a layer for this call's tokens.

        Args:
            layer: Which one; its attention has run.
            update: Norms of U, ``[rows, 1, seqlen_q]``.

        """
        pending = self.pending[layer]
        slots, reduced = pending.slots, pending.reduced
        if slots is None or reduced is None:
            raise RuntimeError(
                f"the attention of layer {layer} must run before what it adds is known, got a "
                "layer that runs otherwise than on the tiny input of the first measurement"
            )
        if self.form.reads_attention_input:
            residual = self.pending[max(layer - 1, 0)].attention_input
        else:
            residual = pending.residual
        pending.slots = pending.reduced = None
        below = self.levels[layer]
        columns = _columns(slots.first_query, reduced.shape[3], below)
        previous = below.index_select(2, columns)
        reduced = self._of_all_heads(layer, reduced).to(below.device)
        if residual is not None and update is not None:
            residual, update = residual.to(below.device), update.to(below.device)
        level = self.form.step(previous, reduced, residual, update)
        self.levels[layer + 1].index_copy_(2, columns, level)
        if self.keeps_heads:
            self.by_head[layer].append(reduced)

    def _of_all_heads(self, layer: int, reduced: Tensor) -> Tensor:
        """Make up for heads in other processes: take their mean, or, to keep them, take them."""
        if self.split is None:
            return reduced
        group, heads = self.split.group, self.split.heads[layer]
        # The mean needs a number per token of the other processes, the heads one for every head.
        return (group.gathered if self.keeps_heads else group.mean)(reduced, heads)

    def remember(self) -> None:
        """Keep what was written since the last time, before rows move."""
        known = sum(part.shape[3] for part in self.history)
        written = torch.stack([level[:, :, known : self.filled] for level in self.levels], dim=1)
        self.history.append(written.cpu())

    def stacked(self, slots: int) -> Tensor:
        """Return all levels of the first slots, ``[rows, levels, groups, slots]``."""
        return torch.stack([level[:, :, :slots] for level in self.levels], dim=1)

    def follow(self, cache: Any) -> None:
        """Ride on a cache: follow its rows from now on.

        Bound methods, and not closures, so that a copied cache moves the rows of its own state.
        """
        setattr(cache, CACHE_STATE, self)
        for name, method in _FOLLOWERS.items():
            if hasattr(cache, name):
                setattr(cache, name, types.MethodType(method, cache))

    def map_rows(self, change: Any) -> None:
        """Replace every table by what `change` makes of it."""
        self.levels = [change(level) for level in self.levels]
        self.residuals = [change(residual) for residual in self.residuals]
        self.by_head = [[change(part) for part in parts] for parts in self.by_head]

    def _reserve(self, slots: int) -> None:
        present = self.levels[0].shape[2]
        if slots <= present:
            return
        # Exactly what is asked for at first, so that a static cache never grows again.
        wanted = slots if present == 0 else max(slots, 2 * present, _FEWEST_SLOTS)
        self.levels = [F.pad(level, (0, wanted - present)) for level in self.levels]
        self.residuals = [F.pad(norms, (0, wanted - present)) for norms in self.residuals]


def state_on(cache: Any) -> InfluenceState | None:
    """Return the state that rides on a cache, if any."""
    found: InfluenceState | None = getattr(cache, CACHE_STATE, None)
    return found


def _columns(first: int | Tensor, count: int, table: Tensor) -> Tensor:
    columns = torch.arange(count, device=table.device)
    if isinstance(first, Tensor):
        first = first.to(table.device)
    # A static cache has more slots than were reserved: nothing sees the last ones.
    return (columns + first).clamp(max=table.shape[2] - 1)


def _reorder_cache(cache: Any, beam_idx: Tensor, *args: Any, **kwargs: Any) -> Any:
    state: InfluenceState = getattr(cache, CACHE_STATE)
    state.remember()
    state.map_rows(lambda table: table.index_select(0, beam_idx.to(table.device)))
    return type(cache).reorder_cache(cache, beam_idx, *args, **kwargs)


def _batch_repeat_interleave(cache: Any, repeats: int, *args: Any, **kwargs: Any) -> Any:
    state: InfluenceState = getattr(cache, CACHE_STATE)
    state.map_rows(lambda table: table.repeat_interleave(repeats, 0))
    return type(cache).batch_repeat_interleave(cache, repeats, *args, **kwargs)


def _batch_select_indices(cache: Any, indices: Tensor, *args: Any, **kwargs: Any) -> Any:
    state: InfluenceState = getattr(cache, CACHE_STATE)
    state.map_rows(lambda table: table[indices.to(table.device)])
    return type(cache).batch_select_indices(cache, indices, *args, **kwargs)


_FOLLOWERS: dict[str, Callable[..., Any]] = {
    "reorder_cache": _reorder_cache,
    "batch_repeat_interleave": _batch_repeat_interleave,
    "batch_select_indices": _batch_select_indices,
}
