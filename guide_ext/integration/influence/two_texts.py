# SPDX-License-Identifier: MIT
"""The Influence of both texts of an encoder–decoder, while it runs.

The source has levels of its own, one after each layer of the encoder. The target has one after each
attention of the decoder: to its own text, then to the source, layer by layer. Attention to its own
text mixes the Influence of the target, as in a model with one text. Attention to the source mixes
what the source has after the last layer of the encoder, which is the same for all layers and steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.call.arguments import check_source_length
from guide_ext.integration.call.cache_rows import keep_on
from guide_ext.integration.call.frame import Slots
from guide_ext.integration.influence.state import CACHE_STATE, InfluenceState, Request


@dataclass
class TwoTexts:
    """The Influence of a source and of a target.

    Attributes:
        kinds: What each layer of the model attends to: "encoder", "decoder" or "cross".
        source: The Influence of the source, a row for each row that the encoder reads.
        target: That of the target; None until the decoder runs.
        returned: For each form the norms of what the encoder returns, ``[rows, 1, positions]``;
            None for a form without norms. Empty until the encoder has run.
        handed: What every attention to the source reduces, ``[rows of the target, channels of all
            forms, positions]``; None until the first one.
        first_query: Slot of the first token of the running call.
        written: Layers that have written their levels, in the running call or before it.

    """

    kinds: tuple[str, ...]
    source: InfluenceState
    target: InfluenceState | None = None
    returned: list[Tensor | None] = field(default_factory=list)
    handed: Tensor | None = None
    first_query: int = 0
    written: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, request: Request, kinds: tuple[str, ...], seed: Tensor) -> TwoTexts:
        """Return the Influence of a source that is yet to be read.

        Args:
            request: What to measure.
            kinds: See `kinds`.
            seed: ``guide_seed``, 1 on marked positions, ``[rows, groups, positions]``.

        """
        source = InfluenceState.begin(
            request.form, seed, kinds.count("encoder"), keeps_heads=request.keeps_heads,
            beside=request.beside,
        )  # fmt: skip
        source.extend(seed, 0, seed.shape[2])
        return cls(kinds, source)

    def for_target(self, request: Request, seed: Tensor) -> TwoTexts:
        """Return the same source with a target without tokens.

        Args:
            request: What to measure.
            seed: ``guide_decoder_seed``, ``[rows, groups, slots]``, with any number of slots.

        """
        layers = len(self.kinds) - self.kinds.count("encoder")
        target = InfluenceState.begin(
            request.form, seed, layers, keeps_heads=request.keeps_heads, beside=request.beside
        )
        return TwoTexts(self.kinds, self.source, target, self.returned, written=set(self.written))

    def extend(self, seed: Tensor, seen: int, tokens: int) -> None:
        """Make room for the tokens of a call of the decoder; see `InfluenceState.extend`."""
        self._target().extend(seed, seen, tokens)
        self.first_query = seen
        self.written = {layer for layer in self.written if self.kinds[layer] == "encoder"}

    def of_layer(self, layer: int) -> list[tuple[InfluenceState, int]]:
        """Return the states that a layer writes, one for each form, and its place in them."""
        is_encoder = self.kinds[layer] == "encoder"
        text = self.source if is_encoder else self._target()
        same = [(kind == "encoder") == is_encoder for kind in self.kinds[:layer]]
        return [(state, sum(same)) for state in text.together]

    def keys(self, layer: int, slots: Slots | None, seqlen_k: int) -> Tensor:
        """Return what the kernel is to reduce in a layer, ``[rows, channels, seqlen_k]``.

        Args:
            layer: Index of the layer.
            slots: The slots of keys and queries; only the decoder's attention to its own text needs
                them. An encoder reads the whole source at once.
            seqlen_k: Number of keys.

        Raises:
            ValueError: If the source has another number of positions than its marks, or `slots` is
                needed and None.

        """
        state, own = self.of_layer(layer)[0]
        if self.kinds[layer] == "decoder":
            return state.keys(own, slots, seqlen_k)
        check_source_length(self.source.levels[0], seqlen_k, "guide_seed")
        if self.kinds[layer] == "encoder":
            return state.keys(own, Slots(0, 0), seqlen_k)
        if self.handed is None:
            self.handed = self._hand_on(state.levels[0].shape[0])
        for one in state.together:
            one.pending[own].slots = Slots(0, self.first_query)
            one.pending[own].channels = one.levels[0].shape[1] + one.form.weighs_keys
        return self.handed

    def take(self, layer: int, reduced: Tensor) -> None:
        """Take what the kernel has reduced in a layer, ``[rows, channels, heads, tokens]``."""
        state, own = self.of_layer(layer)[0]
        state.take(own, reduced)

    def source_returned(self, states: Tensor) -> None:
        """Note the lengths of what the encoder returns, ``[rows, positions, features]``."""
        self.returned = [state.form.norms(states) for state in self.source.together]

    def check_written(self) -> None:
        """Check that every layer has written its levels; without, they would be 0.

        Raises:
            RuntimeError: If one has not.

        """
        missing = set(range(len(self.kinds))) - self.written
        if missing:
            raise RuntimeError(
                f"Influence must be measured in all {len(self.kinds)} attention layers, got a call "
                f"that ran without layer {min(missing)}; a part of the model was replaced"
            )

    def follow(self, cache: Any) -> None:
        """Keep this on a cache, and move its rows from now on as the cache does."""
        keep_on(cache, CACHE_STATE, self)

    def before_reorder(self) -> None:
        """Keep what was written, before beam search moves rows."""
        self._target().remember()

    def map_rows(self, change: Any) -> None:
        """Apply `change` to every table of the target. Rows of the source stay."""
        self._target().map_rows(change)
        self.handed = None if self.handed is None else change(self.handed)

    def _hand_on(self, rows: int) -> Tensor:
        """Return the channels of the source for `rows` of the target."""
        if not self.returned:
            raise RuntimeError(
                "Influence must see what the encoder returns, got a model that does not call it"
            )
        of_forms = [
            state.form.channels(state.levels[0 if state.form.name == "raw" else -1], norms)
            for state, norms in zip(self.source.together, self.returned, strict=True)
        ]
        channels = torch.cat(of_forms, dim=1)
        # Beams and further sequences of one source lie next to each other.
        return channels.repeat_interleave(rows // channels.shape[0], 0)

    def _target(self) -> InfluenceState:
        if self.target is None:
            raise RuntimeError("the decoder must be called as a part of the model, got it alone")
        return self.target
