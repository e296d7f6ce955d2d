# SPDX-License-Identifier: MIT
"""The mask functions behind ``attn_implementation="guide"`` and ``"guide_dense"``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import masking_utils

from guide_ext.integration.call.arguments import DECODER_BIAS, check_source_length
from guide_ext.integration.call.caches import on_host
from guide_ext.integration.call.carrier import Structure, pack
from guide_ext.integration.call.frame import Frame, Slots, current


@dataclass(frozen=True)
class MaskCall:
    """What transformers asks of a mask function; the arguments of `masking_utils.sdpa_mask`.

    Key j of a layer is slot ``kv_offset + j`` of the padded batch and query i is slot
    ``q_offset + i``; this holds for every cache of transformers.
    """

    batch_size: int
    q_length: int
    kv_length: int
    q_offset: int | Tensor = 0
    kv_offset: int = 0
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function
    attention_mask: Tensor | None = None
    device: torch.device | str = "cpu"
    config: object = None
    dtype: torch.dtype | None = None
    use_vmap: bool = False

    @classmethod
    def of(cls, *arguments: Any, **options: Any) -> MaskCall:
        """Keep what is known here: transformers passes on what only functions of its own need."""
        return cls(*arguments, **{name: options[name] for name in _OPTIONS if name in options})

    def of_keys(self, slots: Tensor) -> Tensor:
        """Cut the numbers of the present keys out of those of all slots, ``[batch, seqlen_k]``."""
        end = self.kv_offset + self.kv_length
        # Generated tokens have none; a static cache has slots that nothing has filled yet.
        missing = max(end - slots.shape[1], 0)
        return F.pad(slots.to(self.device), (0, missing))[:, self.kv_offset : end]

    def with_padding(self, bias: Tensor | None) -> Tensor | None:
        """Hide padded keys: −inf in the bias. None if there is neither bias nor padding."""
        if self.attention_mask is None:
            return bias
        end = self.kv_offset + self.kv_length
        padded = F.pad(self.attention_mask, (0, max(end - self.attention_mask.shape[1], 0)))
        hidden = ~padded[:, self.kv_offset : end].bool()
        if bias is None:
            bias = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        return bias.masked_fill(hidden, float("-inf"))

    def visible_table(self) -> Tensor:
        """Evaluate the mask function for all pairs: bool ``[batch, 1, seqlen_q, seqlen_k]``."""
        table: Tensor = masking_utils.sdpa_mask(
            batch_size=self.batch_size,
            q_length=self.q_length,
            kv_length=self.kv_length,
            q_offset=self.q_offset,
            kv_offset=self.kv_offset,
            mask_function=self.mask_function,
            attention_mask=self.attention_mask,
            allow_is_causal_skip=False,
            use_vmap=self.use_vmap,
            device=self.device,
        )
        return table


_OPTIONS = tuple(field.name for field in fields(MaskCall))


def guide_mask(*arguments: Any, **options: Any) -> Tensor:
    """Put bias, padding, causality and window of a call into one carrier.

    A mask of another structure (packed, chunked, blockwise, a caller's overlay) is not a carrier
    but a full table: bool (True = visible), or float32 if there is a bias, which is added to it.

    Args:
        arguments: The fields of `MaskCall`, in their order.
        options: The fields of `MaskCall`, by name. transformers passes others too, for mask
            functions of its own; they change nothing here.

    """
    call = MaskCall.of(*arguments, **options)
    frame = current()
    bias = _bias_of_keys(frame, call)
    structure = _structure(call.mask_function)
    if frame is None or bias is None:
        strength, share = None, None
    else:
        frame.applied = True
        _check_first_query(frame.first_query, call.q_offset, structure)
        strength, share = frame.strength, frame.share
    if structure is not None:
        return pack(
            structure,
            call.q_offset - call.kv_offset,
            call.batch_size,
            call.device,
            call.with_padding(bias),
            None if strength is None else strength.to(call.device),
            call.kv_offset,
            None if share is None else call.of_keys(share),
        )
    visible = call.visible_table()
    if bias is None:
        return visible
    if share is not None:
        raise ValueError(
            "guide_share must go with a causal or sliding-window mask, got a packed, chunked, "
            "blockwise or custom one; give the marked text a guide_bias instead"
        )
    if strength is not None:
        raise ValueError(
            "guide_strength must go with a causal or sliding-window mask, got a packed, chunked, "
            "blockwise or custom one; steer all layers and heads, or drop the custom mask"
        )
    if frame is not None:
        frame.folded_lengths.add(call.kv_length)
    return torch.where(visible, bias[:, None, None, :], torch.finfo(torch.float32).min)


def guide_dense_mask(*arguments: Any, **options: Any) -> Tensor:
    """Make the mask that eager attention gets, for models that rework it themselves.

    The bias stays out of it: such a model may test the mask for zero, or keep its largest entries.
    It waits in the frame, and the attention function adds it.

    Args:
        arguments: The fields of `MaskCall`, in their order.
        options: The fields of `MaskCall`, by name. transformers passes others too, for mask
            functions of its own; they change nothing here.

    """
    call = MaskCall.of(*arguments, **options)
    frame = current()
    bias = _bias_of_keys(frame, call)
    if frame is not None and bias is not None:
        if frame.share is not None:
            raise ValueError(
                "guide_share must go to a model that leaves its mask as it is, got one that "
                "reworks it; give the marked text a guide_bias instead"
            )
        _check_first_query(frame.first_query, call.q_offset, _structure(call.mask_function))
        frame.bias_by_length[call.kv_length] = bias
    dtype = call.dtype or torch.float32
    nothing = torch.zeros((), dtype=dtype, device=call.device)
    return torch.where(call.visible_table(), nothing, torch.finfo(dtype).min)


# What made the masks of eager attention before; `registration` looks.
_before: dict[str, Callable[..., Any]] = {"eager": masking_utils.eager_mask}


def keep_eager_mask(function: Callable[..., Any]) -> None:
    """Let `eager_mask` call this function, which was registered before it."""
    if function is not eager_mask:
        _before["eager"] = function


def eager_mask(*arguments: Any, **options: Any) -> Tensor | None:
    """Make the mask of eager attention; inside a call of a model that adds its mask, with the bias.

    This replaces the function that was registered before, transformers' own or a user's. Outside of
    such a call it is that function.

    Args:
        arguments: The fields of `MaskCall`, in their order.
        options: The fields of `MaskCall`, by name, and what transformers' function takes besides.

    """
    frame = current()
    if frame is None or not frame.adds_to_mask:
        table: Tensor | None = _before["eager"](*arguments, **options)
        return table
    call = MaskCall.of(*arguments, **options)
    bias = _bias_of_keys(frame, call)
    if bias is None:
        table = _before["eager"](*arguments, **options)
        return table
    _check_first_query(frame.first_query, call.q_offset, _structure(call.mask_function))
    frame.applied = True
    # Without padding, an encoder would get no mask at all.
    options["allow_is_bidirectional_skip"] = False
    whole: Tensor = _before["eager"](*arguments, **options)
    kind = torch.finfo(whole.dtype)
    added = whole.float() + bias[:, None, None, :].clamp(min=torch.finfo(torch.float32).min)
    # A hidden key stays hidden, whatever its bias.
    table = torch.where(
        whole <= kind.min / 2, whole, added.clamp(kind.min, kind.max).to(whole.dtype)
    )
    return table


def _bias_of_keys(frame: Frame | None, call: MaskCall) -> Tensor | None:
    """Cut the bias of the present keys out of the bias of all slots, ``[batch, seqlen_k]``."""
    if frame is None:
        return None
    if frame.packed is not None:
        raise ValueError(
            "a model must use the masks of continuous batching as they are to be steered there, "
            "got one that makes masks itself; use generate() for this model"
        )
    if frame.recorder is not None:
        frame.recorder.configs.append(call.config)
    frame.slots_by_length[call.kv_length] = Slots(call.kv_offset, call.q_offset)
    of_source = frame.has_encoder and not _is_causal(frame, call)
    bias = frame.bias_for(call.config, of_source=of_source)
    if bias is None:
        return None
    name = DECODER_BIAS if frame.has_encoder and not of_source else "guide_bias"
    if bias.shape[0] != call.batch_size:
        raise ValueError(
            f"{name} must have one row per row of the batch, {call.batch_size}, got {bias.shape[0]}"
        )
    if of_source:
        check_source_length(bias, call.kv_length)
    return call.of_keys(bias)


def _is_causal(frame: Frame, call: MaskCall) -> bool:
    """Return whether a mask of an encoder–decoder is one of the decoder's own text.

    Raises:
        ValueError: If the call is steered or measured and the mask does not tell.

    """
    structure = _structure(call.mask_function)
    if structure is None and (frame.is_steered or frame.influence is not None):
        raise ValueError(
            "an encoder–decoder must have plain causal, bidirectional or sliding-window masks to "
            "be steered or measured, got a packed, chunked, blockwise or custom one"
        )
    return structure is not None and structure.is_causal


def _check_first_query(
    seen: int | None, q_offset: int | Tensor, structure: Structure | None
) -> None:
    """Compare the cache that the call was found to have with the one that the model made masks for.

    Whatever the reason that they differ, the bias would be that of other tokens. A mask that is not
    causal is no matter of the cache: some decoders make one for an encoder that they do not have.
    """
    if structure is not None and not structure.is_causal:
        return
    offset = on_host(q_offset)
    if seen is not None and offset is not None and seen != offset:
        raise RuntimeError(
            f"guide_bias must begin where the text of the call does, got a cache of {seen} "
            f"token(s) in its arguments, and a mask that the model makes behind {offset}; "
            "the model uses another cache than the one it was given"
        )


def _structure(mask_function: Callable[..., Any]) -> Structure | None:
    """Recognise the mask functions of transformers; None for any other."""
    if mask_function is masking_utils.causal_mask_function:
        return Structure(is_causal=True)
    if mask_function is masking_utils.bidirectional_mask_function:
        return Structure(is_causal=False)
    if torch.compiler.is_dynamo_compiling():
        return None  # dynamo cannot look into closures; generate() makes its masks outside
    parts = _closure(mask_function).get("mask_functions", ())
    if not getattr(mask_function, "__qualname__", "").startswith("and_masks") or len(parts) != 2:
        return None
    overlay, base = parts
    name = getattr(overlay, "__qualname__", "").split(".")[0]
    window = _closure(overlay).get("sliding_window")
    if not isinstance(window, int):
        return None
    if name == "sliding_window_overlay" and base is masking_utils.causal_mask_function:
        # Theirs: k > q − window. The op's: k ≥ q − window_left.
        return Structure(is_causal=True, window_left=window - 1)
    if (
        name == "sliding_window_bidirectional_overlay"
        and base is masking_utils.bidirectional_mask_function
    ):
        return Structure(is_causal=False, window_left=window, window_right=window)
    return None


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    names = code.co_freevars if code is not None else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
