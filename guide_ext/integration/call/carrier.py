# SPDX-License-Identifier: MIT
"""The carrier: everything that the attention function must know, as one small 4-D mask tensor.

transformers makes a mask once per call and layer type, sometimes outside the compiled region, and
passes it to every attention layer. Only a 4-D tensor arrives there unchanged, so the carrier is
one: uint32 ``[batch, 1 + flags, window_left + 2, rest]``.

**The shape holds what the op takes as Python numbers; the contents hold what is on the device.**
The sizes of dimensions 1 and 2 encode causality, window and which parts are present. Reading them
needs no device synchronisation, and `torch.compile` sees constants. Flattened, a row is

    header (4 words) | strength (layers · heads words) | key bias (seqlen_k words) | filler

The header is (q_start, first_key, 0, 0) as int32; the other words are float32 bits. With a share,
each word of key bias is followed by one word for the share of the same key. The filler rounds the
row up to a multiple of dimensions 1 and 2. It is NaN, so that a key that the mask did not foresee
shows at once. `first_key` is the slot of key 0, for data that are kept by slot. `q_start` is read
on the device, so one CUDA graph serves every decoding step. A row grows with the number of keys,
not with queries × keys.

The dtype is uint32 because no mask of a caller has that, and because autocast, ``.half()`` and
mixed-precision wrappers cast only floating tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

# Words; four of them, so that the words after the header are aligned to 16 bytes.
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
        here: The heads that the layer computes in this process.
        reads_source: Whether its keys are those of the text that an encoder reads for a decoder.

    """

    index: int
    layers: int
    heads: int
    here: slice
    reads_source: bool = False

    def of(self, row: Tensor) -> Tensor:
        """Return the numbers of this layer's heads out of ``[batch, layers · heads]``."""
        begin = self.index * self.heads
        return row[:, begin : begin + self.heads][:, self.here]


@dataclass(frozen=True)
class Unpacked:
    """The arguments of `biased_attention` that a carrier holds, as `unpack` read them."""

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
        structure: Causality and window. A causal mask needs no right window; in any other mask it
            must equal the left one.
        q_start: Position of the first query on the axis of the keys, a number or a 0-d tensor.
        batch: Rows of the carrier.
        device: Device of the carrier.
        key_bias: Nats, ``[batch, seqlen_k]``, float32; −inf hides a key.
        strength: Multiplier of the bias, ``[batch, layers, heads]``, float32.
        first_key: Slot of key 0, a number or a 0-d tensor.
        share: Minimum share of the attention that the marked keys of a row get together: that
            number on each marked key, 0 on the others, ``[batch, seqlen_k]``, float32. It needs a
            `key_bias`.

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


def unpack(
    carrier: Tensor, seqlen_k: int, layer: TablePlace | None, learned: Tensor | None = None
) -> Unpacked:
    """Read a carrier for one attention layer, without waiting for the device.

    Args:
        carrier: What `pack` made.
        seqlen_k: Number of keys of this layer.
        layer: The layer's place in the strength table; None for a layer that `enable` never saw.
        learned: The strength table that the carrier has, with its gradient, or None.

    Raises:
        ValueError: If the carrier has fewer keys than the layer, or has a strength table and
            `layer` is None.

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
        strength = layer.of(row[:, _HEADER:]).view(torch.float32)
        if learned is not None:
            strength = layer.of(learned.flatten(1)).to(row.device)
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
        key_bias = scaled(key_bias, strength)
    return Unpacked(structure, q_start, first_key, key_bias, share)


def scaled(key_bias: Tensor, strength: Tensor) -> Tensor:
    """Multiply the bias by the strength of each head; −inf stays −inf at any strength.

    Args:
        key_bias: ``[batch, 1, seqlen_k]``, float32, nats.
        strength: ``[batch, heads]``, float32.

    Returns:
        ``[batch, heads, seqlen_k]``, float32.

    """
    hides = torch.isinf(key_bias)
    # 0 · inf would be the gradient of a strength on what is hidden: NaN.
    return torch.where(hides, key_bias, key_bias.masked_fill(hides, 0.0) * strength[:, :, None])


def is_carrier(mask: object) -> TypeGuard[Tensor]:
    """Return whether a mask is a carrier, not a mask of the caller's own."""
    return isinstance(mask, Tensor) and mask.dtype == torch.uint32
