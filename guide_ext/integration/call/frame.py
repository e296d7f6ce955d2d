# SPDX-License-Identifier: MIT
"""What one call of an enabled model knows while it runs: the frame.

`forward` takes the bias out of its keyword arguments before transformers sees them and leaves it
here for the mask function, which transformers calls much deeper and with arguments of its own.
Frames form a stack in a `ContextVar`, so threads, nested calls and the unconditional pass of
classifier-free guidance never see each other's. Dynamo cannot trace a `ContextVar`; while it traces
a whole call, a module-level cell takes its place and is emptied again before the trace ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass
class Recorder:
    """Notes what a trial run touches, see `guide_ext.integration.model.verify`."""

    # Configs that masks were made for: the text decoder's, never a vision tower's.
    configs: list[Any] = field(default_factory=list)
    # Attention modules that were given a mask, in the order of their calls, with one query of each
    # of their heads, [heads, features].
    layers: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    # Whether any attention module ran, with a mask or without.
    attends: bool = False


@dataclass
class Slots:
    """Where the tokens of one attention call lie.

    Attributes:
        first_key: Slot of key 0 of the layer: a number, or a 0-d tensor that is not waited for.
        first_query: Slot of query 0.

    """

    first_key: int | Tensor
    first_query: int | Tensor


class LayerInfluence(Protocol):
    """What an attention layer needs of the measurement that runs; see `influence.state`."""

    def keys(self, layer: int, slots: Slots | None, seqlen_k: int) -> Tensor:
        """Return what the kernel reduces in a layer, ``[rows, channels, seqlen_k]``."""

    def take(self, layer: int, reduced: Tensor) -> None:
        """Keep what the kernel summed up in a layer."""


@dataclass
class Frame:
    """The steering of one call.

    Attributes:
        configs: Configs of the model whose call this is; masks for any other are left alone.
        bias: Nats per slot, ``[batch, tokens]``, float32, or None for an unsteered call.
        strength: Multiplier of the bias, ``[batch, layers, heads]``, float32, or None for 1.
        share: Share of the attention that marked slots shall have at least, on those, ``[batch,
            tokens]``, float32, or None. Comes with a bias, of zeros if need be.
        first_query: Slot of the first token of this call, which is how many slots its cache holds;
            None where that is not known.
        applied: Whether masks that were made in this frame carry the bias.
        carried: Whether the masks that this call is given carry a bias already.
        folded_lengths: Lengths of the masks, in keys, that the bias was added to in full.
        biased_layers: Attention layers that the bias has reached.
        measured_layers: Attention layers whose Influence has been measured.
        bias_by_length: Dense models only: the bias of the keys, ``[batch, seqlen_k]``, by the
            number of keys. Two layer types with the same number of keys hold the same slots.
        recorder: Set during a trial run alone.
        is_generation: Whether this is the frame of a steered `generate()`, not of one call in it.
        has_steps: Likewise: whether a step of it was prepared.
        handed_on: Frames of `generate()` only: the bias of the step at hand, whose values were
            looked at before the first step.
        masks: Likewise: the masks of the step at hand, where they were made before the call and
            carry the bias.
        slots_by_length: Where the keys and queries of this call lie, by the number of keys, of
            masks that were made in it.
        influence: Where this call's Influence goes, or None.
        request: What calls inside are to measure, or None.
        outer: The frame of the call that this one is nested in.

    """

    configs: tuple[Any, ...] = ()
    bias: Tensor | None = None
    strength: Tensor | None = None
    share: Tensor | None = None
    first_query: int | None = None
    applied: bool = False
    carried: bool = False
    folded_lengths: set[int] = field(default_factory=set)
    biased_layers: set[int] = field(default_factory=set)
    measured_layers: set[int] = field(default_factory=set)
    bias_by_length: dict[int, Tensor] = field(default_factory=dict)
    recorder: Recorder | None = None
    is_generation: bool = False
    has_steps: bool = False
    handed_on: Tensor | None = None
    masks: object = None
    slots_by_length: dict[int, Slots] = field(default_factory=dict)
    influence: LayerInfluence | None = None
    request: object = None
    outer: Frame | None = None

    @property
    def is_steered(self) -> bool:
        """Whether every attention layer of this call is to have a bias."""
        return self.bias is not None or self.carried

    def bias_for(self, config: object) -> Tensor | None:
        """Return the bias, if `config` belongs to the model that was called."""
        if self.bias is None or not any(config is own for own in self.configs):
            return None
        return self.bias


_FRAME: ContextVar[Frame | None] = ContextVar("guide_frame", default=None)
_TRACED: dict[str, Frame | None] = {"frame": None}


def current() -> Frame | None:
    """Return the frame of the innermost running call, or None outside any."""
    if torch.compiler.is_dynamo_compiling():
        return _TRACED["frame"]
    return _FRAME.get()


def requested() -> object:
    """Return what the innermost caller that asks wants measured, or None."""
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
    """Make `frame` the current one inside a ``with`` block, and put the outer one back at its end.

    Whatever happens in it: Ctrl-C inside a forward call leaves the frame of that call behind,
    because torch runs no hook then.
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
