# SPDX-License-Identifier: MIT
"""An exact share of attention: the oracle with the Δ that was found must agree, and need it."""

import numpy as np
import pytest
import torch
from attention_cases import Case, judge

from guide_ext.op.reference import biased_attention_reference
from guide_ext.op.share import attention_with_share

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


SPAN = slice(8, 48)  # marked, in a window of 16: rows 23 to 47 see marked keys alone
INFINITE = torch.inf


def degenerate(which):
    """Draw a call with 4 heads and 64 keys; return its tensors, marked keys and options."""
    case = Case(
        batch=1, num_heads=4, num_kv_heads=2, seqlen_q=64, seqlen_k=64, head_dim=16, head_dim_v=16,
        channels=2, influence_batch=1, key_bias=(1, 1), sinks=True,
    )  # fmt: skip
    tensors, options = case.tensors(), {"is_causal": True}
    marked = torch.zeros(1, 64, dtype=torch.bool)
    marked[:, SPAN] = True
    if which == "window in the span":
        options["window_left"] = 15
    elif which == "first keys marked":
        marked = torch.arange(64)[None] < 3
    elif which == "nothing visible":
        tensors["q_start"] = torch.tensor([-9], dtype=torch.int32)
    elif which == "all marked":
        marked[:] = True
    elif which == "none marked":
        marked[:] = False
    elif which == "others hidden":
        tensors["key_bias"] = torch.where(marked[:, None], tensors["key_bias"], -INFINITE)
    elif which == "marked hidden":
        tensors["key_bias"] = torch.where(marked[:, None], -INFINITE, tensors["key_bias"])
    elif which == "everything hidden":
        tensors["key_bias"] = torch.full((1, 1, 64), -INFINITE)
    elif which == "sinks of -inf":
        options["window_left"] = 15
        tensors["sinks"] = torch.tensor([-INFINITE, 1.0, -INFINITE, 0.0])
    elif which == "no sinks":
        options["window_left"] = 15
        tensors["sinks"] = None
    elif which == "sinks of half":
        options["window_left"] = 15
        tensors["sinks"] = tensors["sinks"].to(torch.bfloat16)
    return tensors, marked, options


DEGENERATE = (
    "window in the span", "first keys marked", "nothing visible", "all marked", "none marked",
    "others hidden", "marked hidden", "everything hidden", "sinks of -inf", "no sinks",
    "sinks of half",
)  # fmt: skip


def with_share(tensors, marked, min_share, options):
    arguments = {name: tensors[name] for name in ("key_bias", "influence", "sinks", "q_start")}
    operands = (tensors["query"], tensors["key"], tensors["value"])
    return attention_with_share(*operands, marked, min_share, **arguments, **options)


def by_whole_matrices(tensors, marked, min_share, options):
    """Set the weights to the share, in float64, as the definition says; differentiable."""
    every_key = torch.eye(tensors["key"].shape[2], dtype=torch.float64)[None]
    channels = biased_attention_reference(**{**tensors, "influence": every_key}, **options)[1]
    weight = channels.permute(0, 2, 3, 1)  # [batch, num_heads, seqlen_q, seqlen_k]
    others = (weight * ~marked[:, None, None]).sum(-1, keepdim=True)
    lse = biased_attention_reference(**tensors, **options)[2]
    if tensors["sinks"] is not None:
        sink = tensors["sinks"].double()[:, None] - lse
        others = others + torch.where(lse.isfinite(), sink, -INFINITE).exp()[..., None]
    present = (weight * marked[:, None, None]).sum(-1, keepdim=True)
    grows = (present > 0) & (others > 0) & (present < min_share)
    ours, theirs = min_share / present, (1 - min_share) / others
    weight = torch.where(grows, weight * torch.where(marked[:, None, None], ours, theirs), weight)
    group_size = tensors["query"].shape[1] // tensors["key"].shape[1]
    value = tensors["value"].double().repeat_interleave(group_size, 1)
    return weight @ value, torch.einsum("bhqk,bck->bchq", weight, tensors["influence"].double())


@pytest.mark.parametrize("which", DEGENERATE)
def test_a_share_of_nothing_changes_nothing(which):
    tensors, marked, options = degenerate(which)
    out, influence_out, lse, delta = with_share(tensors, marked, 0.0, options)
    judge(tensors, options, (out, influence_out, lse))
    assert delta.eq(0).all()


@pytest.mark.parametrize("min_share", [0.3, 0.9])
@pytest.mark.parametrize("which", DEGENERATE)
def test_degenerate_rows(assert_accurate, which, min_share):
    tensors, marked, options = degenerate(which)
    *results, delta = with_share(tensors, marked, min_share, options)
    judge({**tensors, "attn_bias": delta[..., None] * marked[:, None, None]}, options, results)
    expected = by_whole_matrices(tensors, marked, min_share, options)
    naive = by_whole_matrices(tensors, marked, np.float32(min_share).item(), options)
    for result, truth, other in zip(results, expected, naive, strict=False):
        assert_accurate(result, truth, other, which, at_least=1.0)


