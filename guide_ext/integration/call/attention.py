# SPDX-License-Identifier: MIT
"""The attention function behind ``attn_implementation="guide"``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call.carrier import Structure, TablePlace, is_carrier, scaled, unpack
from guide_ext.integration.call.frame import Frame, Slots, current
from guide_ext.integration.call.keywords import check_keywords
from guide_ext.integration.call.selection import selected_keys
from guide_ext.op.attention import biased_attention
from guide_ext.op.share import attention_with_share

# Set by enable() on every attention module: a TablePlace.
LAYER_ATTRIBUTE = "_guide_layer"


def guide_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    indices: Tensor | None = None,
    block_indices: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Serve one attention layer of a transformers model from `biased_attention`.

    Args:
        module: The attention module; its ``is_causal`` counts when there is no mask.
        query: ``[batch, num_heads, seqlen_q, head_dim]``.
        key: ``[batch, num_kv_heads, seqlen_k, head_dim]``, the cache included.
        value: ``[batch, num_kv_heads, seqlen_k, head_dim_v]``.
        attention_mask: A carrier, or a table of the caller's own (bool: True = visible, or
            floating and added to the scores), or None.
        scaling: Factor of the scores; None for 1/√head_dim.
        dropout: Must be 0.
        softcap: Cap of the scores, applied before any bias; None for none.
        s_aux: Attention sinks, ``[num_heads]``.
        is_causal: Overrides ``module.is_causal``.
        position_bias: Added to the scores, ``[1 or batch, num_heads, seqlen_q, seqlen_k]`` (T5).
        indices: Keys that every query may see, see `selection.selected_keys`.
        block_indices: Blocks of keys that every query may see, likewise.
        **kwargs: What else transformers hands to attention functions, see `keywords`.

    Returns:
        ``[batch, seqlen_q, num_heads, head_dim_v]`` and None: there are no attention weights.

    Raises:
        ValueError: If attention dropout or attention weights are asked for, if steering arguments
            arrive on a model that was not enabled, if the mask is an integer one, if a keyword is
            not known, or if Influence meets a layer that runs twice in one call.
        RuntimeError: If the call is steered and the bias does not reach this layer.

    """
    layer: TablePlace | None = getattr(module, LAYER_ATTRIBUTE, None)
    _refuse_dropout(dropout)
    check_keywords(module, kwargs, is_numbered=layer is not None)
    frame = current()
    if frame is not None and frame.recorder is not None:
        frame.recorder.attends = True
        if attention_mask is not None:
            frame.recorder.layers.append((module, query[0, :, -1].detach().clone()))
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    q_start, attn_bias, slots, share = None, None, None, None
    if is_carrier(attention_mask):
        unpacked = unpack(attention_mask, seqlen_k, layer)
        slots = Slots(unpacked.first_key, unpacked.first_key + unpacked.q_start[0])
        structure, q_start, key_bias = unpacked.structure, unpacked.q_start, unpacked.key_bias
        share = unpacked.share
        is_biased = key_bias is not None
    else:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        structure = Structure(bool(causal) and attention_mask is None and seqlen_q > 1)
        attn_bias = _table(attention_mask, seqlen_q)
        key_bias = _waiting_bias(frame, layer, seqlen_k)
        slots = None if frame is None else frame.slots_by_length.get(seqlen_k)
        is_biased = key_bias is not None or _is_folded_in(frame, attn_bias)
    if frame is not None and layer is not None:
        _note_bias(frame, layer, is_biased, module, seqlen_k)
    if position_bias is not None:
        attn_bias = _sum(attn_bias, position_bias)
    selected = selected_keys(module, indices, block_indices, query.shape[1], seqlen_k)
    if selected is not None:
        attn_bias = selected if attn_bias is None else _hidden(attn_bias, selected)
    state = frame.influence if frame is not None and layer is not None else None
    channels = None
    if frame is not None and state is not None and layer is not None:
        _refuse_repeated(frame, layer, module)
        channels = state.keys(layer.index, slots, seqlen_k)
    operands = (_rows(query), _rows(key), _rows(value))
    options: dict[str, Any] = {
        "sinks": s_aux,
        "q_start": q_start,
        "is_causal": structure.is_causal,
        "window_left": structure.window_left,
        "window_right": structure.window_right,
        "scale": scaling,
        "softcap": softcap or 0.0,
    }
    if share is None:
        out, reduced, _ = biased_attention(
            *operands, key_bias, channels, attn_bias=attn_bias, **options
        )
    elif attn_bias is None:
        out, reduced, _, _ = attention_with_share(
            *operands, share > 0, share.amax(1), key_bias, channels, **options
        )
    else:
        raise ValueError(
            "guide_share must go to a model whose layers see all keys of a causal or "
            "sliding-window mask and add no position_bias, got one that adds it or selects keys; "
            "give the marked text a guide_bias instead"
        )
    if state is not None and layer is not None:
        state.take(layer.index, reduced)
    return out.transpose(1, 2), None


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise ValueError(
            f"attention dropout must be 0 under attn_implementation='guide', got {dropout:g}; "
            "call model.eval(), or set config.attention_dropout = 0 to train"
        )


