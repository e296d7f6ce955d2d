# SPDX-License-Identifier: MIT
"""Attention with a bias and one influence channel, against what PyTorch offers for it.

Every implementation is verified against the float64 oracle before it is timed; none is judged by
its time. `sdpa` computes neither bias nor influence: it is the price of attention alone.

    python -m pytest benchmarks --benchmark-json=bench_results/attention.json
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from attention_cases import TENSORS, naive_attention, oracle
from tolerance import assert_accurate
from torch import Tensor

from guide_ext.attention import biased_attention


@dataclass(frozen=True)
class Shape:
    """One problem; causal, queries at the end of the keys."""

    dtype: torch.dtype
    batch: int
    num_heads: int
    num_kv_heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    device: str = "cpu"

    def __str__(self) -> str:
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return (
            f"{self.device}-{names[self.dtype]}-b{self.batch}-h{self.num_heads}"
            f"-kv{self.num_kv_heads}-q{self.seqlen_q}-k{self.seqlen_k}-d{self.head_dim}"
        )

    @property
    def flop(self) -> int:
        """Operations of the two matrix products over the visible (query, key) pairs."""
        hidden = self.seqlen_q * (self.seqlen_q - 1) // 2
        pairs = self.seqlen_q * self.seqlen_k - hidden
        return 4 * self.batch * self.num_heads * pairs * self.head_dim

    @property
    def bytes_of_keys(self) -> int:
        """Bytes of key and value: what a decode step has to read."""
        elements = self.batch * self.num_kv_heads * self.seqlen_k * self.head_dim
        return 2 * elements * self.dtype.itemsize


@dataclass(frozen=True)
class Inputs:
    query: Tensor
    key: Tensor
    value: Tensor
    key_bias: Tensor
    influence: Tensor


Result = tuple[Tensor, Tensor | None]
FP32, BF16 = torch.float32, torch.bfloat16
SHAPES = [
    Shape(FP32, 1, 8, 8, 512, 512, 64),
    Shape(BF16, 1, 8, 8, 512, 512, 64),
    Shape(FP32, 1, 8, 2, 1024, 1024, 128),
    Shape(BF16, 1, 8, 2, 1024, 1024, 128),
    Shape(FP32, 1, 32, 8, 1, 4096, 128),
    Shape(BF16, 1, 32, 8, 1, 4096, 128),
    Shape(BF16, 4, 8, 2, 1, 1024, 64),
]


def guide(inputs: Inputs) -> Result:
    """Run the op of this package."""
    out, influence_out, _ = biased_attention(
        inputs.query, inputs.key, inputs.value, inputs.key_bias, inputs.influence, is_causal=True
    )
    return out, influence_out


def sdpa(inputs: Inputs) -> Result:
    """Run plain attention: no bias, no influence."""
    query, key, value = inputs.query, inputs.key, inputs.value
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True
    ), None


def sdpa_mask(inputs: Inputs) -> Result:
    """Run SDPA with the bias in an additive mask: no influence."""
    mask = _hidden(inputs) + inputs.key_bias[:, :, None].to(inputs.query.dtype)
    return F.scaled_dot_product_attention(
        inputs.query, inputs.key, inputs.value, attn_mask=mask, enable_gqa=True
    ), None


def eager(inputs: Inputs) -> Result:
    """Do what eager models and the Influence metric do today: the whole matrix."""
    group_size = inputs.query.shape[1] // inputs.key.shape[1]
    key = inputs.key.repeat_interleave(group_size, 1)
    value = inputs.value.repeat_interleave(group_size, 1)
    score = inputs.query @ key.mT * inputs.query.shape[3] ** -0.5
    score = score + _hidden(inputs) + inputs.key_bias[:, :, None].to(score.dtype)
    prob = score.softmax(-1, dtype=torch.float32)
    influence_out = torch.einsum("bhqk,bck->bchq", prob, inputs.influence)
    return prob.to(value.dtype) @ value, influence_out


def _hidden(inputs: Inputs) -> Tensor:
    seqlen_q, seqlen_k = inputs.query.shape[2], inputs.key.shape[2]
    mask = inputs.query.new_full((seqlen_q, seqlen_k), -torch.inf)
    return mask.triu(seqlen_k - seqlen_q + 1)


IMPLEMENTATIONS: dict[str, Callable[[Inputs], Result]] = {
    "guide": guide,
    "sdpa": sdpa,
    "sdpa_mask": sdpa_mask,
    "eager": eager,
}


def _draw(shape: Shape) -> Inputs:
    def operand(heads: int, rows: int) -> Tensor:
        size = (shape.batch, heads, rows, shape.head_dim)
        return torch.randn(size, device=shape.device).to(shape.dtype)

    marked = torch.zeros(shape.batch, 1, shape.seqlen_k, device=shape.device)
    marked[:, :, shape.seqlen_k // 8 : shape.seqlen_k // 4] = 1.0
    return Inputs(
        operand(shape.num_heads, shape.seqlen_q),
        operand(shape.num_kv_heads, shape.seqlen_k),
        operand(shape.num_kv_heads, shape.seqlen_k),
        2.0 * marked,
        marked,
    )


def _verify(result: Result, inputs: Inputs, *, biased: bool) -> None:
    """Judge a result by the tolerance policy of the tests."""
    key_bias = inputs.key_bias if biased else None
    tensors = dict.fromkeys(TENSORS) | vars(inputs) | {"key_bias": key_bias}
    options = {"is_causal": True}
    exact = oracle(tensors, options)
    naive = naive_attention(tensors, options, inputs.query.dtype)
    assert_accurate(result[0], exact[0], naive[0], "out")
    if result[1] is not None:
        assert_accurate(result[1], exact[1], naive[1], "influence_out")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(benchmark, shape, implementation):
    inputs, run = _draw(shape), IMPLEMENTATIONS[implementation]
    with torch.inference_mode():
        _verify(run(inputs), inputs, biased=implementation != "sdpa")
        benchmark.group = str(shape)
        benchmark(run, inputs)
    if benchmark.stats is None:  # --benchmark-disable
        return
    median = benchmark.stats.stats.median
    benchmark.extra_info["gflop_per_s"] = shape.flop / median / 1e9
    benchmark.extra_info["key_gbyte_per_s"] = shape.bytes_of_keys / median / 1e9
