# SPDX-License-Identifier: MIT
"""The compiled gradients on the CPU: instruction sets, sizes, strides, threads, NaN, checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_cases import TENSORS, Case, naive_attention, oracle
from tolerance import ROUNDED_LSE_FACTOR

from guide_ext.op import chunked_backward, libraries
from guide_ext.op.attention import explain_dispatch

ROOT = Path(__file__).resolve().parents[2]
STATUS = libraries.library_status()
pytestmark = pytest.mark.skipif(not STATUS.loaded, reason=STATUS.reason)

FLOATING = TENSORS[:-1]
PLAIN = {"is_causal": False, "window_left": -1, "window_right": -1, "scale": None, "softcap": 0.0}
forward = torch.ops.guide.biased_attention
CAUSAL = {"is_causal": True}


def _draw(case):
    """Draw inputs, and what reaches the outputs; a row that sees nothing has no finite lse."""
    tensors = case.tensors()
    outputs = forward(*tensors.values(), **case.options)
    gradients = [torch.randn(o.shape, dtype=o.dtype) for o in outputs]
    return tensors, outputs, gradients


def _wanted(tensors):
    return [
        tensors[name] is not None and name != "attn_bias" for name in FLOATING
    ]  # attn_bias: not by the kernel


def _backward(tensors, outputs, gradients, options, wanted=None, op=None):
    op = op or torch.ops.guide.biased_attention_backward
    results = op(
        *gradients, *tensors.values(), *outputs, **{**PLAIN, **options},
        wanted=wanted or _wanted(tensors),
    )  # fmt: skip
    return {
        name: result
        for name, result, want in zip(FLOATING, results, wanted or _wanted(tensors), strict=True)
        if want
    }


def _autograd(run, tensors, names, gradients):
    leaves = {n: t.detach().requires_grad_() if n in names else t for n, t in tensors.items()}
    total = sum(
        (o.nan_to_num(neginf=0.0).double() * g.double()).sum()
        for o, g in zip(run(leaves), gradients, strict=True)
    )
    inputs = [leaves[name] for name in names]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def _judge(case, tensors, outputs, gradients, results, assert_accurate):
    blind = outputs[2].isinf()
    gradients = [gradients[0], gradients[1], gradients[2].masked_fill(blind, 0.0)]
    double = {n: t.double() if n in results else t for n, t in tensors.items()}
    truths = _autograd(lambda t: oracle(t, case.options), double, results, gradients)
    naives = _autograd(
        lambda t: naive_attention(t, case.options, case.dtype), tensors, results, gradients
    )
    for (name, result), truth, naive in zip(results.items(), truths, naives, strict=True):
        assert result.dtype == tensors[name].dtype
        assert result.is_contiguous()
        assert_accurate(*(result, truth, naive, f"gradient of {name}"), factor=ROUNDED_LSE_FACTOR)


@pytest.fixture
def check(assert_accurate):
    """Run a case and judge its gradients; give them back."""

    def run(case):
        tensors, outputs, gradients = _draw(case)
        results = _backward(tensors, outputs, gradients, case.options)
        _judge(case, tensors, outputs, gradients, results, assert_accurate)
        return results

    return run


# ---- instruction sets and threads

CHILD = """
import sys, torch
from guide_ext.op import libraries, registration
calls, answers = torch.load(sys.argv[1]), []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    answers.append([torch.ops.guide.biased_attention_backward(*t, **o) for t, o in calls])
torch.save((libraries.library_status().instruction_set, answers), sys.argv[2])
"""

# Each stresses one part: several blocks of keys and rows, ragged ones, tasks that wait for each
# other, rows and keys that nobody sees, scores that lse does not tell.
SHARP_CASES = {
    "many tasks": Case(seqlen_q=330, seqlen_k=400, num_kv_heads=1, channels=2, options=CAUSAL),
    "full": Case(seqlen_q=130, seqlen_k=300, head_dim=64, head_dim_v=40, key_bias=(1, 4)),
    "ragged": Case(seqlen_q=67, seqlen_k=259, head_dim=40, head_dim_v=9, channels=3, sinks=True,
                   influence_batch=1, options=CAUSAL),
    "window": Case(seqlen_q=300, seqlen_k=300, options={"window_left": 40, "window_right": 3}),
    "softcap": Case(seqlen_q=65, seqlen_k=129, options={"softcap": 2.0, "window_left": 40}),
    "empty rows": Case(seqlen_q=150, seqlen_k=40, sinks=True, options=CAUSAL),
    "dense mask": Case(seqlen_q=70, seqlen_k=140, attn_bias=(2, 4), q_start=(3, 21),
                       options={"is_causal": True, "window_right": 5}),
    "dense bias": Case(seqlen_q=70, seqlen_k=140, attn_bias=(1, 1),
                       attn_bias_dtype=torch.bfloat16, options={"softcap": 3.0}),
    "large scores": Case(seqlen_q=70, seqlen_k=140, options={"scale": 8.0}),
    "large heads": Case(seqlen_q=30, seqlen_k=90, head_dim=300, head_dim_v=200, options=CAUSAL),
    "one row": Case(seqlen_q=1, seqlen_k=700, sinks=True, key_bias=(2, 4)),
    "bf16": Case(dtype=torch.bfloat16, head_dim=128, head_dim_v=128, seqlen_q=70, seqlen_k=140),
    "bf16, odd": Case(dtype=torch.bfloat16, head_dim=33, head_dim_v=17, seqlen_q=70, seqlen_k=131,
                      channels=3, options={"is_causal": True, "window_left": 50}),
    "fp16": Case(dtype=torch.float16, head_dim=24, head_dim_v=20, seqlen_q=70, seqlen_k=140,
                 sinks=True),
}  # fmt: skip


@pytest.mark.parametrize(
    "instruction_set", ["amx", "avx512bf16", "avx512", "avx2", "neon", "portable"]
)
def test_every_instruction_set_is_right_with_any_number_of_threads(
    instruction_set, tmp_path, assert_accurate
):
    drawn = {name: _draw(case) for name, case in SHARP_CASES.items()}
    calls = [
        (
            (*gradients, *tensors.values(), *outputs),
            {**PLAIN, **SHARP_CASES[name].options, "wanted": _wanted(tensors)},
        )
        for name, (tensors, outputs, gradients) in drawn.items()
    ]
    torch.save(calls, tmp_path / "calls.pt")
    environment = os.environ | {"GUIDE_EXT_CPU_ISA": instruction_set, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "calls.pt"), str(tmp_path / "answers.pt")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "must name an instruction set that was built" in child.stderr:
        pytest.skip(f"this build or this processor has no {instruction_set}")
    assert child.returncode == 0, child.stderr
    used, (alone, *threaded) = torch.load(tmp_path / "answers.pt")
    assert used == instruction_set
    for index, (name, (tensors, outputs, gradients)) in enumerate(drawn.items()):
        results = {
            part: result
            for part, result, want in zip(FLOATING, alone[index], _wanted(tensors), strict=True)
            if want
        }
        _judge(SHARP_CASES[name], tensors, outputs, gradients, results, assert_accurate)
        for answers in threaded:
            for first, other in zip(alone[index], answers[index], strict=True):
                assert torch.equal(first, other), f"{name}: depends on the threads"


# ---- sizes

# One, edges of tiles (4 or 8 rows, 8 to 32 keys) and blocks (64 rows, 128 keys), primes.
LENGTHS = [
    (1, 1), (1, 131), (7, 9), (8, 32), (9, 33), (31, 17), (63, 127), (64, 128), (65, 129),
    (129, 64), (131, 5), (5, 300), (200, 257),
]  # fmt: skip
VISIBLE = {
    "full": {},
    "causal": CAUSAL,
    "causal-window": {"is_causal": True, "window_left": 17},
    "both": {"window_left": 0, "window_right": 0},
}


@pytest.mark.parametrize("options", VISIBLE.values(), ids=VISIBLE)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lengths(check, lengths, options):
    check(Case(seqlen_q=lengths[0], seqlen_k=lengths[1], head_dim=16, options=options))


@pytest.mark.parametrize(
    "dims", [(1, 1), (3, 5), (16, 32), (33, 17), (64, 80), (129, 8), (8, 257), (512, 512)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_dims(check, dims, dtype):
    check(Case(head_dim=dims[0], head_dim_v=dims[1], dtype=dtype, options=CAUSAL))


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (8, 1), (6, 2)], ids=str)
@pytest.mark.parametrize("key_bias", [(1, 1), (2, 1), (1, "heads"), (2, "heads")], ids=str)
@pytest.mark.parametrize("influence_batch", [1, 2])
def test_sums_over_what_is_shared(assert_accurate, heads, key_bias, influence_batch):
    key_bias = tuple(heads[0] if size == "heads" else size for size in key_bias)
    case = Case(num_heads=heads[0], num_kv_heads=heads[1], key_bias=key_bias, channels=2,
                influence_batch=influence_batch)  # fmt: skip
    tensors, _, gradients = _draw(case)
    tensors["key_bias"] /= 4  # sums of many rows: lse is small, and its rounding with it
    outputs = forward(*tensors.values())
    results = _backward(tensors, outputs, gradients, {})
    _judge(case, tensors, outputs, gradients, results, assert_accurate)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"seqlen_q": 0}, {"seqlen_k": 0}], ids=str)
def test_empty_calls(sizes):
    case = Case(sinks=True, key_bias=(1, 1), influence_batch=1).but(**sizes)
    tensors, outputs, gradients = _draw(case)
    for name, result in _backward(tensors, outputs, gradients, {}).items():
        assert result.shape == tensors[name].shape
        assert result.count_nonzero() == 0


@pytest.mark.parametrize("scale", [4.0, 30.0, -30.0])
def test_scores_that_a_rounded_lse_does_not_tell(check, scale):
    """Beyond some lse the kernel sums the scores once more."""
    check(Case(options={"scale": scale, "is_causal": True}, seqlen_k=150))


@pytest.mark.parametrize("shift", [0.0, 900.0, -900.0])
def test_weights_of_a_row_sum_to_one_whatever_lse_is(assert_accurate, shift):
    """Those of one row are the gradient of the values, where a one reaches every result."""
    case = Case(seqlen_q=1, num_kv_heads=4, key_bias=(2, 4), channels=None)
    tensors = case.tensors()
    tensors["key_bias"] = tensors["key_bias"] / 4 + shift
    outputs = forward(*tensors.values())
    gradients = [torch.ones_like(outputs[0]), None, None]
    sums = _backward(tensors, outputs, gradients, {})["value"].double().sum(2).float()
    ones = torch.ones_like(sums)
    assert_accurate(sums, ones.double(), ones, "sum of the weights")


@pytest.mark.parametrize("shift", [80.0, -80.0])
def test_sinks_beside_scores_that_are_summed_once_more(assert_accurate, shift):
    case = Case(sinks=True, options=CAUSAL, seqlen_k=150)
    tensors, _, gradients = _draw(case)
    tensors["key_bias"] = tensors["key_bias"] / 4 + shift
    tensors["sinks"] += shift + 2
    outputs = forward(*tensors.values(), **case.options)
    results = _backward(tensors, outputs, gradients, case.options)
    _judge(case, tensors, outputs, gradients, results, assert_accurate)


def test_a_row_whose_lse_is_large_changes_no_bit_of_the_others():
    case = Case(key_bias=None, channels=None)
    tensors, outputs, gradients = _draw(case)
    expected = _backward(tensors, outputs, gradients, {})["query"]
    tensors["query"][:, :, 5] *= 200.0
    outputs = forward(*tensors.values())
    assert outputs[2][:, :, 5].abs().max() > 64
    result = _backward(tensors, outputs, gradients, {})["query"]
    others = [row for row in range(33) if row != 5]
    assert torch.equal(result[:, :, others], expected[:, :, others])


# ---- how tensors lie


def test_strides_change_no_bit():
    case = Case(sinks=True, attn_bias=(2, 4), channels=2, options=CAUSAL)
    tensors, outputs, gradients = _draw(case)
    expected = _backward(tensors, outputs, gradients, case.options)

    def apart(tensor):
        """Give every dimension but a dense last one a stride of its own, heads before rows."""
        if tensor is None or tensor.dim() < 2:
            return tensor if tensor is None else torch.stack([tensor, tensor], -1)[..., 0]
        swapped = tensor.transpose(1, -2).contiguous() if tensor.dim() == 4 else tensor
        wide = torch.cat([swapped, swapped], -1)[..., : tensor.shape[-1]]
        return wide.transpose(1, -2) if tensor.dim() == 4 else wide

    moved = {name: apart(tensor) for name, tensor in tensors.items()}
    for name in ("key_bias", "influence"):  # keys apart
        moved[name] = torch.stack([tensors[name], tensors[name]], -1)[..., 0]
    results = _backward(
        moved, [apart(o) for o in outputs], [apart(g) for g in gradients], case.options
    )
    # The last dimension of what reaches out may be anything.
    gradients[0] = torch.stack([gradients[0], gradients[0]], -1)[..., 0]
    again = _backward(moved, outputs, gradients, case.options)
    for name, gradient in expected.items():
        assert torch.equal(results[name], gradient), name
        assert torch.equal(again[name], gradient), name


def test_expanded_gradients_and_biases():
    case = Case(options=CAUSAL, key_bias=(1, 1))
    tensors, outputs, gradients = _draw(case)
    one = torch.ones(())
    gradients = [one.expand(o.shape) for o in outputs]
    results = _backward(tensors, outputs, gradients, case.options)
    dense = _backward(tensors, outputs, [g.contiguous() for g in gradients], case.options)
    for name, gradient in dense.items():
        assert torch.equal(results[name], gradient), name
    expanded = dict(tensors, key_bias=tensors["key_bias"].expand(2, 4, -1))
    wide = _backward(expanded, outputs, gradients, case.options)["key_bias"]
    assert wide.shape == (2, 4, 65)
    torch.testing.assert_close(wide.sum((0, 1), keepdim=True), results["key_bias"])


# ---- what is asked for


def test_a_bias_of_zero_changes_no_bit():
    case = Case(key_bias=None, dtype=torch.bfloat16, options=CAUSAL)
    tensors, outputs, gradients = _draw(case)
    plain = _backward(tensors, outputs, gradients, case.options)
    for shape in ((1, 1, 65), (2, 4, 65)):
        biased = dict(tensors, key_bias=torch.zeros(shape))
        results = _backward(biased, outputs, gradients, case.options)
        for name in ("query", "key", "value", "influence"):
            assert torch.equal(results[name], plain[name])


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (0, 1), (1, 2), ()], ids=str)
def test_gradients_that_do_not_reach_an_output_are_zeros(present):
    case = Case(sinks=True, options=CAUSAL)
    tensors, outputs, gradients = _draw(case)
    some = [g if i in present else None for i, g in enumerate(gradients)]
    zeros = [g if i in present else torch.zeros_like(g) for i, g in enumerate(gradients)]
    results = _backward(tensors, outputs, some, case.options)
    for name, gradient in _backward(tensors, outputs, zeros, case.options).items():
        assert torch.equal(results[name], gradient), name


@pytest.mark.parametrize("name", FLOATING)
def test_one_gradient_alone_has_the_bits_that_it_has_beside_others(name):
    case = Case(sinks=True, options=CAUSAL)
    tensors, outputs, gradients = _draw(case)
    wanted = [part == name for part in FLOATING]
    results = torch.ops.guide.biased_attention_backward(
        *gradients, *tensors.values(), *outputs, **{**PLAIN, **case.options}, wanted=wanted
    )
    everything = _backward(tensors, outputs, gradients, case.options)
    for part, result in zip(FLOATING, results, strict=True):
        if part == name and tensors[name] is not None:
            assert torch.equal(result, everything[name])
        else:
            assert result.numel() == 0


# ---- NaN


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("output", range(3), ids=["out", "influence_out", "lse"])
@pytest.mark.parametrize("by", ["causal", "key_bias", "mask"])
def test_what_reaches_a_row_stays_with_what_it_sees(bad, output, by):
    """Rows before and after it, and keys that it does not see, keep their bits."""
    row, hidden = 70, {"causal": slice(71, 140), "key_bias": slice(9, 10), "mask": slice(9, 10)}[by]
    case = Case(seqlen_q=140, seqlen_k=140, channels=2, options=CAUSAL if by == "causal" else {},
                attn_bias=(2, 4) if by == "mask" else None)  # fmt: skip
    tensors, outputs, gradients = _draw(case)
    if by == "mask":
        tensors["attn_bias"].fill_(True)
        tensors["attn_bias"][:, :, row, hidden] = False
    elif by == "key_bias":
        tensors["key_bias"][..., hidden] = -torch.inf
    outputs = forward(*tensors.values(), **case.options)
    clean = _backward(tensors, outputs, gradients, case.options)
    gradients[output].select(-2 if output == 0 else -1, row).fill_(bad)
    spoiled = _backward(tensors, outputs, gradients, case.options)
    others = [index for index in range(140) if index != row]
    assert torch.equal(spoiled["query"][:, :, others], clean["query"][:, :, others])
    assert not spoiled["query"][:, :, row].isfinite().any()
    for name, keys in (("key", -2), ("value", -2), ("key_bias", -1), ("influence", -1)):
        at = range(140)[hidden]
        there, here = (part[name].index_select(keys, torch.tensor(at)) for part in (spoiled, clean))
        assert torch.equal(there, here), name
    assert not spoiled["key"][:, :, 5].isfinite().any()


# ---- choice and checks


def test_the_choice_and_its_reasons(monkeypatch):
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)
    runs = []
    chunked = chunked_backward.backward
    monkeypatch.setattr(
        chunked_backward, "backward", lambda *args: runs.append(args) or chunked(*args)
    )
    calls = {
        "": Case(attn_bias=(1, 1), attn_bias_dtype=torch.float32),
        "attn_bias wants a gradient": Case(attn_bias=(1, 1), attn_bias_dtype=torch.float32),
        "query is float64": Case(dtype=torch.float64),
        "value has a head dimension of 513": Case(head_dim_v=513),
    }
    for words, case in calls.items():
        tensors = case.tensors()
        for name in ("query", *(["attn_bias"] if words.startswith("attn_bias") else [])):
            tensors[name].requires_grad_()
        dispatch = explain_dispatch(*tensors.values(), backward=True)
        runs.clear()
        forward(*tensors.values())[0].sum().backward()
        assert (dispatch.kernel == "chunked PyTorch") == bool(runs) == bool(words)
        assert words in " ".join(dispatch.reasons)
        assert bool(words) or dispatch.kernel == f"cpu/{STATUS.instruction_set}"


def test_other_devices_and_no_library_are_explained(monkeypatch):
    meta = torch.empty(1, 1, 4, 8, device="meta")
    dispatch = explain_dispatch(meta, meta, meta, backward=True)
    assert dispatch.reasons == (
        "query is on meta: only the CPU has a compiled kernel of the gradients",
    )
    monkeypatch.setattr(libraries, "_load_error", "libguide_ext.so was not built")
    dispatch = explain_dispatch(*Case().tensors().values(), backward=True)
    assert str(dispatch) == "chunked PyTorch\n  - libguide_ext.so was not built"


BAD = {
    "grad_out-shape": (0, torch.zeros(2, 4, 33, 31), "grad_out must be [batch, num_heads, seqlen_q,"
                       " head_dim_v] = [2, 4, 33, 32], got shape [2, 4, 33, 31]"),
    "grad_out-dims": (0, torch.zeros(2, 4, 33), "grad_out must be [batch, num_heads, seqlen_q, "
                      "head_dim_v] = [2, 4, 33, 32], got shape [2, 4, 33]"),
    "grad_out-dtype": (0, torch.zeros(2, 4, 33, 32).half(), "grad_out must be float32, got "
                       "float16"),
    "grad_influence_out": (1, torch.zeros(2, 2, 4, 33), "grad_influence_out must be [batch, "
                           "channels, num_heads, seqlen_q] = [2, 1, 4, 33], got shape [2, 2, 4, "
                           "33]"),
    "grad_lse": (2, torch.zeros(2, 4, 33).double(), "grad_lse must be float32, got float64"),
    "out": (-3, torch.zeros(1, 4, 33, 32), "out must be [batch, num_heads, seqlen_q, head_dim_v] = "
            "[2, 4, 33, 32], got shape [1, 4, 33, 32]"),
    "influence_out": (-2, torch.zeros(2, 0, 4, 33), "influence_out must be [batch, channels, "
                      "num_heads, seqlen_q] = [2, 1, 4, 33], got shape [2, 0, 4, 33]"),
    "lse": (-1, torch.zeros(2, 4, 32), "lse must be [batch, num_heads, seqlen_q] = [2, 4, 33], got "
            "shape [2, 4, 32]"),
    "query": (3, torch.zeros(2, 4, 33), "query must be [batch, num_heads, seqlen_q, head_dim], got "
              "shape [2, 4, 33]"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["biased_attention_backward", "biased_attention_backward_chunked"])
@pytest.mark.parametrize(("index", "tensor", "words"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused_in_the_same_words(name, index, tensor, words):
    tensors, outputs, gradients = _draw(Case())
    arguments = [*gradients, *tensors.values(), *outputs]
    arguments[index] = tensor
    for device in ("cpu", "meta"):
        moved = [None if t is None else t.to(device) for t in arguments]
        with pytest.raises(ValueError, match="biased_attention: ") as error:
            getattr(torch.ops.guide, name)(*moved, **PLAIN, wanted=[True] * 7)
        assert str(error.value).startswith(f"biased_attention: {words}")


@pytest.mark.parametrize("name", ["biased_attention_backward", "biased_attention_backward_chunked"])
def test_wanted_has_seven_entries(name):
    tensors, outputs, gradients = _draw(Case())
    with pytest.raises(ValueError, match="wanted must have 7 entries, got 6"):
        getattr(torch.ops.guide, name)(
            *gradients, *tensors.values(), *outputs, **PLAIN, wanted=[True] * 6
        )
