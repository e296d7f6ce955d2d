# SPDX-License-Identifier: MIT
"""An exact share of attention: the oracle with the Δ that was found must agree, and need it."""

import pytest
import torch
from attention_cases import Case, judge

from guide_ext.share import attention_with_share

CASES = {
    "plain": Case(key_bias=None),
    "decode": Case(seqlen_q=1, seqlen_k=70),
    "causal": Case(seqlen_q=33, seqlen_k=70, options={"is_causal": True}),
    "grouped, sinks": Case(seqlen_q=20, seqlen_k=70, sinks=True, channels=2),
    "capped window": Case(
        seqlen_q=40, seqlen_k=70, options={"is_causal": True, "window_left": 9, "softcap": 2.0}
    ),
    "bias of heads": Case(seqlen_q=9, seqlen_k=31, key_bias=(2, 4), dtype=torch.bfloat16),
    "double": Case(seqlen_q=9, seqlen_k=31, dtype=torch.float64),
}


def run(case, min_share, marked=None):
    tensors = case.tensors()
    batch, seqlen_k = tensors["key"].shape[0], tensors["key"].shape[2]
    if marked is None:
        marked = torch.zeros(batch, seqlen_k, dtype=torch.bool)
        marked[0, 3:7] = True
        marked[-1, 20:22] = True
    arguments = {name: tensors[name] for name in ("key_bias", "influence", "sinks", "q_start")}
    operands = (tensors["query"], tensors["key"], tensors["value"])
    results = attention_with_share(*operands, marked, min_share, **arguments, **case.options)
    return tensors, marked, results


@pytest.mark.parametrize("min_share", [0.0, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equal_to_the_oracle_with_that_delta(case, min_share):
    tensors, marked, (out, influence_out, lse, delta) = run(case, min_share)
    bias = delta[..., None] * marked[:, None, None]
    with_delta = {**tensors, "attn_bias": bias}
    judge(with_delta, case.options, (out, influence_out, lse))
    assert (delta >= 0).all()
    assert (delta > 0).any() == (min_share > 0)
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_share_is_reached_and_not_passed(case):
    """Measured by an influence of 1 on marked keys; a row that has more gets no Δ."""
    min_share = 0.3
    tensors, marked, _ = run(case, 0.0)
    tensors["influence"] = marked[:, None].float()
    arguments = {name: tensors[name] for name in ("key_bias", "influence", "sinks", "q_start")}
    operands = (tensors["query"], tensors["key"], tensors["value"])

    def share_and_delta(least):
        _, share, _, delta = attention_with_share(
            *operands, marked, least, **arguments, **case.options
        )
        return share[:, 0], delta

    before, _ = share_and_delta(0.0)
    after, delta = share_and_delta(min_share)
    sees_marked, grown = before > 0, delta > 0
    assert sees_marked.any()
    assert torch.equal(grown, sees_marked & (before < min_share) & (before < 1))
    torch.testing.assert_close(after[grown], torch.full_like(after[grown], min_share))
    assert torch.equal(after[~grown], before[~grown])


def test_rows_that_see_one_kind_of_keys():
    case = Case(seqlen_q=4, seqlen_k=4, options={"is_causal": True}, key_bias=None)
    marked = torch.tensor([[True, True, False, False]])
    _, _, (out, _, _, delta) = run(case, 0.9999, marked)
    assert delta[:, :, :2].eq(0).all()  # nothing but marked keys
    assert delta[:, :, 2:].gt(0).all()
    assert out.isfinite().all()
    nothing = run(case, 0.9, torch.zeros(1, 4, dtype=torch.bool))[2]
    assert nothing[3].eq(0).all()
    hidden = run(case.but(options={"is_causal": True}, q_start=(-9,)), 0.9, marked)[2]
    assert hidden[0].eq(0).all()
    assert hidden[2].eq(-torch.inf).all()


@pytest.mark.parametrize(
    ("marked", "min_share", "message"),
    [
        (torch.ones(2, 3, dtype=torch.bool), 0.5, "marked must be bool, .* = .*, got"),
        (torch.ones(1, 31), 0.5, "marked must be bool"),
        (None, 1.0, r"min_share must be from 0 to below 1, got 1\.0"),
        (None, -0.1, "min_share must be from 0 to below 1"),
        (None, float("nan"), "min_share must be from 0 to below 1, got nan"),
    ],
)
def test_refusals(marked, min_share, message):
    with pytest.raises(ValueError, match=message):
        run(Case(seqlen_k=31), min_share, marked)
