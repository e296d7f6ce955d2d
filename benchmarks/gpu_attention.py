# SPDX-License-Identifier: MIT
"""What is timed on a GPU: problems, this package, and what PyTorch offers for the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from attention_cases import TENSORS, naive_attention, oracle
from tolerance import assert_accurate
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from guide_ext.attention import biased_attention, explain_dispatch

# A dense mask or matrix beyond this is not worth waiting for.
LARGEST_MATRIX = 8 << 30


class UnavailableError(Exception):
    """Why an implementation cannot take a problem."""


@dataclass(frozen=True)
class Problem:
    """Sizes of one forward call; queries stand at the end of the keys."""

    batch: int
    num_heads: int
    num_kv_heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    is_causal: bool
    dtype: torch.dtype = torch.bfloat16
    times_flex: bool = False  # it compiles for seconds a problem

    def __str__(self) -> str:
        """Give an id that reads."""
        dtype = {torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        return (
            f"{dtype}-b{self.batch}-h{self.num_heads}-kv{self.num_kv_heads}-q{self.seqlen_q}"
            f"-k{self.seqlen_k}-d{self.head_dim}-{'causal' if self.is_causal else 'full'}"
        )

    @property
    def flop(self) -> int:
        """Operations of the two matrix products over the visible pairs."""
        hidden = self.seqlen_q * (self.seqlen_q - 1) // 2 if self.is_causal else 0
        pairs = self.seqlen_q * self.seqlen_k - hidden
        return 4 * self.batch * self.num_heads * pairs * self.head_dim

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one 16-bit score matrix per head."""
        return 2 * self.batch * self.num_heads * self.seqlen_q * self.seqlen_k


def prefill(batch: int, heads: int, seqlen: int, head_dim: int, **options: Any) -> list[Problem]:
    """Make the full and the causal problem of one size."""
    kv_heads = options.pop("num_kv_heads", heads)
    return [
        Problem(batch, heads, kv_heads, seqlen, seqlen, head_dim, is_causal, **options)
        for is_causal in (False, True)
    ]


# Most important first: a run that is out of time leaves the end out.
PROBLEMS = [
    *prefill(2, 32, 8192, 128, times_flex=True),
    *prefill(4, 32, 4096, 128),
    *prefill(2, 32, 8192, 64, times_flex=True),
    *prefill(2, 16, 8192, 256),
    *prefill(16, 32, 1024, 128),
    *prefill(2, 32, 8192, 128, num_kv_heads=8),
    *prefill(1, 32, 32768, 128),
    *prefill(2, 32, 8192, 128, dtype=torch.float16),
    # The kernel has no split over the keys yet: what decoding costs without one.
    Problem(4, 32, 8, 1, 8192, 128, is_causal=True),
    Problem(4, 32, 8, 16, 8192, 128, is_causal=True),
]
SMOKE = [*prefill(1, 4, 65, 32, num_kv_heads=2), Problem(1, 2, 1, 1, 70, 64, is_causal=True)]


