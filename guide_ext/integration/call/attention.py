# SPDX-License-Identifier: MIT
"""The attention function behind ``attn_implementation="guide"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call.arguments import check_source_length
from guide_ext.integration.call.carrier import Structure, TablePlace, is_carrier, scaled, unpack
from guide_ext.integration.call.frame import Frame, LayerWatch, Slots, current
from guide_ext.integration.call.keywords import check_keywords
from guide_ext.integration.call.selection import selected_keys
from guide_ext.op.attention import biased_attention
from guide_ext.op.call import AttentionCall
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
    """Compute one attention layer of a transformers model with `biased_attention`.

    Args:
        module: The attention module; without a mask, its ``is_causal`` says whether it is causal.
        query: ``[batch, num_heads, seqlen_q, head_dim]``.
        key: ``[batch, num_kv_heads, seqlen_k, head_dim]``, the cache included.
        value: ``[batch, num_kv_heads, seqlen_k, head_dim_v]``.
        attention_mask: A carrier; or any other mask, bool (True = visible) or floating (added to
            the scores); or None.
        scaling: Factor of the scores; None for 1/√head_dim.
        dropout: Must be 0.
        softcap: Cap of the scores, applied before any bias; None for none.
        s_aux: Attention sinks, ``[num_heads]``.
        is_causal: Overrides ``module.is_causal``.
        position_bias: Added to the scores, ``[1 or batch, num_heads, seqlen_q, seqlen_k]`` (T5).
        indices: Keys that each query may see, see `selection.selected_keys`.
        block_indices: Blocks of keys that each query may see, see `selection.selected_keys`.
        **kwargs: Further arguments that transformers passes to attention functions, see
            `keywords`.

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
    frame = current()
    if frame is not None and frame.packed is not None:
        packed = frame.packed
        key, value = packed.keys_and_values(module, key, value, kwargs)
        check_keywords(module, kwargs, is_numbered=layer is not None)
        given = {"position_bias": position_bias, "indices": indices, "block_indices": block_indices}
        _refuse_in_packed(module, layer, attention_mask, given)
        options = {"sinks": s_aux, "scale": scaling, "softcap": softcap or 0.0}
        return _attend_packed(frame, module, (query, key, value), attention_mask, options), None
    check_keywords(module, kwargs, is_numbered=layer is not None)
    if frame is not None:
        _note_call(frame, module, query, key, attention_mask)
    seqlen_k = key.shape[2]
    geometry = _geometry(attention_mask, module, is_causal, frame, layer, query.shape[2], seqlen_k)
    if frame is not None and layer is not None:
        _note_bias(frame, layer, geometry.is_biased, module, seqlen_k)
    attn_bias = geometry.attn_bias
    if position_bias is not None:
        attn_bias = _sum(attn_bias, position_bias)
    selected = selected_keys(module, indices, block_indices, query.shape[1], seqlen_k)
    if selected is not None:
        attn_bias = selected if attn_bias is None else _hidden(attn_bias, selected)
    state = frame.influence if frame is not None and layer is not None else None
    channels = None
    if frame is not None and state is not None and layer is not None:
        _refuse_repeated(frame, layer, module)
        channels = state.keys(layer.index, geometry.slots, seqlen_k)
    operands = (_rows(query), _rows(key), _rows(value))
    options = {"sinks": s_aux, "scale": scaling, "softcap": softcap or 0.0}
    out, reduced, lse = _attend(operands, geometry, channels, attn_bias, **options)
    if frame is not None and frame.outer is not None and frame.outer.watch is not None:
        _show(frame.outer.watch, layer, module, operands, geometry, attn_bias, lse, options)
    if state is not None and layer is not None:
        state.take(layer.index, reduced)
    return out.transpose(1, 2), None


@dataclass(frozen=True)
class _Geometry:
    """What a mask says about one layer, whether it is a carrier or not.

    Attributes:
        structure: Causality and window.
        slots: Where the keys and queries lie, if that is known.
        is_biased: Whether the bias of the call reaches this layer.
        key_bias: Nats, ``[batch, 1 or num_heads, seqlen_k]``.
        q_start: Position of the first query on the axis of the keys; None for the op's default.
        attn_bias: A mask that is a full table.
        share: Minimum share of the attention, on each marked key, ``[batch, seqlen_k]``.

    """

    structure: Structure
    slots: Slots | None
    is_biased: bool
    key_bias: Tensor | None
    q_start: Tensor | None = None
    attn_bias: Tensor | None = None
    share: Tensor | None = None

    def limits(self) -> dict[str, Any]:
        """Return the arguments of the op that say which keys a query sees."""
        return {
            "q_start": self.q_start,
            "is_causal": self.structure.is_causal,
            "window_left": self.structure.window_left,
            "window_right": self.structure.window_right,
        }


