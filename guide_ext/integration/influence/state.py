# SPDX-License-Identifier: MIT
"""The Influence of all tokens in a cache, at every level, while a model runs.

Columns are slots, as in `guide_bias`: a token keeps its column from call to call, so a later token
finds the Influence of the tokens that it attends to where an earlier call wrote it. The state is
kept on the cache object of transformers and moves its rows as the cache does, in beam search,
repetition and selection. When a cache is cropped, nothing need be done: slots that are filled again
are written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guide_ext.influence.forms import Form
from guide_ext.integration.call.cache_rows import Follower, keep_on
from guide_ext.integration.call.frame import Slots
from guide_ext.integration.model.parallel import Split

CACHE_STATE = "_guide_influence"

# A table that must grow gets at least this many slots, and at least twice as many as before.
_FEWEST_SLOTS = 64


@dataclass
class Pending:
    """What is known so far about one layer in the call that is running.

    Attributes:
        residual: Norms of E, ``[rows, 1, tokens]``.
        attention_input: Norms of the input of the attention block, ``[rows, 1, tokens]``.
        slots: The slots of keys and queries.
        channels: How many channels of the kernel this form has.
        reduced: What the kernel has reduced, ``[rows, channels, heads, tokens]``.

    """

    residual: Tensor | None = None
    attention_input: Tensor | None = None
    slots: Slots | None = None
    channels: int = 0
    reduced: Tensor | None = None


@dataclass
class Request:
    """What the calls inside a frame are to measure, and their state once they have begun.

    Attributes:
        model: The model to measure. Other models in the same frame, such as an assistant, do not
            measure.
        form: The recursion.
        keeps_heads: Whether to keep the attended Influence of each head.
        beside: More recursions, measured in the same calls.
        state: The state of the last call that measured; in an encoder–decoder, of its target.
        source: Encoder–decoders only: the state of the source.

    """

    model: Any
    form: Form
    keeps_heads: bool = False
    beside: tuple[Form, ...] = ()
    state: InfluenceState | None = None
    source: InfluenceState | None = None


@dataclass
class InfluenceState:
    """The Influence at all levels, and what the running call has found out so far.

    Attributes:
        form: The recursion.
        levels: For each level ``[rows, groups, slots]``, float32.
        residuals: For each layer the norms of E, ``[rows, 1, slots]``, float32; empty unless the
            form weighs keys.
        keeps_heads: Whether to keep the attended Influence of each head.
        split: How the heads are spread over processes; None if they are all here.
        by_head: If `keeps_heads`: for each layer, one tensor ``[rows, channels, heads, tokens]``
            per call. Otherwise the lists are empty.
        pending: For each layer what is known so far in the running call.
        filled: Number of slots that are in use.
        history: One part for each reordering of the rows, ``[rows, levels, groups, slots]``, on the
            CPU: what was written since the reordering before. Only beam search reorders rows.
        beside: The states of more recursions. The kernel reduces the channels of all in one pass.

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
    beside: list[InfluenceState] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        form: Form,
        seed: Tensor,
        num_layers: int,
        *,
        keeps_heads: bool = False,
        split: Split | None = None,
        beside: tuple[Form, ...] = (),
    ) -> InfluenceState:
        """Return a state without tokens.

        Args:
            form: The recursion.
            seed: ``[rows, groups, slots]``; gives the number of rows and groups, and the device.
            num_layers: Number of attention layers of the model.
            keeps_heads: Whether to keep the attended Influence of each head.
            split: How the heads are spread over processes; None if they are all here.
            beside: More recursions, to be measured in the same calls.

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
            beside=[
                cls.begin(one, seed, num_layers, keeps_heads=keeps_heads, split=split)
                for one in beside
            ],
        )

    @property
    def together(self) -> list[InfluenceState]:
        """The states of all recursions that are measured in the same calls, this one first."""
        return [self, *self.beside]

    def of_layer(self, layer: int) -> list[tuple[InfluenceState, int]]:
        """Return the states that a layer writes, one for each form, and its place in them."""
        return [(state, layer) for state in self.together]

    def extend(self, seed: Tensor, seen: int, tokens: int, capacity: int | None = None) -> None:
        """Make room for the tokens of a call, and write level 0 for them.

        Args:
            seed: 1 on marked slots, ``[rows, groups, slots]``; tokens after its end are not marked.
            seen: Number of slots before this call.
            tokens: Number of slots of this call.
            capacity: Final number of slots, if it is known.

        """
        self._reserve(max(seen + tokens, capacity or 0))
        self.filled = max(self.filled, seen + tokens)
        marked = seed[:, :, seen : seen + tokens].to(self.levels[0].device, torch.float32)
        self.levels[0][:, :, seen : seen + tokens] = F.pad(marked, (0, tokens - marked.shape[2]))
        for other in self.beside:
            other.extend(seed, seen, tokens, capacity)

    def keys(self, layer: int, slots: Slots | None, seqlen_k: int) -> Tensor:
        """Return what the kernel is to reduce in a layer, ``[rows, channels, seqlen_k]``.

        Args:
            layer: Index of the layer.
            slots: The slots of its keys and queries.
            seqlen_k: Number of keys; keys whose slots are not filled yet get 0.

        Raises:
            ValueError: If `slots` is None.

        """
        if slots is None:
            raise ValueError(
                "Influence must know which tokens the keys are, got a mask that the model did not "
                "make itself; pass attention_mask as [batch, tokens]"
            )
        of_forms = [state._own_keys(layer, slots, seqlen_k) for state in self.together]
        for state, own in zip(self.together, of_forms, strict=True):
            state.pending[layer].channels = own.shape[1]
        return torch.cat(of_forms, dim=1) if self.beside else of_forms[0]

    def _own_keys(self, layer: int, slots: Slots, seqlen_k: int) -> Tensor:
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
        """Take what the kernel has reduced in a layer, ``[rows, channels, heads, tokens]``."""
        pending = [state.pending[layer] for state in self.together]
        parts = torch.split(reduced, [one.channels for one in pending], dim=1)
        for one, part in zip(pending, parts, strict=True):
            one.reduced = part

    def step(self, layer: int, update: Tensor | None) -> None:
        """Write the level after a layer for the tokens of this call.

        Args:
            layer: Index of the layer, whose attention must have run.
            update: Norms of U, ``[rows, 1, seqlen_q]``; None if the form needs none.

        Raises:
            RuntimeError: If the attention of the layer has not run.

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
        """Include the heads of other processes: all of them if they are kept, else their mean."""
        if self.split is None:
            return reduced
        group, heads = self.split.group, self.split.heads[layer]
        # The mean is cheaper: processes exchange one number per token, not one per token and head.
        return (group.gathered if self.keeps_heads else group.mean)(reduced, heads)

    def check_written(self, ran: set[int]) -> None:
        """Check that every layer has written its level in this call; without, it would be 0.

        Args:
            ran: The layers whose attention ran.

        Raises:
            RuntimeError: If one has not.

        """
        for layer, pending in enumerate(self.pending):
            if layer not in ran or pending.reduced is not None:
                raise RuntimeError(
                    f"Influence must be measured in all {len(self.pending)} attention layers, got "
                    f"a call that ran without layer {layer}; a part of the model was replaced"
                )

    def remember(self) -> None:
        """Copy what was written since the last call of this into `history`, before rows move."""
        known = sum(part.shape[3] for part in self.history)
        written = torch.stack([level[:, :, known : self.filled] for level in self.levels], dim=1)
        self.history.append(written.cpu())
        for other in self.beside:
            other.remember()

    def stacked(self, slots: int) -> Tensor:
        """Return all levels of the first slots, ``[rows, levels, groups, slots]``."""
        return torch.stack([level[:, :, :slots] for level in self.levels], dim=1)

    def follow(self, cache: Any) -> None:
        """Keep this state on a cache, and move its rows from now on as the cache does."""
        keep_on(cache, CACHE_STATE, self)

    def before_reorder(self) -> None:
        """Keep what was written, before beam search moves rows."""
        self.remember()

    def map_rows(self, change: Any) -> None:
        """Apply `change` to every table."""
        self.levels = [change(level) for level in self.levels]
        self.residuals = [change(residual) for residual in self.residuals]
        self.by_head = [[change(part) for part in parts] for parts in self.by_head]
        for other in self.beside:
            other.map_rows(change)

    def _reserve(self, slots: int) -> None:
        present = self.levels[0].shape[2]
        if slots <= present:
            return
        # At first exactly what is asked for, so that the tables of a static cache never grow.
        wanted = slots if present == 0 else max(slots, 2 * present, _FEWEST_SLOTS)
        self.levels = [F.pad(level, (0, wanted - present)) for level in self.levels]
        self.residuals = [F.pad(norms, (0, wanted - present)) for norms in self.residuals]


def state_on(cache: Any) -> Follower | None:
    """Return the state that is kept on a cache, or None."""
    found: Follower | None = getattr(cache, CACHE_STATE, None)
    return found


def _columns(first: int | Tensor, count: int, table: Tensor) -> Tensor:
    columns = torch.arange(count, device=table.device)
    if isinstance(first, Tensor):
        first = first.to(table.device)
    # A static cache may have more slots than were reserved; no query sees the last ones.
    return (columns + first).clamp(max=table.shape[2] - 1)