@dataclass(frozen=True)
class Inputs:
    """Operands, a bias on an eighth of the keys, and eight channels of influence."""

    problem: Problem
    query: Tensor
    key: Tensor
    value: Tensor
    key_bias: Tensor
    influence: Tensor

    @classmethod
    def draw(cls, problem: Problem, device: torch.device) -> Inputs:
        """Draw them on a device."""

        def operand(heads: int, rows: int) -> Tensor:
            size = (problem.batch, heads, rows, problem.head_dim)
            return torch.randn(size, device=device, dtype=problem.dtype)

        seqlen_k = problem.seqlen_k
        key_bias = torch.zeros(problem.batch, 1, seqlen_k, device=device)
        key_bias[:, :, seqlen_k // 8 : seqlen_k // 4] = 2.0
        return cls(
            problem,
            operand(problem.num_heads, problem.seqlen_q),
            operand(problem.num_kv_heads, seqlen_k),
            operand(problem.num_kv_heads, seqlen_k),
            key_bias,
            torch.rand(problem.batch, 8, seqlen_k, device=device),
        )


@dataclass(frozen=True)
class Call:
    """One implementation on one problem: what it computes, and how to run it.

    `run` gives out and, with `channels`, influence_out ``[batch, channels, heads, seqlen_q]``, of
    scores and weights in float32 or, as peers do it, in the dtype of the operands.
    """

    run: Callable[[], tuple[Tensor, Tensor | None]]
    is_biased: bool
    channels: int
    weighs_in_float32: bool = False


def guide(inputs: Inputs, *, is_biased: bool = True, channels: int = 1) -> Call:
    """Run the op of this package; its kernels, where the inputs are on a GPU."""
    key_bias = inputs.key_bias if is_biased else None
    influence = inputs.influence[:, :channels].contiguous() if channels else None
    served = explain_dispatch(inputs.query, inputs.key, inputs.value, key_bias, influence)
    if inputs.query.is_cuda and not served.kernel.startswith("cuda/"):
        raise RuntimeError(f"no CUDA kernel serves this call: {served}")

    def run() -> tuple[Tensor, Tensor | None]:
        out, influence_out, _ = biased_attention(
            *(inputs.query, inputs.key, inputs.value, key_bias, influence),
            is_causal=inputs.problem.is_causal,
        )
        return out, influence_out if channels else None

    return Call(run, is_biased, channels, weighs_in_float32=True)


def sdpa(inputs: Inputs, *, backend: SDPBackend, is_biased: bool = False) -> Call:
    """Run one backend of SDPA; a bias is a dense mask there, which holds the causal mask too."""
    problem, mask = inputs.problem, None
    is_causal = problem.is_causal and problem.seqlen_q > 1
    if problem.is_causal and 1 < problem.seqlen_q < problem.seqlen_k:
        raise UnavailableError("SDPA's causal mask is aligned to the top left")
    if inputs.query.device.type != "cuda" and backend is not SDPBackend.MATH:
        raise UnavailableError("needs a GPU")
    if is_biased:
        mask = _dense_mask(inputs)
        is_causal = False
    key, value = inputs.key, inputs.value
    takes_groups = backend is not SDPBackend.EFFICIENT_ATTENTION
    if not takes_groups:  # expanded beforehand, in its favour
        groups = problem.num_heads // problem.num_kv_heads
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))

    def run() -> tuple[Tensor, None]:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                *(inputs.query, key, value),
                attn_mask=mask, is_causal=is_causal, enable_gqa=takes_groups,
            ), None  # fmt: skip

    return Call(run, is_biased, 0)


def flex(inputs: Inputs, *, channels: int = 0) -> Call:
    """Run FlexAttention with the bias; with influence in a second pass, whose values it is."""
    if inputs.query.device.type != "cuda":
        raise UnavailableError("needs a GPU")
    if not inputs.problem.times_flex:
        raise UnavailableError("compiles for seconds: timed at the first sizes only")
    from torch.nn.attention.flex_attention import create_block_mask

    problem, bias = inputs.problem, inputs.key_bias[:, 0]
    offset = problem.seqlen_k - problem.seqlen_q
    compiled = _compiled_flex()
    block_mask = None
    if problem.is_causal:
        block_mask = create_block_mask(
            lambda b, h, q, k: k <= q + offset,
            *(None, None, problem.seqlen_q, problem.seqlen_k),
            device="cuda",
        )

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + bias[b, k]

    options = {"score_mod": score_mod, "block_mask": block_mask, "enable_gqa": True}
    width = 16  # the narrowest values that it takes
    marks = inputs.influence[:, :1, :, None].to(problem.dtype)
    marks = marks.expand(-1, problem.num_kv_heads, -1, width).contiguous()

    def run() -> tuple[Tensor, Tensor | None]:
        out = compiled(inputs.query, inputs.key, inputs.value, **options)
        if not channels:
            return out, None
        return out, compiled(inputs.query, inputs.key, marks, **options)[None, ..., 0].movedim(0, 1)

    return Call(run, True, channels)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled


