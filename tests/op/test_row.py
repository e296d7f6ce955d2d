# SPDX-License-Identifier: MIT
"""The weights of one row beside the oracle, which sums up a channel for every key."""

import pytest
import torch
from attention_cases import Case, naive_attention, oracle
from tolerance import INFLUENCE

from guide_ext.attention import biased_attention
from guide_ext.op.row import weights_of_last_row

CASES = {
    "plain": Case(key_bias=None),
    "decode": Case(seqlen_q=1, seqlen_k=70),
    "causal": Case(seqlen_q=33, seqlen_k=70, options={"is_causal": True}),
    "grouped, sinks": Case(seqlen_q=20, seqlen_k=70, sinks=True),
    "capped window": Case(
        seqlen_q=40, seqlen_k=70, options={"is_causal": True, "window_left": 9, "softcap": 2.0}
    ),
    "two blocks": Case(seqlen_q=3, seqlen_k=513, options={"is_causal": True, "scale": 0.3}),
    "bias of heads": Case(seqlen_q=9, seqlen_k=31, key_bias=(2, 4), dtype=torch.bfloat16),
    "dense": Case(seqlen_q=9, seqlen_k=31, attn_bias=(1, 4), key_bias=None),
    "dense, floating": Case(
        seqlen_q=9, seqlen_k=31, attn_bias=(2, 1), attn_bias_dtype=torch.float32
    ),
    "double": Case(seqlen_q=9, seqlen_k=31, dtype=torch.float64),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_beside_the_oracle(case, assert_accurate):
    tensors = case.tensors()
    keys = tensors["key"].shape[2]
    given = {k: v for k, v in tensors.items() if k not in ("value", "influence")}
    weights, lse = weights_of_last_row(**given, **case.options)
    tensors["influence"] = torch.eye(keys)[None]
    rows = {}
    for name, results in (
        ("oracle", oracle(tensors, case.options)),
        ("naive", naive_attention(tensors, case.options, lse.dtype)),
    ):
        rows[name] = results[1][..., -1].mT, results[2][..., -1]
    for found, name, at_least, index in ((weights, "weights", 1.0, 0), (lse, "lse", 1.0, 1)):
        assert_accurate(found, rows["oracle"][index], rows["naive"][index], name, at_least=at_least)


def test_what_a_row_does_not_see():
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    nothing = torch.full((1, 1, 5), -torch.inf)
    weights, lse = weights_of_last_row(query, key, nothing, sinks=torch.zeros(2))
    assert not weights.any()
    assert (lse == -torch.inf).all()
    seen, _ = weights_of_last_row(query, key, is_causal=True, q_start=torch.tensor([1]).int())
    assert (seen[..., 4] == 0).all()
    assert torch.allclose(seen.sum(-1), torch.ones(1, 2))


def test_equal_to_what_the_op_does_with_values():
    query, key, value = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    out, _, lse = biased_attention(query, key, value, is_causal=True, window_left=3)
    weights, own = weights_of_last_row(query, key, is_causal=True, window_left=3)
    wanted = weights[:, :, None] @ value.repeat_interleave(2, 1)
    assert torch.allclose(out[:, :, -1:], wanted, atol=INFLUENCE)
    assert torch.allclose(lse[:, :, -1], own, atol=INFLUENCE)


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [(0, 3, "at least one row"), (3, 0, "at least one row")],
)
def test_errors(queries, keys, message):
    with pytest.raises(ValueError, match=message):
        weights_of_last_row(torch.zeros(1, 1, queries, 8), torch.zeros(1, 1, keys, 8))
    with pytest.raises(ValueError, match="biased_attention: key"):
        weights_of_last_row(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 9))
