# SPDX-License-Identifier: MIT
"""Inputs for the op, and naive PyTorch to be compared with."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tolerance import assert_accurate
from torch import Tensor

from guide_ext.op.reference import biased_attention_reference

TENSORS = (
    "query", "key", "value", "key_bias", "influence", "attn_bias", "sinks", "q_start"
)  # fmt: skip
LARGEST_LSE = 2.3e38  # in magnitude, that every backend tells apart


@dataclass(frozen=True)
class Case:
    """Sizes of one call and which optional inputs it has."""

    batch: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    seqlen_q: int = 33
    seqlen_k: int = 65
    head_dim: int = 32
    head_dim_v: int = 32
    dtype: torch.dtype = torch.float32
    key_bias: tuple[int, int] | None = (2, 1)  # batch, heads
    channels: int | None = 1
    influence_batch: int = 2
    attn_bias: tuple[int, int] | None = None
    attn_bias_dtype: torch.dtype = torch.bool
    sinks: bool = False
    q_start: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> "Case":
        return replace(self, **changes)

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor | None]:
        """Draw the inputs."""
        sizes_k = (self.batch, self.num_kv_heads, self.seqlen_k)
        key_bias = influence = attn_bias = None
        if self.key_bias is not None:
            key_bias = 3 * torch.randn(*self.key_bias, self.seqlen_k)
        if self.channels is not None:
            influence = torch.rand(self.influence_batch, self.channels, self.seqlen_k)
        if self.attn_bias is not None:
            dense = torch.randn(*self.attn_bias, self.seqlen_q, self.seqlen_k)
            is_mask = self.attn_bias_dtype == torch.bool
            attn_bias = dense > -0.5 if is_mask else dense.to(self.attn_bias_dtype)
        start = None if self.q_start is None else torch.tensor(self.q_start, dtype=torch.int32)
        drawn = {
            "query": torch.randn(self.batch, self.num_heads, self.seqlen_q, self.head_dim),
            "key": torch.randn(*sizes_k, self.head_dim),
            "value": torch.randn(*sizes_k, self.head_dim_v),
        }
        drawn = {name: tensor.to(self.dtype) for name, tensor in drawn.items()}
        drawn |= {"key_bias": key_bias, "influence": influence, "attn_bias": attn_bias}
        drawn |= {"sinks": torch.randn(self.num_heads) if self.sinks else None, "q_start": start}
        return {name: None if t is None else t.to(device) for name, t in drawn.items()}


def oracle(tensors: dict[str, Tensor | None], options: dict[str, Any]) -> tuple[Tensor, ...]:
    return biased_attention_reference(**tensors, **options)


def naive_attention(
    tensors: dict[str, Tensor | None], options: dict[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what an eager transformers model does: products in `dtype`, softmax in float32."""
    softmax_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    query, key, value, key_bias, influence, attn_bias, sinks, q_start = (
        tensors[name] for name in TENSORS
    )
    batch, num_heads, seqlen_q, head_dim = query.shape
    seqlen_k, group_size = key.shape[2], num_heads // key.shape[1]
    key = key.to(dtype).repeat_interleave(group_size, 1)
    value = value.to(dtype).repeat_interleave(group_size, 1)
    scale = options.get("scale")
    scale = head_dim**-0.5 if scale is None else scale
    # In float64 the scale comes first: in the oracle's own order naive PyTorch would be exact.
    exact = dtype == torch.float64
    score = query * scale @ key.mT if exact else query.to(dtype) @ key.mT * scale
    if softcap := options.get("softcap", 0.0):
        score = torch.tanh(score / softcap) * softcap
    mask = _position_mask(q_start, seqlen_q, seqlen_k, options).to(query.device)
    if attn_bias is not None and attn_bias.dtype == torch.bool:
        mask = mask & attn_bias
    elif attn_bias is not None:
        score = score + attn_bias.to(dtype)
    if key_bias is not None:
        score = score + key_bias.to(dtype).unsqueeze(2)
    score = score.masked_fill(~mask, -torch.inf).to(softmax_dtype)
    hidden = (score == -torch.inf).all(-1, keepdim=True)
    everything = score
    if sinks is not None:
        sink = sinks.to(softmax_dtype).view(-1, 1, 1).expand(batch, num_heads, seqlen_q, 1)
        everything = torch.cat([score, sink], -1)
    lse = everything.logsumexp(-1, keepdim=True)
    prob = torch.exp(score - lse.masked_fill(hidden, 0.0)).masked_fill(hidden, 0.0)
    # Next to a bias of 1e38 the logarithm has no digit left for the keys.
    by_softmax = everything.masked_fill(hidden, 0.0).softmax(-1)[..., :seqlen_k]
    prob = torch.where(lse.masked_fill(hidden, 0.0).abs() > LARGEST_LSE, by_softmax, prob)
    marks = key.new_zeros(1, 0, seqlen_k) if influence is None else influence
    influence_out = torch.einsum(
        "bhqk,bck->bchq", prob, marks.to(softmax_dtype).expand(batch, -1, -1)
    )
    lse = lse.masked_fill(hidden, -torch.inf).squeeze(-1)
    return prob.to(dtype) @ value, influence_out, lse


def judge(
    tensors: dict[str, Tensor | None], options: dict[str, Any], results: Iterable[Tensor]
) -> list[Tensor]:
    """Judge out, influence_out and lse by the tolerance policy; give them back, on the CPU."""
    results = [result.cpu() for result in results]
    tensors = {name: None if t is None else t.cpu() for name, t in tensors.items()}
    dtype = tensors["query"].dtype
    single = torch.float64 if dtype == torch.float64 else torch.float32
    assert [result.dtype for result in results] == [dtype, single, single]
    truths = oracle(tensors, options)
    out_naive = naive_attention(tensors, options, dtype)[0]
    naives = (out_naive, *naive_attention(tensors, options, single)[1:])
    for result, truth, naive, (name, at_least) in zip(
        results, truths, naives, _MAGNITUDES.items(), strict=True
    ):
        if name == "lse":
            result, truth, naive = (_saturated(lse) for lse in (result, truth, naive))
        assert_accurate(result, truth, naive, name, at_least=at_least)
    return results


# See `tolerance.assert_accurate`: lse is a logarithm.
_MAGNITUDES = {"out": 0.0, "influence_out": 0.0, "lse": 1.0}


def _saturated(lse: Tensor) -> Tensor:
    """Bound the finite entries: biases beyond the bound saturate, and lse with them."""
    return torch.where(lse.isinf(), lse, lse.clamp(-LARGEST_LSE, LARGEST_LSE))


def _position_mask(
    q_start: Tensor | None, seqlen_q: int, seqlen_k: int, options: dict[str, Any]
) -> Tensor:
    starts = [seqlen_k - seqlen_q] if q_start is None else q_start.tolist()
    mask = torch.zeros(len(starts), 1, seqlen_q, seqlen_k, dtype=torch.bool)
    left, right = options.get("window_left", -1), options.get("window_right", -1)
    for batch_idx, start in enumerate(starts):
        for q_idx in range(seqlen_q):
            row = start + q_idx
            begin = max(0, row - left) if left >= 0 else 0
            end = row + 1 + right if right >= 0 else seqlen_k
            end = min(end, row + 1) if options.get("is_causal") else end
            mask[batch_idx, 0, q_idx, begin : max(0, end)] = True
    return mask