def _geometry(
    mask: Tensor | None,
    module: nn.Module,
    is_causal: bool | None,
    frame: Frame | None,
    layer: TablePlace | None,
    seqlen_q: int,
    seqlen_k: int,
) -> _Geometry:
    """Read a mask for one layer; what a mask other than a carrier lacks comes from the frame."""
    if is_carrier(mask):
        found = unpack(mask, seqlen_k, layer, None if frame is None else frame.learned)
        return _Geometry(
            found.structure,
            Slots(found.first_key, found.first_key + found.q_start[0]),
            found.key_bias is not None,
            found.key_bias,
            q_start=found.q_start,
            share=found.share,
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    attn_bias = _table(mask, seqlen_q)
    if layer is not None and layer.reads_source:
        key_bias = _source_bias(frame, layer, seqlen_k)
    else:
        key_bias = _waiting_bias(frame, layer, seqlen_k)
    return _Geometry(
        Structure(bool(causal) and mask is None and seqlen_q > 1),
        None if frame is None else frame.slots_by_length.get(seqlen_k),
        key_bias is not None or _is_folded_in(frame, attn_bias),
        key_bias,
        attn_bias=attn_bias,
    )


def _attend(
    operands: tuple[Tensor, Tensor, Tensor],
    geometry: _Geometry,
    channels: Tensor | None,
    attn_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the op, with a share or without; return its output, the reduced channels and the lse.

    Raises:
        ValueError: If there are a share and an `attn_bias`.

    """
    options |= geometry.limits()
    share, key_bias = geometry.share, geometry.key_bias
    if share is None:
        out, reduced, lse = biased_attention(
            *operands, key_bias, channels, attn_bias=attn_bias, **options
        )
    elif attn_bias is None:
        out, reduced, lse, _ = attention_with_share(
            *operands, share > 0, share.amax(1), key_bias, channels, **options
        )
    else:
        raise ValueError(
            "guide_share must go to a model whose layers see all keys of a causal or "
            "sliding-window mask and add no position_bias, got one that adds it or selects keys; "
            "give the marked text a guide_bias instead"
        )
    return out, reduced, lse


def _show(
    watch: LayerWatch,
    layer: TablePlace | None,
    module: nn.Module,
    operands: tuple[Tensor, Tensor, Tensor],
    geometry: _Geometry,
    attn_bias: Tensor | None,
    lse: Tensor,
    options: dict[str, Any],
) -> None:
    """Let a watch look at one attention call.

    Raises:
        ValueError: If `enable` never saw the layer, or it has a minimum share, of which the call
            does not tell the biases.

    """
    if layer is None or geometry.share is not None:
        what = "with a minimum share" if layer is not None else "that enable() never saw"
        raise ValueError(
            "attention must be looked at in layers that enable() knows, steered by a bias, got a "
            f"{type(module).__name__} {what}"
        )
    options = {**options, **geometry.limits()}
    call = AttentionCall(*operands, geometry.key_bias, attn_bias=attn_bias, **options)
    watch.look(layer, call, lse)


def _attend_packed(
    frame: Frame,
    module: nn.Module,
    operands: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Compute one layer for every request of a call of continuous batching by itself.

    Returns:
        ``[1, seqlen_q, num_heads, head_dim_v]``, the requests behind each other.

    """
    layer: TablePlace = getattr(module, LAYER_ATTRIBUTE)
    packed = frame.packed
    assert packed is not None
    assert mask is not None
    query, key, value = (_rows(operand) for operand in operands)
    structure = unpack(mask, 0, None).structure
    kind = packed.kind_of(module, structure)
    packed.check_lengths(kind, query.shape[2], key.shape[2])
    outputs = []
    for index, stretch in enumerate(packed.stretches):
        queries, keys = stretch.queries, stretch.keys[kind]
        key_bias, share = packed.steering_of(index, kind, layer, query.device)
        geometry = _Geometry(structure, None, key_bias is not None, key_bias, share=share)
        own = (query[:, :, queries], key[:, :, keys], value[:, :, keys])
        out, _, _ = _attend(own, geometry, None, None, **options)
        outputs.append(out.transpose(1, 2))
    frame.biased_layers.add(layer.index)
    return torch.cat(outputs, dim=1)


def _refuse_in_packed(
    module: nn.Module, layer: TablePlace | None, mask: Tensor | None, given: dict[str, Any]
) -> None:
    """Refuse what a layer may not have in continuous batching.

    Raises:
        ValueError: If `enable` never saw the layer, its mask is not the one of this call, or it
            adds to scores or chooses keys.

    """
    names = [name for name, value in given.items() if value is not None]
    name = type(module).__name__
    if layer is None:
        found = f"a {name} that enable() never saw"
    elif not is_carrier(mask):
        found = f"a {name} with a mask of its own"
    elif names:
        found = f"a {name} with {names[0]}"
    else:
        return
    raise ValueError(
        "continuous batching must run layers that see all keys of a causal or sliding-window "
        f"mask to be steered, got {found}; use generate() for this model"
    )


def _note_call(
    frame: Frame, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None
) -> None:
    """Tell the recorder of a trial run, if this is one, that this layer was called."""
    recorder = frame.recorder
    if recorder is None:
        return
    recorder.attends = True
    if mask is not None or not recorder.needs_mask:
        recorder.layers.append((module, query[0, :, -1].detach().clone()))
        recorder.num_keys[module] = key.shape[2]
    if is_carrier(mask):
        recorder.is_causal[module] = unpack(mask, 0, None).structure.is_causal


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise ValueError(
            f"attention dropout must be 0 under attn_implementation='guide', got {dropout:g}; "
            "call model.eval(), or set config.attention_dropout = 0 to train"
        )


def _note_bias(
    frame: Frame, layer: TablePlace, is_biased: bool, module: nn.Module, seqlen_k: int
) -> None:
    """Note in the frame that the bias has reached a layer.

    Raises:
        RuntimeError: If the call is steered and the bias has not reached this layer.

    """
    if is_biased:
        frame.biased_layers.add(layer.index)
    elif frame.steers(layer):
        raise RuntimeError(
            f"guide_bias must reach every attention layer, got layer {layer.index}, a "
            f"{type(module).__name__} of {seqlen_k} keys, without one: its keys are not the tokens "
            "of the text, or it does not get the mask of the model. The output would be steered "
            "in part; use this model unsteered"
        )


def _refuse_repeated(frame: Frame, layer: TablePlace, module: nn.Module) -> None:
    """Refuse to measure a layer twice in one call: its Influence would be overwritten.

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
    """Return whether `guide_mask` made this mask as a full table with the bias added."""
    if frame is None or table is None or not table.is_floating_point():
        return False
    return table.shape[-1] in frame.folded_lengths


def _source_bias(frame: Frame | None, layer: TablePlace, seqlen_k: int) -> Tensor | None:
    """Return the bias of what an encoder reads, for a layer that gets no carrier.

    It gets no mask (Whisper's), or a table that the encoder makes itself (Canary's).
    """
    if frame is None or frame.source_bias is None:
        return None
    check_source_length(frame.source_bias, seqlen_k)
    return _for_heads(frame.source_bias, frame, layer)


def _waiting_bias(frame: Frame | None, layer: TablePlace | None, seqlen_k: int) -> Tensor | None:
    """Return the bias that `guide_dense_mask` left in the frame for this number of keys."""
    if frame is None or layer is None or seqlen_k not in frame.bias_by_length:
        return None
    return _for_heads(frame.bias_by_length[seqlen_k], frame, layer)


def _for_heads(bias: Tensor, frame: Frame, layer: TablePlace) -> Tensor:
    """Return a bias with the strengths of a layer: ``[batch, 1 or num_heads, seqlen_k]``."""
    key_bias = bias[:, None, :]
    strength = frame.strength if frame.learned is None else frame.learned
    if strength is None:
        return key_bias
    return scaled(key_bias, layer.of(strength.flatten(1)).to(key_bias.device))


def _table(mask: Tensor | None, seqlen_q: int) -> Tensor | None:
    """Check a mask that is no carrier, and expand it to one row per query."""
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
    """Hide the keys for which `visible` is False."""
    if attn_bias.dtype == torch.bool:
        return attn_bias & visible
    return torch.where(visible, attn_bias, float("-inf"))


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor with a contiguous last dimension, as the op needs; mostly it has one."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