def _note_bias(
    frame: Frame, layer: TablePlace, is_biased: bool, module: nn.Module, seqlen_k: int
) -> None:
    """Count the layers that the bias has reached; refuse one that it was promised and misses.

    Raises:
        RuntimeError: If the call is steered and this layer is not.

    """
    if is_biased:
        frame.biased_layers.add(layer.index)
    elif frame.is_steered:
        raise RuntimeError(
            f"guide_bias must reach every attention layer, got layer {layer.index}, a "
            f"{type(module).__name__} of {seqlen_k} keys, without one: its keys are not the tokens "
            "of the text, or it does not get the mask of the model. The output would be steered "
            "in part; use this model unsteered"
        )


def _refuse_repeated(frame: Frame, layer: TablePlace, module: nn.Module) -> None:
    """Refuse to measure a layer again: its levels would be written twice, from the seed each time.

    Raises:
        ValueError: If this layer has been measured in this call.

    """
    if layer.index in frame.measured_layers:
        raise ValueError(
            "Influence must be measured in a model that runs every attention layer once, got a "
            f"{type(module).__name__} that calls attention again in the same forward pass; steer "
            "the model without measuring"
        )
    frame.measured_layers.add(layer.index)


def _is_folded_in(frame: Frame | None, table: Tensor | None) -> bool:
    """Say whether `guide_mask` added the bias to this mask, of a structure of its own."""
    if frame is None or table is None or not table.is_floating_point():
        return False
    return table.shape[-1] in frame.folded_lengths


def _waiting_bias(frame: Frame | None, layer: TablePlace | None, seqlen_k: int) -> Tensor | None:
    """Take the bias that `guide_dense_mask` left in the frame for layers of this length."""
    if frame is None or layer is None or seqlen_k not in frame.bias_by_length:
        return None
    key_bias = frame.bias_by_length[seqlen_k][:, None, :]
    if frame.strength is None:
        return key_bias
    return scaled(key_bias, layer.of(frame.strength.flatten(1)).to(key_bias.device))


def _table(mask: Tensor | None, seqlen_q: int) -> Tensor | None:
    """Pass a caller's own mask on as it is; one row for all queries is spread out."""
    if mask is None:
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            "a 4-D attention_mask must be bool (True = visible) or floating (added to the scores), "
            f"got {mask.dtype}; convert it with .bool()"
        )
    return mask.expand(-1, -1, seqlen_q, -1)


def _sum(attn_bias: Tensor | None, position_bias: Tensor) -> Tensor:
    if attn_bias is None:
        return position_bias
    if attn_bias.dtype == torch.bool:
        return _hidden(position_bias, attn_bias)
    return attn_bias + position_bias


def _hidden(attn_bias: Tensor, visible: Tensor) -> Tensor:
    """Hide what `visible` does not show."""
    if attn_bias.dtype == torch.bool:
        return attn_bias & visible
    return torch.where(visible, attn_bias, float("-inf"))


def _rows(tensor: Tensor) -> Tensor:
    """Make the last dimension dense, as the op wants it; it nearly always is."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
