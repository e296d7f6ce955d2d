# SPDX-License-Identifier: MIT
"""Attention that gives marked keys at least a stated share, exactly, row by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guide_ext.op.argument_types import check_types, described, is_number
from guide_ext.op.attention import biased_attention
from guide_ext.op.call import AttentionCall
from guide_ext.op.checks import broadcasts, check_arguments, holds
from guide_ext.op.chunked import saturated


def attention_with_share(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    marked: Tensor,
    min_share: float | Tensor,
    key_bias: Tensor | None = None,
    influence: Tensor | None = None,
    sinks: Tensor | None = None,
    q_start: Tensor | None = None,
    *,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    scale: float | None = None,
    softcap: float = 0,  # no float, as in `biased_attention`
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention with the smallest Δ ≥ 0 that gives the marked keys a stated share of each row.

    Every row of every head gets its own Δ. If the marked keys have share c of the weights, adding
    ``Δ = logit(min_share) - logit(c)`` nats raises it to `min_share`; if c is larger already, Δ is
    0. Two calls of `biased_attention`, one of the marked keys and one of all others, hold the
    answer for every Δ: their results are mixed by the share. Nothing n×n is allocated.

    Args:
        query: As in `biased_attention`, like all that is not explained here.
        key: See `biased_attention`.
        value: See `biased_attention`.
        marked: Marked keys, bool, ``[1 or batch, seqlen_k]``.
        min_share: Minimum share of the marked keys, from 0 to below 1; or a floating tensor
            ``[1 or batch]``, one for each row of the batch. A tensor is not read on the host, so
            its range is not checked.
        key_bias: See `biased_attention`; it is part of the weights whose share is raised.
        influence: See `biased_attention`.
        sinks: See `biased_attention`; they belong to what is not marked.
        q_start: See `biased_attention`.
        is_causal: See `biased_attention`.
        window_left: See `biased_attention`.
        window_right: See `biased_attention`.
        scale: See `biased_attention`.
        softcap: See `biased_attention`.

    Returns:
        ``out``, ``influence_out`` and ``lse`` as `biased_attention` returns them, with Δ;
        ``delta``: ``[batch, num_heads, seqlen_q]``, float32, nats. It is 0 for a row that
        sees no marked key, where no Δ would help, and for one that sees nothing else, not even a
        sink, where none is needed.

    Raises:
        ValueError: If `marked` or `min_share` is not of that kind, or as `biased_attention` does.
        TypeError: If an argument is no tensor or number where it must be one.

    Source:
        The aim is Spotlight's (attention steering by proportion), which adds log(min_share / c),
        averaged over heads and rows, and falls short of the share: for c = 0.1 and 0.3 it gets
        0.25.

    Example:
        >>> import torch
        >>> query, key, value = (torch.zeros(1, 1, rows, 8) for rows in (1, 4, 4))
        >>> marked = torch.tensor([[True, False, False, False]])
        >>> attention_with_share(query, key, value, marked, 0.75)[3].exp()    # from 1/4 to 3/4
        tensor([[[9.]]])

    """
    check_types(
        "attention_with_share",
        (query, key, value),
        (key_bias, influence, sinks, q_start),
        is_causal,
        window_left,
        window_right,
        scale,
        softcap,
    )
    _check(query, key, marked, min_share)
    if key_bias is not None:  # before it is added to something that would hide its faults
        key_bias = key_bias[:, None] if key_bias.dim() == 2 else key_bias
        check_arguments(
            AttentionCall(
                *(query, key, value, key_bias, None, None, sinks, q_start),
                window_left=window_left,
                window_right=window_right,
                scale=scale,
                softcap=softcap,
            )
        )
    visible = torch.zeros(marked.shape, dtype=torch.float32, device=marked.device)

    def attend(hidden: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mask = visible.masked_fill(hidden, -math.inf)[:, None]
        if key_bias is not None:
            mask = key_bias + mask
        return biased_attention(
            *(query, key, value, mask, influence),
            sinks=sinks,
            q_start=q_start,
            is_causal=is_causal,
            window_left=window_left,
            window_right=window_right,
            scale=scale,
            softcap=softcap,
        )

    out_marked, influence_marked, lse_marked = attend(~marked, None)
    out_rest, influence_rest, lse_rest = attend(marked, sinks)
    if sinks is not None:
        lse_rest = _with_lone_sinks(lse_rest, lse_marked, sinks)
    delta, share = _raise_share(lse_marked - lse_rest, min_share)
    if influence is not None:
        influence_marked = torch.lerp(influence_rest, influence_marked, share[:, None])
    return (
        _mix(out_marked, out_rest, share[..., None]),
        influence_marked,
        torch.logaddexp(lse_marked + delta, lse_rest),
        delta,
    )


def _with_lone_sinks(lse_rest: Tensor, lse_marked: Tensor, sinks: Tensor) -> Tensor:
    """Count the sink in rows whose visible keys are all marked: the op's lse says -inf of them."""
    alone = (lse_rest == -math.inf) & (lse_marked != -math.inf)
    sink = saturated(sinks, lse_rest.dtype).to(lse_rest.dtype)[:, None]
    return torch.where(alone, sink, lse_rest)


def _raise_share(log_odds: Tensor, min_share: float | Tensor) -> tuple[Tensor, Tensor]:
    """Find the Δ of each row, and the share of the marked keys with it.

    Args:
        log_odds: Of the marked keys against the rest, ``[batch, num_heads, seqlen_q]``; NaN for a
            row that sees nothing.
        min_share: See `attention_with_share`.

    """
    zero = log_odds.new_zeros(())
    # A sum keeps a number out of compiled code, which as_tensor would make for each.
    wanted = min_share.to(log_odds) if isinstance(min_share, Tensor) else zero + min_share
    wanted = torch.logit(wanted).view(-1, 1, 1)
    can_grow = (log_odds > -math.inf) & (log_odds < wanted)  # of NaN, neither is true
    delta = torch.where(can_grow, wanted - log_odds, zero)
    return delta, torch.sigmoid(log_odds + delta).nan_to_num(0.0)


def _mix(of_marked: Tensor, of_rest: Tensor, share: Tensor) -> Tensor:
    """Mix two outputs of the op, in its memory order."""
    if of_marked.dtype == share.dtype:
        mixed = torch.lerp(of_rest, of_marked, share)
    else:
        mixed = torch.lerp(of_rest.to(share), of_marked.to(share), share).to(of_marked.dtype)
    return mixed.transpose(1, 2).contiguous().transpose(1, 2)


def _check(query: Tensor, key: Tensor, marked: object, min_share: object) -> None:
    if not isinstance(marked, Tensor):
        raise TypeError(
            "attention_with_share: marked must be a torch.Tensor, bool, [1 or batch, seqlen_k], "
            f"got {described(marked)}; pass torch.tensor(...)"
        )
    is_fitting = (
        key.dim() == 4
        and marked.dim() == 2
        and broadcasts(marked.shape[0], key.shape[0])
        and holds(marked.shape[1] == key.shape[2])
    )
    if marked.dtype != torch.bool or not is_fitting:
        shape = f"[1 or {key.shape[0]}, {key.shape[2]}]" if key.dim() == 4 else "[..]"
        raise ValueError(
            f"attention_with_share: marked must be bool, [1 or batch, seqlen_k] = {shape}, got "
            f"{marked.dtype} {list(marked.shape)}"
        )
    if marked.device != query.device:
        raise ValueError(
            f"attention_with_share: marked must be on the device of query, {query.device}, got "
            f"{marked.device}"
        )
    if isinstance(min_share, Tensor):
        batch = key.shape[0]
        if (
            min_share.dim() != 1
            or not broadcasts(min_share.shape[0], batch)
            or not min_share.is_floating_point()
        ):
            raise ValueError(
                "attention_with_share: min_share must be a number, or floating [1 or batch] = "
                f"[1 or {batch}], got {min_share.dtype} {list(min_share.shape)}"
            )
    elif not is_number(min_share):
        raise TypeError(
            "attention_with_share: min_share must be a number from 0 to below 1, or a floating "
            f"tensor [1 or batch], got {described(min_share)}"
        )
    elif not 0 <= min_share < 1:  # type: ignore[operator]
        raise ValueError(
            f"attention_with_share: min_share must be from 0 to below 1, got {min_share!r}"
        )
