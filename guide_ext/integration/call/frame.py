# SPDX-License-Identifier: MIT
"""The frame: what one call of an enabled model knows while it runs.

A hook takes the bias out of the keyword arguments of `forward` before transformers sees them, and
leaves it here for the mask function, which transformers calls much deeper and with its own
arguments. Frames form a stack in a `ContextVar`, so that threads, nested calls and the
unconditional pass of classifier-free guidance never see each other's frames. Dynamo cannot trace a
`ContextVar`; while it traces a whole call, a module-level cell takes its place, and the cell is
emptied before the trace ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from guide_ext.integration.call.carrier import TablePlace
from guide_ext.integration.call.packed import PackedBatch
from guide_ext.op.call import AttentionCall


@dataclass
class Recorder:
    """Notes what a trial run touches, see `guide_ext.integration.model.verify`.

    Attributes:
        configs: Configs that masks were made for: the text decoder's, never a vision tower's.
        layers: Attention modules that got a mask, in the order of their calls, each with one query
            per head, ``[heads, features]``.
        attends: Whether any attention module ran, with or without a mask.
        needs_mask: Whether modules without a mask are left out: they belong to a tower beside the
            text. In an encoder–decoder all modules read text, or what stands for it.
        num_keys: The number of keys of these modules.
        is_causal: For the modules whose mask was a carrier, whether it was causal.
        others: How often something else than these modules computed attention.

    """

    configs: list[Any] = field(default_factory=list)
    layers: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    attends: bool = False
    needs_mask: bool = True
    num_keys: dict[nn.Module, int] = field(default_factory=dict)
    is_causal: dict[nn.Module, bool] = field(default_factory=dict)
    others: int = 0


@dataclass
class Slots:
    """The slots of the keys and queries of one attention call.

    Attributes:
        first_key: Slot of key 0: a number, or a 0-d tensor, which is only read on its device.
        first_query: Slot of query 0, a number or a 0-d tensor.

    """

    first_key: int | Tensor
    first_query: int | Tensor


class LayerInfluence(Protocol):
    """What an attention layer calls while Influence is measured; see `influence.state`."""

    def keys(self, layer: int, slots: Slots | None, seqlen_k: int) -> Tensor:
        """Return what the kernel is to reduce in a layer, ``[rows, channels, seqlen_k]``."""

    def take(self, layer: int, reduced: Tensor) -> None:
        """Take what the kernel has reduced in a layer, ``[rows, channels, heads, tokens]``."""


class LayerWatch(Protocol):
    """What looks at the attention of every layer, see `guide_ext.integration.sources`."""

    def look(self, layer: TablePlace, call: AttentionCall, lse: Tensor) -> None:
        """Take one attention call and the `lse` that it gave."""


@dataclass
class Frame:
    """The steering of one call.

    Attributes:
        configs: Configs of the called model. Masks for any other config get no bias. None for any.
        adds_to_mask: Whether the bias goes into the masks of eager attention, see
            `masks.eager_mask`.
        bias: Nats per slot, ``[batch, tokens]``, float32, or None for an unsteered call. In an
            encoder–decoder, of the text that the decoder reads and writes.
        has_encoder: Whether the called model is an encoder–decoder.
        source_bias: Encoder–decoders only: nats per token that the encoder reads, ``[batch,
            source tokens]``, float32, or None.
        encoder_ran: Encoder–decoders only: whether the encoder runs in this frame, under the bias.
        strength: Multiplier of the bias, ``[batch, layers, heads]``, float32, or None for 1.
        learned: The same numbers with their gradient, if somebody learns them: masks hold bits, and
            hand on no gradient. None otherwise.
        share: Minimum share of the attention that the marked slots of a row get together: that
            number on each marked slot, 0 on the others, ``[batch, tokens]``, float32; or None. A
            share always comes with a bias, which may be all zeros.
        first_query: Slot of the first token of this call, that is, the number of slots in its
            cache; None if that is not known.
        applied: Whether masks that were made in this frame carry the bias.
        packed: The requests of this call, if it is one of continuous batching. Then the steering is
            theirs, and all fields above it are empty.
        carried: Whether the masks that were passed to this call carry a bias already.
        folded_lengths: For masks that are full tables with the bias added: their numbers of keys.
        biased_layers: Attention layers that the bias has reached.
        measured_layers: Attention layers whose Influence has been measured.
        bias_by_length: Dense models only: the bias of the keys, ``[batch, seqlen_k]``, by the
            number of keys. Two layer types with the same number of keys hold the same slots.
        recorder: Set during a trial run only.
        is_generation: Whether this is the frame of a steered `generate()`, not of one call in it.
            In an encoder–decoder, the encoder runs in it, once for all steps.
        is_nested: Whether this frame hides the outer one from an encoder that somebody calls alone.
        has_steps: Frames of `generate()` only: whether a step has been prepared.
        handed_on: Frames of `generate()` only: the bias of the current step. Its values were
            checked before the first step.
        masks: Frames of `generate()` only: the masks of the current step, if they were made before
            the forward call and carry the bias.
        continued: Frames of `generate()` only: the cache of the last step and what steered it, see
            `reuse.go_on`.
        fills: The steering of this call as it is noted on a cache that the model makes itself, a
            `reuse.Filling`; None if a cache was given, which has it already.
        slots_by_length: The slots of each mask that was made in this call, by its number of keys.
        influence: Takes the Influence of this call; None if nothing is measured.
        request: What calls inside this frame are to measure, or None.
        watch: What looks at the attention of the calls right inside this frame, or None.
        outer: The frame of the call that this one is nested in.

    """

    configs: tuple[Any, ...] | None = ()
    adds_to_mask: bool = False
    bias: Tensor | None = None
    has_encoder: bool = False
    source_bias: Tensor | None = None
    encoder_ran: bool = False
    strength: Tensor | None = None
    learned: Tensor | None = None
    share: Tensor | None = None
    first_query: int | None = None
    applied: bool = False
    packed: PackedBatch | None = None
    carried: bool = False
    folded_lengths: set[int] = field(default_factory=set)
    biased_layers: set[int] = field(default_factory=set)
    measured_layers: set[int] = field(default_factory=set)
    bias_by_length: dict[int, Tensor] = field(default_factory=dict)
    recorder: Recorder | None = None
    is_generation: bool = False
    is_nested: bool = False
    has_steps: bool = False
    handed_on: Tensor | None = None
    masks: object = None
    continued: tuple[object, tuple[Any, ...]] | None = None
    fills: object = None
    slots_by_length: dict[int, Slots] = field(default_factory=dict)
    influence: LayerInfluence | None = None
    request: object = None
    watch: LayerWatch | None = None
    outer: Frame | None = None

    @property
    def is_steered(self) -> bool:
        """Whether attention layers of this call are to have a bias."""
        if self.packed is not None:
            return True
        return self.bias is not None or self.source_bias is not None or self.carried

    def steers(self, layer: TablePlace) -> bool:
        """Return whether this attention layer is to have a bias."""
        if layer.reads_source:
            return self.source_bias is not None
        return self.bias is not None or self.carried

    def bias_for(self, config: object, *, of_source: bool = False) -> Tensor | None:
        """Return the bias, or that of the source, if `config` belongs to the called model."""
        bias = self.source_bias if of_source else self.bias
        if bias is None or self.configs is None:
            return bias
        return bias if any(config is own for own in self.configs) else None


_FRAME: ContextVar[Frame | None] = ContextVar("guide_frame", default=None)
_TRACED: dict[str, Frame | None] = {"frame": None}


def current() -> Frame | None:
    """Return the frame of the innermost running call, or None outside any."""
    if torch.compiler.is_dynamo_compiling():
        return _TRACED["frame"]
    return _FRAME.get()


def requested() -> object:
    """Return the request of the innermost frame that has one, or None."""
    frame = current()
    while frame is not None and frame.request is None:
        frame = frame.outer
    return None if frame is None else frame.request


def push(frame: Frame) -> None:
    """Make `frame` the current one; `pop` undoes it."""
    frame.outer = current()
    _set(frame)


def pop() -> Frame | None:
    """Drop the current frame and return it."""
    frame = current()
    if frame is not None:
        _set(frame.outer)
    return frame


@contextmanager
def using(frame: Frame) -> Iterator[Frame]:
    """Make `frame` the current one inside a ``with`` block, and restore the outer one at its end.

    The outer frame is restored also on Ctrl-C inside a forward call, after which torch runs no hook
    and the frame of that call would stay.
    """
    push(frame)
    try:
        yield frame
    finally:
        _set(frame.outer)


def _set(frame: Frame | None) -> None:
    if torch.compiler.is_dynamo_compiling():
        _TRACED["frame"] = frame
    else:
        _FRAME.set(frame)
