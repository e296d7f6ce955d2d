# SPDX-License-Identifier: MIT
"""The oracle: what `biased_attention` means, in plain float64 PyTorch.

Tests compare every backend with this page, so it shares no code with any of them. It allocates the
whole ``[batch, num_heads, seqlen_q, seqlen_k]`` matrix: use it to understand the op and to test.
"""

from __future__ import annotations

import torch
from torch import Tensor


def biased_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    influence: Tensor | None = None,
    attn_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_start: Tensor | None = None,
    *,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `guide_ext.attention.biased_attention` does, exactly and wastefully.

    Args:
        query: ``[batch, num_heads, seqlen_q, head_dim]``, any floating dtype; see
            `guide_ext.attention.biased_attention` for the meaning of this and all that follows.
        key: ``[batch, num_kv_heads, seqlen_k, head_dim]``.
        value: ``[batch, num_kv_heads, seqlen_k, head_dim_v]``.
        key_bias: ``[1 or batch, 1 or num_heads, seqlen_k]``, nats.
        influence: ``[1 or batch, channels, seqlen_k]``.
        attn_bias: ``[1 or batch, 1 or num_heads, seqlen_q, seqlen_k]``, bool or floating.
        sinks: ``[num_heads]``, nats.
        q_start: ``[1 or batch]``, position on the key axis of query row 0.
        is_causal: Row ``i`` sees keys up to ``q_start + i``.
        window_left: Keys that a row sees to its left, -1 for all.
        window_right: Keys that a row sees to its right, -1 for all.
        scale: Factor of the dot product, default ``1 / sqrt(head_dim)``.
        softcap: Score cap, 0 for none.

    Returns:
        ``out`` ``[batch, num_heads, seqlen_q, head_dim_v]``, ``influence_out``
        ``[batch, channels, num_heads, seqlen_q]`` (0 channels without influence) and ``lse``
        ``[batch, num_heads, seqlen_q]``, all float64.

    Example:
        >>> import torch
        >>> query = key = value = torch.zeros(1, 1, 2, 4)
        >>> marked = torch.tensor([[[1.0, 0.0]]])
        >>> biased_attention_reference(query, key, value, influence=marked)[1]
        tensor([[[[0.5000, 0.5000]]]], dtype=torch.float64)

    """
    batch, num_heads, seqlen_q, head_dim = query.shape
    seqlen_k, group_size = key.shape[2], num_heads // key.shape[1]
    k = key.double().repeat_interleave(group_size, dim=1)
    v = value.double().repeat_interleave(group_size, dim=1)
    score = query.double() @ k.mT * (head_dim**-0.5 if scale is None else scale)
    if softcap:
        score = softcap * torch.tanh(score / softcap)
    if key_bias is not None:
        score = score + key_bias.double()[:, :, None, :]

    start = torch.tensor([seqlen_k - seqlen_q]) if q_start is None else q_start
    start = start.to(query.device).long().view(-1, 1, 1, 1)
    row = start + torch.arange(seqlen_q, device=query.device)[:, None]
    ahead = torch.arange(seqlen_k, device=query.device) - row
    visible = torch.ones_like(score, dtype=torch.bool)
    if is_causal:
        visible = visible & (ahead <= 0)
    if window_left >= 0:
        visible = visible & (ahead >= -window_left)
    if window_right >= 0:
        visible = visible & (ahead <= window_right)
    if attn_bias is not None and attn_bias.dtype == torch.bool:
        visible = visible & attn_bias
    elif attn_bias is not None:
        score = score + attn_bias.double()
    score = score.masked_fill(~visible, -torch.inf)

    sees_nothing = (score == -torch.inf).all(-1, keepdim=True)
    sink = sinks.double()[:, None, None] if sinks is not None else score.new_tensor(-torch.inf)
    everything = torch.cat([score, sink.expand(batch, num_heads, seqlen_q, 1)], dim=-1)
    lse = everything.logsumexp(-1, keepdim=True).masked_fill(sees_nothing, -torch.inf)
    # Not exp(score - lse): next to a bias of 1e38 the logarithm has no digit left for the keys.
    prob = everything.masked_fill(sees_nothing, 0.0).softmax(dim=-1)
    prob = prob.masked_fill(sees_nothing, 0.0)[..., :seqlen_k]
    marks = key.new_zeros(1, 0, seqlen_k) if influence is None else influence
    influence_out = torch.einsum("bhqk,bck->bchq", prob, marks.double().expand(batch, -1, -1))
    return prob @ v, influence_out, lse.squeeze(-1)
