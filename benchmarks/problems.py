# SPDX-License-Identifier: MIT
"""Problems that are timed, and inputs for them; for every device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


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
    has_dense_bias: bool = False  # a number for every pair of every head, of the problem itself
    window_left: int = -1
    channels: int = 1

    def __str__(self) -> str:
        """Give an id that reads."""
        parts = [
            f"{DTYPE_NAMES[self.dtype]}-b{self.batch}-h{self.num_heads}-kv{self.num_kv_heads}",
            f"q{self.seqlen_q}-k{self.seqlen_k}-d{self.head_dim}",
            "causal" if self.is_causal else "full",
        ]
        if self.window_left >= 0:
            parts.append(f"w{self.window_left}")
        if self.has_dense_bias:
            parts.append("dense")
        if self.channels != 1:
            parts.append(f"c{self.channels}")
        return "-".join(parts)

    @property
    def is_decode(self) -> bool:
        """Whether reading the keys and values, rather than arithmetic, is the work."""
        return self.seqlen_q < min(32, self.seqlen_k)

    @property
    def group_size(self) -> int:
        """Query heads that share a head of keys."""
        return self.num_heads // self.num_kv_heads

    @property
    def flop(self) -> int:
        """Operations of the two matrix products over the visible pairs."""
        pairs = self.seqlen_q * self.seqlen_k
        if self.is_causal:
            pairs -= _triangle(self.seqlen_q - 1)
        if self.window_left >= 0:  # the last row leaves the most keys behind, a row before one less
            most = self.seqlen_k - 1 - self.window_left
            pairs -= _triangle(most) - _triangle(most - self.seqlen_q)
        return 4 * self.batch * self.num_heads * pairs * self.head_dim

    @property
    def key_value_bytes(self) -> int:
        """Bytes of key and value: what a decode step has to read."""
        keys = self.seqlen_k
        if self.window_left >= 0:
            keys = min(keys, self.window_left + self.seqlen_q)
        elements = self.batch * self.num_kv_heads * keys * self.head_dim
        return 2 * elements * self.dtype.itemsize

    @property
    def scores(self) -> int:
        """Elements of the score matrices of all heads."""
        return self.batch * self.num_heads * self.seqlen_q * self.seqlen_k


def _triangle(rows: int) -> int:
    return max(0, rows) * (rows + 1) // 2


def prefill(batch: int, heads: int, seqlen: int, head_dim: int, **options: Any) -> list[Problem]:
    """Make the full and the causal problem of one size."""
    kv_heads = options.pop("num_kv_heads", heads)
    return [
        Problem(batch, heads, kv_heads, seqlen, seqlen, head_dim, is_causal, **options)
        for is_causal in (False, True)
    ]


@dataclass(frozen=True)
class Inputs:
    """Operands, a bias on an eighth of the keys, and eight channels of influence or more.

    `dense_bias` is that of the problem, ``[1, num_heads, seqlen_q, seqlen_k]``, if it has one.
    """

    problem: Problem
    query: Tensor
    key: Tensor
    value: Tensor
    key_bias: Tensor
    influence: Tensor
    dense_bias: Tensor | None = None

    @classmethod
    def draw(cls, problem: Problem, device: torch.device) -> Inputs:
        """Draw them on a device."""

        def operand(heads: int, rows: int) -> Tensor:
            size = (problem.batch, heads, rows, problem.head_dim)
            return torch.randn(size, device=device, dtype=problem.dtype)

        seqlen_k = problem.seqlen_k
        key_bias = torch.zeros(problem.batch, 1, seqlen_k, device=device)
        key_bias[:, :, seqlen_k // 8 : seqlen_k // 4] = 2.0
        dense_size = (1, problem.num_heads, problem.seqlen_q, seqlen_k)
        return cls(
            problem,
            operand(problem.num_heads, problem.seqlen_q),
            operand(problem.num_kv_heads, seqlen_k),
            operand(problem.num_kv_heads, seqlen_k),
            key_bias,
            torch.rand(problem.batch, max(8, problem.channels), seqlen_k, device=device),
            torch.randn(dense_size, device=device, dtype=problem.dtype)
            if problem.has_dense_bias
            else None,
        )
