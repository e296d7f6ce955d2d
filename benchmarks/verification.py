# SPDX-License-Identifier: MIT
"""Verifies what is timed: sampled rows against the float64 oracle, by the policy of the tests."""

from __future__ import annotations

import functools

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
        self._truths = functools.cache(self._find_truths)

    def verify(self, call: Call, results: Results) -> None:
        """Fail, in the words of the policy, if results are too far from the truth."""
        out, influence_out = results
        problem = self._inputs.problem
        dtype = call.judged_as or problem.dtype
        size = (problem.batch, problem.num_heads, problem.seqlen_q, problem.head_dim)
        if out.shape != size or not out.isfinite().all():
            pytest.fail(f"out: {out.shape}, expected {size} of finite numbers")
        for batch, head in self._places:
            where = f"of head {head}, rows {self._rows}"
            exact, naive = self._truths(batch, head, call.is_biased, call.channels, dtype)
            self._assert(out[batch, head, self._rows].to(dtype), exact[0], naive[0], f"out {where}")
            if call.channels == 0:
                continue
            if influence_out is None:
                raise ValueError("influence was promised and not given")
            share = influence_out[batch, :, head, self._rows].mT
            if call.weighs_in_float32:
                key = (batch, head, call.is_biased, call.channels, torch.float32)
                policy = self._truths(*key)[1][1]
            else:  # peers may round it to the dtype of the operands
                share = share.to(call.judged_as or share.dtype)
                policy = naive[1].to(share.dtype)
            self._assert(share, exact[1], policy, f"influence_out {where}")

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

    def _find_truths(
        self, batch: int, head: int, is_biased: bool, channels: int, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return out and influence by rows: what the oracle says, what naive PyTorch gets."""
        inputs, problem = self._inputs, self._inputs.problem
        one = slice(batch, batch + 1)
        kv_head = head // problem.group_size
        tensors = dict.fromkeys(TENSORS) | {
            "query": inputs.query[one, head : head + 1, self._rows],
            "key": inputs.key[one, kv_head : kv_head + 1],
            "value": inputs.value[one, kv_head : kv_head + 1],
            "key_bias": inputs.key_bias[one] if is_biased else None,
            "influence": inputs.influence[one, :channels] if channels else None,
        }
        if problem.is_causal:
            rows = torch.tensor(self._rows, device=inputs.query.device)
            positions = rows[:, None] + problem.seqlen_k - problem.seqlen_q
            keys = torch.arange(problem.seqlen_k, device=inputs.query.device)
            tensors["attn_bias"] = (keys <= positions)[None, None]
        found = []
        for out, influence_out, _ in (oracle(tensors, {}), naive_attention(tensors, {}, dtype)):
            found.append((out[0, 0], influence_out[0, :, 0].mT))
        return found[0], found[1]
