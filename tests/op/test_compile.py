# SPDX-License-Identifier: MIT
"""How often a call is compiled, and sizes that only the data of a run decides."""

import functools

import pytest
import torch
import torch.nn.functional as F
from attention_cases import Case
from torch._dynamo.testing import CompileCounterWithBackend

from guide_ext.op.attention import biased_attention
from guide_ext.op.share import attention_with_share

BATCH, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 3, 4, 2, 8


def _operands(seqlen_q=5, seqlen_k=9):
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randn, generator=generator)
    query = draw(BATCH, NUM_HEADS, seqlen_q, HEAD_DIM)
    key, value = (draw(BATCH, NUM_KV_HEADS, seqlen_k, HEAD_DIM) for _ in range(2))
    return query, key, value, draw(BATCH, seqlen_k)


def _compilations(function, calls, *, dynamic):
    """Compile, compare every call with eager, and return how often it was compiled by then."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=dynamic)
    counts = []
    for call in calls:
        torch.testing.assert_close(compiled(*call), function(*call))
        counts.append(counter.frame_count)
    return counts


# ---- how often


def _share(query, key, value, key_bias, min_share=0.3):
    return attention_with_share(query, key, value, key_bias > 0, min_share)


def _repeated(query, key, value, key_bias):
    for _ in range(3):
        query = biased_attention(F.silu(query), key, value, key_bias)[0]
    return query


def _biased_share(query, key, value, key_bias):
    return attention_with_share(query, key, value, key_bias > 0, 0.3, key_bias, window_left=3)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(_repeated, id="op"),
        pytest.param(_share, id="share"),
        pytest.param(_biased_share, id="biased share", marks=pytest.mark.long),
    ],
)
def test_defaults_are_compiled_once(function):
    assert _compilations(function, [_operands()] * 2, dynamic=True) == [1, 1]


CHANGING = {
    "window_left": lambda *call: biased_attention(*call[:4], window_left=call[4]),
    "window_right": lambda *call: biased_attention(*call[:4], window_right=call[4]),
    "both windows": lambda *call: biased_attention(
        *call[:4], window_left=call[4], window_right=call[4] + 1
    ),
    "share": lambda *call: attention_with_share(*call[:3], call[3] > 0, 0.3, window_left=call[4]),
    "biased share": lambda *call: attention_with_share(
        *call[:3], call[3] > 0, 0.3, call[3], window_left=call[4]
    ),
}


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(one, id=name, marks=[pytest.mark.long] if name == "biased share" else [])
        for name, one in CHANGING.items()
    ],
)
def test_a_window_that_changes_is_compiled_once(function):
    calls = [(*_operands(), window) for window in (3, 4, 2, 8, 1, 0, -1, 2**40)]
    assert _compilations(function, calls, dynamic=True) == [1] * 8
    # Without being told, torch takes the second value as the sign that there will be others.
    assert _compilations(function, calls, dynamic=None) == [1] + [2] * 7


def test_a_window_that_changes_in_training_is_compiled_once():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    function = CHANGING["window_left"]
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for window in (3, 4, 2, 8, -1):
        leaves = [tensor.requires_grad_() for tensor in _operands()]
        results, truths = (
            torch.autograd.grad(run(*leaves, window)[0].square().sum(), leaves)
            for run in (compiled, function)
        )
        for result, truth in zip(results, truths, strict=True):
            torch.testing.assert_close(result, truth)
    assert counter.frame_count == 1


def test_a_window_is_checked_when_it_comes():
    compiled = torch.compile(CHANGING["window_left"], backend="aot_eager", dynamic=True)
    compiled(*_operands(), 3)
    with pytest.raises(Exception, match=r"window_left must be -1 \(no limit\) or at least 0"):
        compiled(*_operands(), -2)


def test_a_share_that_changes_is_compiled_once():
    calls = [(*_operands(), share) for share in (0.3, 0.4, 0.5, 0.25)]
    assert _compilations(_share, calls, dynamic=True) == [1] * 4


def test_q_start_that_changes_is_compiled_once():
    def function(query, key, value, q_start):
        return biased_attention(query, key, value, q_start=q_start, is_causal=True)

    calls = [(*_operands()[:3], torch.tensor([start], dtype=torch.int32)) for start in (4, 3, 0)]
    assert _compilations(function, calls, dynamic=None) == [1] * 3


def test_keys_that_grow_are_compiled_once():
    def step(query, key, value, key_bias):
        return biased_attention(query, key, value, key_bias, is_causal=True, window_left=6)

    calls = [_operands(seqlen_q=1, seqlen_k=keys) for keys in (9, 10, 11, 40)]
    assert _compilations(step, calls, dynamic=True) == [1] * 4


# ---- sizes of data

traces_choices = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)

CHOOSE = {
    "batch": lambda query, key, value, bias, keep: (
        query[keep], key[keep], value[keep], bias[keep],
    ),
    "keys": lambda query, key, value, bias, keep: (
        query, key[:, :, keep], value[:, :, keep], bias[:, keep],
    ),
    "rows": lambda query, key, value, bias, keep: (query[:, :, keep], key, value, bias),
}  # fmt: skip
ATTEND = {
    "plain": lambda q, k, v, b: biased_attention(q, k, v, is_causal=True),
    "key_bias": lambda q, k, v, b: biased_attention(q, k, v, b),
    "one key_bias": lambda q, k, v, b: biased_attention(q, k, v, b[:1]),
    "influence": lambda q, k, v, b: biased_attention(q, k, v, b[:, None], b),
    "attn_bias": lambda q, k, v, b: biased_attention(
        q, k, v, attn_bias=b[:, None, None].expand(-1, -1, q.shape[2], -1)
    ),
    "q_start": lambda q, k, v, b: biased_attention(
        q, k, v, q_start=b.new_zeros(b.shape[0], dtype=torch.int32), is_causal=True
    ),
    "share": lambda q, k, v, b: attention_with_share(q, k, v, b > 0, 0.3),
    "shares": lambda q, k, v, b: attention_with_share(q, k, v, b > 0, b.new_full(b.shape[:1], 0.3)),
}
LENGTHS = {"batch": BATCH, "keys": 9, "rows": 5}


def _choices(size):
    """Some, all, one, none."""
    keep = torch.ones(size, dtype=torch.bool)
    keep[1] = False
    one = torch.zeros(size, dtype=torch.bool)
    one[2] = True
    return keep, torch.ones_like(keep), one, torch.zeros_like(keep)


class _Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *call):
        return self.function(*call)


def _chosen(attend, choose):
    return lambda *call: attend(*choose(*call))


@traces_choices
@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        pytest.param("batch", name, marks=[pytest.mark.long] if name in ("share", "shares") else [])
        for name in ATTEND
    ]
    + [("keys", name) for name in ("key_bias", "attn_bias", "share")]
    + [
        pytest.param("rows", name, marks=[pytest.mark.long] if name == "share" else [])
        for name in ("key_bias", "attn_bias", "share")
    ],
)
def test_sizes_of_data(chosen, name):
    function = _chosen(ATTEND[name], CHOOSE[chosen])
    calls = [(*_operands(), keep) for keep in _choices(LENGTHS[chosen])]
    if name == "one key_bias":
        calls.pop()  # of a batch of none there is no first
    assert set(_compilations(function, calls, dynamic=None)) == {1}
    program = torch.export.export(_Module(function), calls[0]).module()
    for call in calls:
        torch.testing.assert_close(program(*call), function(*call))


@traces_choices
def test_sizes_of_data_in_training():
    function = _chosen(ATTEND["influence"], CHOOSE["batch"])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for keep in _choices(BATCH)[:3]:
        leaves = [tensor.requires_grad_() for tensor in _operands()]
        results, truths = (
            torch.autograd.grad(sum(out.square().sum() for out in run(*leaves, keep)), leaves)
            for run in (compiled, function)
        )
        for result, truth in zip(results, truths, strict=True):
            torch.testing.assert_close(result, truth)


@traces_choices
def test_sizes_that_do_not_fit_are_found_when_they_come():
    """Two choices whose lengths no compiler can compare: equal ones work, others raise as ever."""

    def function(query, key, value, key_bias, keep, keep_bias):
        return biased_attention(query, key[:, :, keep], value[:, :, keep], key_bias[:, keep_bias])

    call = _operands()
    some, everything, one, _ = _choices(9)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(*call, some, some.flip(0)), function(*call, some, some.flip(0))
    )
    for wrong in (everything, one):
        with pytest.raises(ValueError, match=r"key_bias must be .* seqlen_k"):
            compiled(*call, some, wrong)


def test_export_of_a_window_that_changes():
    module = _Module(CHANGING["window_left"])
    program = torch.export.export(
        module, (*_operands(), 3), dynamic_shapes=((*[None] * 4, torch.export.Dim.DYNAMIC),)
    ).module()
    for window in (3, 5, 0, -1):
        torch.testing.assert_close(program(*_operands(), window), module(*_operands(), window))


def test_opcheck_of_the_allocation():
    tensor = Case(seqlen_q=3, seqlen_k=3).tensors()["query"]
    torch.library.opcheck(
        torch.ops.guide.new_empty_strided.default,
        (tensor, [2, 3], [3, 1], torch.float32),
        test_utils=("test_schema", "test_faketensor"),
    )
