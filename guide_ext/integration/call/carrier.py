# SPDX-License-Identifier: MIT
"""The carrier: everything the attention function must know, as one small 4-D mask tensor.

transformers makes a mask once per call and layer type, sometimes outside the compiled region, and
hands it to every attention layer. Only a 4-D tensor survives that way untouched, so this is one:
uint32 ``[batch, 1 + flags, window_left + 2, rest]``.

**The shape holds what the op takes as Python numbers; the contents hold what lives on the device.**
Causality, window and which parts are present are sizes of dimensions 1 and 2: reading them costs no
device synchronisation, and `torch.compile` sees constants. Flattened, a row is

    header (4 words) | strength (layers · heads words) | key bias (seqlen_k words) | filler

with header = (q_start, first_key, 0, 0) as int32 and the rest as float32 bits; with a share, every
word of key bias is followed by that of the share of its key. The filler rounds
the row up to a multiple of dimensions 1 and 2 and is NaN: a key that the mask did not foresee shows
at once. `first_key` is the slot of key 0, for what is kept by slot. `q_start` is read on the
device, so one CUDA graph serves every decoding step. The row grows with the number of keys, not
with queries × keys.

uint32, because no caller's own mask has that dtype, and because autocast, ``.half()`` and mixed
precision wrappers cast floating tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

# Four words, so that what follows is aligned to 16 bytes.
_HEADER = 4

_BIDIRECTIONAL = 1
_HAS_STRENGTH = 2
_HAS_KEY_BIAS = 4
_HAS_SHARE = 8


@dataclass(frozen=True)
class Structure:
    """The part of a mask that needs no tensor.

    Attributes:
        is_causal: Key k is visible to query q only if k ≤ q.
        window_left: Only keys k ≥ q − window_left are visible; −1 for no limit.
        window_right: Only keys k ≤ q + window_right are visible; −1 for no limit.

    """

    is_causal: bool
    window_left: int = -1
    window_right: int = -1


@dataclass(frozen=True)
class TablePlace:
    """Where an attention layer finds its own numbers in a strength table.

    Attributes:
        index: Index of the layer.
        layers: Layers of the table.
        heads: Heads of the table, per layer.
        here: Those that the layer computes in this process.

    """

    index: int
    layers: int
    heads: int
    here: slice

    def of(self, row: Tensor) -> Tensor:
        """Cut the layer's heads out of ``[batch, layers * heads]``."""
        begin = self.index * self.heads
        return row[:, begin : begin + self.heads][:, self.here]


@dataclass(frozen=True)
class Unpacked:
    """What `biased_attention` needs, as `unpack` found it."""

    structure: Structure
    q_start: Tensor  # [1], int32
    first_key: Tensor  # 0-d, int32: slot of key 0
    key_bias: Tensor | None  # [batch, 1 or num_heads, seqlen_k], float32, nats
    share: Tensor | None = None  # [batch, seqlen_k], float32


def pack(
    structure: Structure,
    q_start: int | Tensor,
    batch: int,
    device: torch.device | str,
    key_bias: Tensor | None = None,
    strength: Tensor | None = None,
    first_key: int | Tensor = 0,
    share: Tensor | None = None,
) -> Tensor:
    """Make a carrier.

    Args:
        structure: Causality and window. A right window must equal the left one; a causal mask
            needs none.
        q_start: Position of the first query on the axis of the keys, a number or a 0-d tensor.
        batch: Rows of the carrier.
        device: Where the mask is wanted.
        key_bias: Nats, ``[batch, seqlen_k]``, float32; −inf hides a key.
        strength: Multiplier of the bias, ``[batch, layers, heads]``, float32.
        first_key: Slot of key 0, a number or a 0-d tensor.
        share: Share of the attention that marked keys shall have at least, on those,
            ``[batch, seqlen_k]``, float32; needs a `key_bias`.

    Returns:
        uint32 ``[batch, 1 + flags, window_left + 2, rest]``, contiguous.

    """
    header = torch.zeros(batch, _HEADER, dtype=torch.int32, device=device)
    header[:, 0] = q_start
    header[:, 1] = first_key
    parts = [header]
    flags = 0 if structure.is_causal else _BIDIRECTIONAL
    if strength is not None:
        flags |= _HAS_STRENGTH
        parts.append(strength.reshape(batch, -1).contiguous().view(torch.int32))
    if key_bias is not None:
        flags |= _HAS_KEY_BIAS
        if share is not None:
            flags |= _HAS_SHARE
            key_bias = torch.stack([key_bias, share], dim=-1).flatten(1)
        parts.append(key_bias.contiguous().view(torch.int32))
    planes, rows = 1 + flags, structure.window_left + 2
    filler = -sum(part.shape[1] for part in parts) % (planes * rows)
    if filler:
        nan = torch.full((batch, filler), float("nan"), dtype=torch.float32, device=device)
        parts.append(nan.view(torch.int32))
    return torch.cat(parts, dim=1).view(torch.uint32).reshape(batch, planes, rows, -1)


def unpack(carrier: Tensor, seqlen_k: int, layer: TablePlace | None) -> Unpacked:
    """Read a carrier for one attention layer, without looking at the device.

    Args:
        carrier: What `pack` made.
        seqlen_k: Number of keys of this layer.
        layer: The layer's place in the strength table, or None where the model has no such table.

    Raises:
        ValueError: If the carrier has fewer keys than the layer, or a strength table that this
            layer has no place in.

    """
    flags = carrier.shape[1] - 1
    window = carrier.shape[2] - 2
    is_causal = not flags & _BIDIRECTIONAL
    structure = Structure(is_causal, window, -1 if is_causal else window)
    row = carrier.flatten(1).view(torch.int32)
    q_start, first_key = row[:1, 0], row[0, 1]
    if not flags & _HAS_KEY_BIAS:
        return Unpacked(structure, q_start, first_key, None)
    position, strength = _HEADER, None
    if flags & _HAS_STRENGTH:
        if layer is None:
            raise ValueError(
                "guide_strength must reach only layers that guide_ext.integration.enable() "
                "numbered, got an attention layer that it never saw; enable the model again"
            )
        strength = layer.of(row[:, _HEADER:])
        position += layer.layers * layer.heads
    words = 2 if flags & _HAS_SHARE else 1
    if row.shape[1] < position + words * seqlen_k:
        most = (row.shape[1] - position) // words
        raise ValueError(
            f"the attention mask must describe all {seqlen_k} keys of the layer, "
            f"got one for at most {most}; was it made for another call?"
        )
    section = row[:, position : position + words * seqlen_k].view(torch.float32)
    key_bias = section[:, None, ::words]
    share = section[:, 1::2] if words == 2 else None
    if strength is not None:
        key_bias = scaled(key_bias, strength.view(torch.float32))
    return Unpacked(structure, q_start, first_key, key_bias, share)


def scaled(key_bias: Tensor, strength: Tensor) -> Tensor:
    """Multiply the bias by the strength of each head; −inf stays, whatever the strength.

    Args:
        key_bias: ``[batch, 1, seqlen_k]``, float32, nats.
        strength: ``[batch, heads]``, float32.

    Returns:
        ``[batch, heads, seqlen_k]``, float32.

    """
    return torch.where(torch.isinf(key_bias), key_bias, key_bias * strength[:, :, None])


def is_carrier(mask: object) -> TypeGuard[Tensor]:
    """Tell a carrier from any mask of a caller."""
    return isinstance(mask, Tensor) and mask.dtype == torch.uint32
