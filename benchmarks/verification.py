# SPDX-License-Identifier: MIT
"""Verifies what is timed: sampled rows against the float64 oracle, by the policy of the tests."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from attention_cases import TENSORS, naive_attention, oracle
from peers import Call, Results
from problems import Inputs
from tolerance import assert_accurate
from torch import Tensor

RANDOM_ROWS = 4  # beside the edges
# Evenly chosen, the first and the last among them. Decoding has few rows, so it has more heads.
PREFILLED_HEADS, DECODED_HEADS = 3, 5


class Truths(NamedTuple):
    """What the oracle and naive PyTorch say of rows ``[heads · rows, columns]``."""

    out: Tensor
    influence: Tensor
    naive_out: Tensor
    naive_influence: Tensor


class Judge:
    """Knows the truth of sampled rows of one problem, worked out once for all implementations."""

    def __init__(self, inputs: Inputs) -> None:
        """Choose heads and rows: the edges, and some at random."""
        self._inputs = inputs
        problem = inputs.problem
        last = problem.seqlen_q - 1
        drawn = torch.randint(problem.seqlen_q, (RANDOM_ROWS,)).tolist()
        self._rows = sorted({0, min(1, last), (last + 1) // 2, last, *drawn})
        count = DECODED_HEADS if problem.is_decode else PREFILLED_HEADS
        heads = {index * (problem.num_heads - 1) // (count - 1) for index in range(count)}
        self._places = [(head % problem.batch, head) for head in sorted(heads)]
        rows = torch.tensor(self._rows, device=inputs.query.device)
        positions = rows[:, None] + problem.seqlen_k - problem.seqlen_q
        keys = torch.arange(problem.seqlen_k, device=inputs.query.device)
        self._visible = torch.ones_like(keys <= positions)
        if problem.is_causal:
            self._visible &= keys <= positions
        if problem.window_left >= 0:
            self._visible &= keys >= positions - problem.window_left
        self._truths = functools.cache(self._find_truths)

    def verify(self, call: Call, results: Results) -> None:
        """Fail, in the words of the policy, if results are too far from the truth."""
        out, influence_out = results
        problem = self._inputs.problem
        dtype = call.judged_as or problem.dtype
        size = (problem.batch, problem.num_heads, problem.seqlen_q, problem.head_dim)
        if out.shape != size or not out.isfinite().all():
            pytest.fail(f"out: {out.shape}, expected {size} of finite numbers")
        where = f"of (batch, head) {self._places}, rows {self._rows}"
        truths = self._truths(call.is_biased, call.channels, dtype)
        found = torch.cat([out[batch, head, self._rows] for batch, head in self._places])
        self._assert(found.to(dtype), truths.out, truths.naive_out, f"out {where}")
        if call.channels == 0:
            return
        if influence_out is None:
            raise ValueError("influence was promised and not given")
        share = torch.cat([influence_out[b, :, head, self._rows].mT for b, head in self._places])
        if call.weighs_in_float32:
            truths = self._truths(call.is_biased, call.channels, torch.float32)
        else:  # peers may round it to the dtype of the operands
            share = share.to(call.judged_as or share.dtype)
        policy = truths.naive_influence.to(share.dtype)
        self._assert(share, truths.influence, policy, f"influence_out {where}")

    @staticmethod
    def _assert(actual: Tensor, exact: Tensor, naive: Tensor, name: str) -> None:
        """Apply the policy to rows ``[rows, columns]``, each in units of its own magnitude.

        Otherwise a causal row that sees one key, and is far larger than one that averages many,
        would allow the latter any error. Units are powers of two, so that nothing is rounded.
        """
        exponent = exact.abs().amax(-1, keepdim=True).log2().floor()
        unit = torch.exp2(exponent.clamp(-100, 100).nan_to_num(0.0))
        scaled = (actual / unit.to(actual.dtype), exact / unit, naive / unit.to(naive.dtype))
        assert_accurate(*scaled, name)

    def _find_truths(self, is_biased: bool, channels: int, dtype: torch.dtype) -> Truths:
        inputs, problem = self._inputs, self._inputs.problem
        found = []
        for batch, head in self._places:
            one = slice(batch, batch + 1)
            kv_head = head // problem.group_size
            tensors = dict.fromkeys(TENSORS) | {
                "query": inputs.query[one, head : head + 1, self._rows],
                "key": inputs.key[one, kv_head : kv_head + 1],
                "value": inputs.value[one, kv_head : kv_head + 1],
                "key_bias": inputs.key_bias[one] if is_biased else None,
                "influence": inputs.influence[one, :channels] if channels else None,
                "attn_bias": self._attn_bias(head),
            }
            exact, naive = oracle(tensors, {}), naive_attention(tensors, {}, dtype)
            found.append(
                (exact[0][0, 0], exact[1][0, :, 0].mT, naive[0][0, 0], naive[1][0, :, 0].mT)
            )
        return Truths(*map(torch.cat, zip(*found, strict=True)))

    def _attn_bias(self, head: int) -> Tensor:
        """Return what the sampled rows of a head see, and the dense bias of it if there is one."""
        if self._inputs.dense_bias is None:
            return self._visible[None, None]
        bias = self._inputs.dense_bias[:, head : head + 1, self._rows]
        return bias.masked_fill(~self._visible, -torch.inf)