def eager(inputs: Inputs) -> Call:
    """Do what eager models and the Influence metric do today: the whole matrix, in float32."""
    if 4 * inputs.problem.matrix_bytes > LARGEST_MATRIX:
        raise UnavailableError("the matrix of every head does not fit")
    mask = _dense_mask(inputs)
    groups = inputs.problem.num_heads // inputs.problem.num_kv_heads
    key, value = (t.repeat_interleave(groups, 1) for t in (inputs.key, inputs.value))

    def run() -> tuple[Tensor, Tensor]:
        score = inputs.query @ key.mT * inputs.query.shape[3] ** -0.5 + mask
        prob = score.softmax(-1, dtype=torch.float32)
        share = torch.einsum("bhqk,bck->bchq", prob, inputs.influence[:, :1])
        return prob.to(value.dtype) @ value, share

    return Call(run, True, 1)


def _dense_mask(inputs: Inputs) -> Tensor:
    problem = inputs.problem
    if inputs.problem.matrix_bytes // problem.num_heads > LARGEST_MATRIX:
        raise UnavailableError("the dense mask does not fit")
    mask = inputs.key_bias[:, :, None].to(problem.dtype)
    if problem.is_causal:
        hidden = mask.new_full((problem.seqlen_q, problem.seqlen_k), -torch.inf)
        return mask + hidden.triu(problem.seqlen_k - problem.seqlen_q + 1)
    return mask.expand(-1, -1, problem.seqlen_q, -1)


IMPLEMENTATIONS: dict[str, Callable[[Inputs], Call]] = {
    "guide, bias + 1 channel": guide,
    "guide, neither": functools.partial(guide, is_biased=False, channels=0),
    "guide, bias": functools.partial(guide, channels=0),
    "guide, bias + 2 channels": functools.partial(guide, channels=2),
    "guide, bias + 8 channels": functools.partial(guide, channels=8),
    "SDPA flash, neither": functools.partial(sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "SDPA cuDNN, neither": functools.partial(sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "SDPA efficient, dense bias": functools.partial(
        sdpa, backend=SDPBackend.EFFICIENT_ATTENTION, is_biased=True
    ),
    "Flex, bias": flex,
    "Flex, bias + 1 channel": functools.partial(flex, channels=1),
    "eager, bias + 1 channel": eager,
}


def verify(call: Call, inputs: Inputs) -> None:
    """Compare sampled rows with the float64 oracle, by the tolerance policy of the tests."""
    out, influence_out = call.run()
    problem = inputs.problem
    group_size = problem.num_heads // problem.num_kv_heads
    rows = sorted({0, 1 % problem.seqlen_q, problem.seqlen_q // 2, problem.seqlen_q - 1})
    for head in {0, problem.num_heads - 1}:
        keys = slice(head // group_size, head // group_size + 1)
        for row in rows:
            start = problem.seqlen_k - problem.seqlen_q + row
            tensors = dict.fromkeys(TENSORS) | {
                "query": inputs.query[-1:, head : head + 1, row : row + 1],
                "key": inputs.key[-1:, keys],
                "value": inputs.value[-1:, keys],
                "key_bias": inputs.key_bias[-1:] if call.is_biased else None,
                "influence": inputs.influence[-1:, : call.channels] if call.channels else None,
                "q_start": torch.tensor([start], dtype=torch.int32, device=out.device),
            }
            options = {"is_causal": problem.is_causal}
            exact = oracle(tensors, options)
            naive = naive_attention(tensors, options, problem.dtype)
            actual = out[-1:, head : head + 1, row : row + 1]
            assert_accurate(actual, exact[0], naive[0], f"out of head {head}, row {row}")
            if influence_out is None:
                continue
            share = influence_out[-1:, :, head : head + 1, row : row + 1]
            if call.weighs_in_float32:
                naive = naive_attention(tensors, options, torch.float32)
            # Flex rounds it to the dtype of the operands.
            policy = naive[1].to(share.dtype)
            assert_accurate(share, exact[1], policy, f"influence_out of head {head}, row {row}")
