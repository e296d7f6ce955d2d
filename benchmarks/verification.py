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


class Judge:
    """Knows the truth of sampled rows of one problem, worked out once for all implementations."""

    def __init__(self, inputs: Inputs) -> None:
        """Choose heads and rows: the edges, and some at random."""
        self._inputs = inputs
        problem = inputs.problem
        last = problem.seqlen_q - 1
        drawn = torch.randint(problem.seqlen_q, (RANDOM_ROWS,)).tolist()
        self._rows = sorted({0, min(1, last), (last + 1) // 2, last, *drawn})
        self._places = sorted({(0, 0), (problem.batch - 1, problem.num_heads - 1)})
        self._truths = functools.cache(self._find_truths)

    def verify(self, call: Call, results: Results) -> None:
        """Fail, in the words of the policy, if results are too far from the truth."""
        out, influence_out = results
        problem, dtype = self._inputs.problem, self._inputs.problem.dtype
        size = (problem.batch, problem.num_heads, problem.seqlen_q, problem.head_dim)
        if out.shape != size or not out.isfinite().all():
            pytest.fail(f"out: {out.shape}, expected {size} of finite numbers")
        for batch, head in self._places:
            exact, naive = self._truths(batch, head, call.is_biased, call.channels, dtype)
            # Row by row: the floor of the policy is a share of the largest output, and a causal
            # row that sees one key is far larger than one that averages many.
            for index, row in enumerate(self._rows):
                here, at = slice(row, row + 1), slice(index, index + 1)
                where = f"of head {head}, row {row}"
                actual = out[batch : batch + 1, head : head + 1, here]
                truth, policy = exact[0][:, :, at], naive[0][:, :, at]
                assert_accurate(actual, truth, policy, f"out {where}")
                if call.channels == 0:
                    continue
                if influence_out is None:
                    raise ValueError("influence was promised and not given")
                share = influence_out[batch : batch + 1, :, head : head + 1, here]
                if call.weighs_in_float32:
                    key = (batch, head, call.is_biased, call.channels, torch.float32)
                    policy = self._truths(*key)[1][1][..., at]
                else:  # peers may round it to the dtype of the operands
                    policy = naive[1][..., at].to(share.dtype)
                assert_accurate(share, exact[1][..., at], policy, f"influence_out {where}")

    def _find_truths(
        self, batch: int, head: int, is_biased: bool, channels: int, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what the oracle says, and what naive PyTorch gets in a dtype."""
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
        return oracle(tensors, {}), naive_attention(tensors, {}, dtype)
