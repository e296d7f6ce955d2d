# SPDX-License-Identifier: MIT
"""The mask functions behind ``attn_implementation="guide"`` and ``"guide_dense"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import masking_utils

from guide_ext.integration.call.caches import on_host
from guide_ext.integration.call.carrier import Structure, pack
from guide_ext.integration.call.frame import Frame, Slots, current


def guide_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor:
    """Put bias, padding, causality and window of a call into one carrier.

    Key j of a layer is slot ``kv_offset + j`` of the padded batch, and query i is slot
    ``q_offset + i``; this holds for every cache of transformers.

    A mask of another structure (packed, chunked, blockwise, a caller's overlay) is not a carrier
    but a full table: bool (True = visible), or float32 if there is a bias, which is added to it.

    Source:
        The arguments are those of `transformers.masking_utils.sdpa_mask`.

    """
    frame = current()
    bias = _bias_of_keys(
        frame, kwargs.get("config"), batch_size, kv_length, kv_offset, q_offset, device
    )
    structure = _structure(mask_function)
    if frame is not None and bias is not None:
        frame.applied = True
        _check_first_query(frame.first_query, q_offset, structure)
    if structure is not None:
        strength = frame.strength if frame is not None and bias is not None else None
        if strength is not None:
            strength = strength.to(device)
        share = frame.share if frame is not None and bias is not None else None
        if share is not None:
            share = _of_keys(share, kv_length, kv_offset, device)
        return pack(
            structure,
            q_offset - kv_offset,
            batch_size,
            device,
            _with_padding(bias, attention_mask, kv_length, kv_offset),
            strength,
            kv_offset,
            share,
        )
    visible = _visible_table(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        device, bool(kwargs.get("use_vmap", False)),
    )  # fmt: skip
    if bias is None:
        return visible
    if frame is not None and frame.share is not None:
        raise ValueError(
            "guide_share must go with a causal or sliding-window mask, got a packed, chunked, "
            "blockwise or custom one; give the marked text a guide_bias instead"
        )
    if frame is not None and frame.strength is not None:
        raise ValueError(
            "guide_strength must go with a causal or sliding-window mask, got a packed, chunked, "
            "blockwise or custom one; steer all layers and heads, or drop the custom mask"
        )
    if frame is not None:
        frame.folded_lengths.add(kv_length)
    return torch.where(visible, bias[:, None, None, :], torch.finfo(torch.float32).min)


def guide_dense_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor:
    """Make the mask that eager attention gets, for models that rework their mask.

    The bias is not in it, because such a model may test the mask for zero, or keep its largest
    entries. It is left in the frame, from where the attention function adds it.
    """
    frame = current()
    bias = _bias_of_keys(
        frame, kwargs.get("config"), batch_size, kv_length, kv_offset, q_offset, device
    )
    if frame is not None and bias is not None:
        if frame.share is not None:
            raise ValueError(
                "guide_share must go to a model that leaves its mask as it is, got one that "
                "reworks it; give the marked text a guide_bias instead"
            )
        _check_first_query(frame.first_query, q_offset, _structure(mask_function))
        frame.bias_by_length[kv_length] = bias
    visible = _visible_table(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        device, bool(kwargs.get("use_vmap", False)),
    )  # fmt: skip
    dtype = kwargs.get("dtype") or torch.float32
    nothing = torch.zeros((), dtype=dtype, device=device)
    return torch.where(visible, nothing, torch.finfo(dtype).min)


def _bias_of_keys(
    frame: Frame | None,
    config: object,
    batch: int,
    kv_length: int,
    kv_offset: int,
    q_offset: int | Tensor,
    device: torch.device | str,
) -> Tensor | None:
    """Return the bias of the keys of this mask, ``[batch, seqlen_k]``, or None if unsteered.

    Also note in the frame where keys and queries lie.
    """
    if frame is None:
        return None
    if frame.recorder is not None:
        frame.recorder.configs.append(config)
    frame.slots_by_length[kv_length] = Slots(kv_offset, q_offset)
    bias = frame.bias_for(config)
    if bias is None:
        return None
    if bias.shape[0] != batch:
        raise ValueError(
            f"guide_bias must have one row per row of the batch, {batch}, got {bias.shape[0]}"
        )
    return _of_keys(bias, kv_length, kv_offset, device)


def _check_first_query(
    seen: int | None, q_offset: int | Tensor, structure: Structure | None
) -> None:
    """Check that the call's cache has as many tokens as the mask of the model assumes.

    If they differ, for whatever reason, the bias would go to the wrong tokens. A mask that is not
    causal is not checked, because it does not depend on the cache: some decoders make one for an
    encoder that they do not have.

    Raises:
        RuntimeError: If the numbers differ.

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


def _of_keys(slots: Tensor, kv_length: int, kv_offset: int, device: torch.device | str) -> Tensor:
    """Return the numbers of the keys of a mask, given one per slot; ``[batch, seqlen_k]``."""
    end = kv_offset + kv_length
    # 0 for generated tokens, which have no number, and for slots of a static cache not yet filled.
    missing = max(end - slots.shape[1], 0)
    return F.pad(slots.to(device), (0, missing))[:, kv_offset:end]


def _with_padding(
    bias: Tensor | None, attention_mask: Tensor | None, kv_length: int, kv_offset: int
) -> Tensor | None:
    """Hide padded keys: −inf in the bias. None if there is neither bias nor padding."""
    if attention_mask is None:
        return bias
    end = kv_offset + kv_length
    padded = F.pad(attention_mask, (0, max(end - attention_mask.shape[1], 0)))
    hidden = ~padded[:, kv_offset:end].bool()
    if bias is None:
        bias = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    return bias.masked_fill(hidden, float("-inf"))


def _visible_table(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    kv_offset: int,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None,
    device: torch.device | str,
    use_vmap: bool,
) -> Tensor:
    """Evaluate a mask function for every query and key: bool ``[batch, 1, seqlen_q, seqlen_k]``."""
    table: Tensor = masking_utils.sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
        use_vmap=use_vmap,
        device=device,
    )
    return table


def _structure(mask_function: Callable[..., Any]) -> Structure | None:
    """Return the structure of a mask function of transformers; None for any other function."""
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
