# SPDX-License-Identifier: MIT
"""The weights of one query row, which attention itself never keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from guide_ext.op.checks import check_arguments
from guide_ext.op.chunked import MAX_BLOCK_K, ChunkedCall, saturated


def weights_of_last_row(
    query: Tensor,
    key: Tensor,
    key_bias: Tensor | None = None,
    attn_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_start: Tensor | None = None,
    *,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return what `biased_attention` multiplies each value by in its last query row.

    Scores are those of the chunked implementation, block by block: the order of scale, soft-cap,
    biases and masks is the same. It takes as much memory as the row has keys and heads.

    Args:
        query: As in `biased_attention`, like all that follow; at least one row.
        key: See `biased_attention`.
        key_bias: ``[1 or batch, 1 or num_heads, seqlen_k]``.
        attn_bias: See `biased_attention`.
        sinks: See `biased_attention`.
        q_start: See `biased_attention`.
        is_causal: See `biased_attention`.
        window_left: See `biased_attention`.
        window_right: See `biased_attention`.
        scale: See `biased_attention`.
        softcap: See `biased_attention`.

    Returns:
        ``weights``: ``[batch, num_heads, seqlen_k]``, float32 (float64 for float64 operands); 0 on
        keys that the row does not see. They sum to 1 less the share of the sink; to 0 where the row
        sees nothing.
        ``lse``: ``[batch, num_heads]``, as `biased_attention` returns it for this row.

    Raises:
        ValueError: If `biased_attention` would raise it, or there is no query or no key.

    Example:
        >>> import torch
        >>> query, key = torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8)
        >>> bias = torch.log(torch.tensor([[[1.0, 2.0, 1.0]]]))
        >>> weights_of_last_row(query, key, bias, is_causal=True)[0]
        tensor([[[0.2500, 0.5000, 0.2500]]])

    """
    call = ChunkedCall(
        query, key, key, key_bias, None, attn_bias, sinks, q_start,
        is_causal=is_causal, window_left=window_left, window_right=window_right, scale=scale,
        softcap=softcap,
    )  # fmt: skip
    check_arguments(call)
    rows = query.shape[2]
    if not rows or not key.shape[2]:
        raise ValueError(
            "query and key must have at least one row each, got "
            f"{list(query.shape)} and {list(key.shape)}"
        )
    last, every = slice(rows - 1, rows), slice(0, query.shape[0])
    folded = call.fold(query[:, :, last])
    # Every block has a score for each key, those that `key_blocks` would leave out included.
    keys = key.shape[2]
    blocks = [slice(at, min(at + MAX_BLOCK_K, keys)) for at in range(0, keys, MAX_BLOCK_K)]
    parts = [call.score(folded, every, last, block)[0] for block in blocks]
    score = torch.cat(parts, -1)[:, :, 0]
    terms = score
    if sinks is not None:
        sink = (
            saturated(sinks, call.dtype).to(call.dtype)[None, :, None].expand(*score.shape[:2], 1)
        )
        terms = torch.cat([score, sink], -1)
    lse = terms.logsumexp(-1)
    sees_nothing = (score == -torch.inf).all(-1)
    weights = (score - lse.masked_fill(sees_nothing, 0.0)[..., None]).exp()
    return weights, lse.masked_fill(sees_nothing, -torch.inf)