@pytest.mark.parametrize("min_share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("which", DEGENERATE)
def test_gradients(assert_accurate, which, min_share):
    """In float64, where what is left of the error is far below any mistake."""
    tensors, marked, options = degenerate(which)
    tensors = {n: t.double() if t is not None and t.is_floating_point() else t
               for n, t in tensors.items()}  # fmt: skip
    names = [n for n, t in tensors.items() if t is not None and t.is_floating_point()]
    leaves = [tensors[name].requires_grad_() for name in names]
    weights = [torch.randn(1, 4, 64, 16).double(), torch.randn(1, 2, 4, 64).double()]

    def gradients(results):
        loss = sum((r * w).sum() for r, w in zip(results, weights, strict=False))
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    found = gradients(with_share(tensors, marked, min_share, options)[:2])
    truths = gradients(by_whole_matrices(tensors, marked, min_share, options))
    for name, result, truth in zip(names, found, truths, strict=True):
        assert result.isfinite().all(), name
        # Where the oracle itself divides by 0, it is no truth.
        torch.testing.assert_close(torch.where(truth.isfinite(), result, truth), truth,
                                   equal_nan=True, msg=name)  # fmt: skip


def test_a_sink_beside_marked_keys_alone():
    query = key = torch.zeros(1, 1, 1, 8)
    value, marked, one = torch.ones(1, 1, 1, 8), torch.tensor([[True]]), torch.ones(1, 1)
    out, share, lse, delta = attention_with_share(
        query, key, value, marked, 0.9, None, one, torch.zeros(1)
    )
    torch.testing.assert_close(out, torch.full_like(out, 0.9))
    torch.testing.assert_close(share.flatten(), torch.tensor([0.9]))
    torch.testing.assert_close(delta.flatten().exp(), torch.tensor([9.0]))
    torch.testing.assert_close(lse.flatten().exp(), torch.tensor([10.0]))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("min_share", torch.tensor([0.1, 0.5, 0.9]), ValueError,
         r"min_share must be .* \[1 or batch\] = \[1 or 2\], got torch.float32 \[3\]"),
        ("min_share", torch.tensor([[0.1], [0.5]]), ValueError, r"got torch.float32 \[2, 1\]"),
        ("min_share", torch.tensor(0.5), ValueError, r"got torch.float32 \[\]"),
        ("min_share", torch.tensor([1]), ValueError, r"got torch.int64 \[1\]"),
        ("min_share", "0.3", TypeError, "min_share must be a number .* got str '0.3'"),
        ("min_share", None, TypeError, "min_share must be a number .* got None"),
        ("min_share", False, TypeError, "min_share must be a number .* got bool False"),
        ("min_share", [0.1, 0.5], TypeError, "min_share must be a number .* got list"),
        ("min_share", np.array([0.1, 0.5]), TypeError, "got numpy.ndarray"),
        ("marked", [[True] * 31], TypeError, "marked must be a torch.Tensor, bool, .* got list"),
        ("marked", np.ones((1, 31), bool), TypeError, "marked must be .* got numpy.ndarray"),
        ("marked", None, TypeError, "marked must be .* got None"),
        ("marked", torch.ones(1, 31, dtype=torch.bool, device="meta"), ValueError,
         "marked must be on the device of query, cpu, got meta"),
        ("query", np.zeros((2, 4, 33, 32)), TypeError,
         "attention_with_share: query must be a torch.Tensor, got numpy.ndarray"),
        ("sinks", [0.0] * 4, TypeError, "sinks must be a torch.Tensor or None, got list"),
        ("q_start", 3, TypeError, r"q_start must be .* got int 3; pass torch.tensor\(\[position\]"),
        ("window_left", None, TypeError, "window_left must be .* got None; pass -1 for no limit"),
        # Added to a mask, each of these would pass for another bias.
        ("key_bias", torch.zeros(2, 1), ValueError, "key_bias must be .* got shape"),
        ("key_bias", torch.zeros(2, 1, 31).half(), ValueError, "key_bias must be float32"),
    ],
)  # fmt: skip
def test_wrong_types(name, value, error, message):
    tensors = Case(seqlen_k=31).tensors()
    given = {n: tensors[n] for n in ("query", "key", "value")}
    given |= {"marked": torch.ones(1, 31, dtype=torch.bool), "min_share": 0.5, name: value}
    with pytest.raises(error, match=message):
        attention_with_share(**given)


def test_a_share_for_every_row_of_the_batch():
    tensors, marked, _ = run(Case(key_bias=None, channels=None), 0.0)
    operands = (tensors["query"], tensors["key"], tensors["value"])
    both = attention_with_share(*operands, marked, torch.tensor([0.2, 0.7]))
    for row, least in enumerate((0.2, 0.7)):
        alone = attention_with_share(
            *(t[row : row + 1] for t in operands), marked[row : row + 1], np.float32(least)
        )
        for result, other in zip(both, alone, strict=True):
            torch.testing.assert_close(result[row : row + 1], other)


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
