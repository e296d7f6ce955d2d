# SPDX-License-Identifier: MIT
"""Biases at the ends of float32, as in masks filled with finfo.min: finite ones hide no key."""

import pytest
import torch
from attention_cases import TENSORS, Case, judge, naive_attention, oracle

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FLOAT32 = torch.finfo(torch.float32)
EXTREMES = {"finfo.min": FLOAT32.min, "finfo.max": FLOAT32.max, "-3e38": -3e38, "+3e38": 3e38}


@pytest.fixture
def check(backend):
    """Run a case and judge its three outputs; give them back, on the CPU."""

    def run(case, tensors):
        results = backend.run(*(tensors[name] for name in TENSORS), **case.options)
        return judge(tensors, case.options, results)

    return run


@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("by", ["key_bias", "attn_bias"])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_some_keys_and_all_keys_of_a_row(backend, check, extreme, dtype, by, seqlen_q):
    case = Case(dtype=dtype, seqlen_q=seqlen_q, attn_bias=(2, 1), attn_bias_dtype=torch.float32)
    case = case.but(channels=2, options={"is_causal": True})
    tensors = backend.draw(case if by == "attn_bias" else case.but(attn_bias=None))
    tensors[by][0, ..., ::3] = extreme
    tensors[by][1] = extreme
    out, influence_out, lse = check(case, tensors)
    assert lse[1].sign().eq(torch.tensor(extreme).sign()).all()
    for result in (out, influence_out, lse):
        assert result.isfinite().all()


@pytest.mark.parametrize("key_bias", [torch.inf, torch.nan])
@pytest.mark.parametrize("seqlen_q", [1, 2, 20])
def test_attn_bias_hides_a_key_whatever_its_key_bias(backend, key_bias, seqlen_q):
    case = Case(seqlen_q=seqlen_q, attn_bias=(1, 1), attn_bias_dtype=torch.float32)
    tensors = backend.draw(case)
    tensors["attn_bias"][..., 3] = -torch.inf
    expected = backend.run(*(tensors[name] for name in TENSORS), **case.options)
    tensors["key_bias"][..., 3] = key_bias
    results = backend.run(*(tensors[name] for name in TENSORS), **case.options)
    for result, other in zip(results, expected, strict=True):
        assert result.isfinite().all()
        assert result.equal(other)


@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
def test_the_oracle_averages_keys_that_all_carry_one(extreme):
    case = Case(dtype=torch.float64, sinks=True)
    tensors = case.tensors()
    tensors["key_bias"].fill_(extreme)
    tensors["sinks"].fill_(extreme)
    out, influence_out, _ = oracle(tensors, case.options)
    share = 1 / (case.seqlen_k + 1)
    value = tensors["value"].repeat_interleave(2, dim=1).sum(2, keepdim=True)
    influence = tensors["influence"].double().sum(-1)[..., None, None]
    torch.testing.assert_close(out, (share * value).expand_as(out))
    torch.testing.assert_close(influence_out, (share * influence).expand_as(influence_out))


@pytest.mark.parametrize("bias_dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("extreme", ["min", "max"])
def test_dtypes_of_attn_bias(backend, check, bias_dtype, extreme):
    case = Case(attn_bias=(1, 1), attn_bias_dtype=bias_dtype, sinks=True)
    tensors = backend.draw(case)
    tensors["attn_bias"][..., 5:9] = getattr(torch.finfo(bias_dtype), extreme)
    tensors["attn_bias"][..., 3, :] = getattr(torch.finfo(bias_dtype), extreme)
    check(case, tensors)


@pytest.mark.parametrize("sinks_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [None, "min", "max"])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_sinks(backend, check, sinks_dtype, bias, seqlen_q):
    """Alone, and beside keys that stand where one of the sinks does."""
    case = Case(seqlen_q=seqlen_q, sinks=True)
    tensors = backend.draw(case)
    extreme = torch.finfo(sinks_dtype)
    if bias is not None:
        extreme = min(extreme, FLOAT32, key=lambda info: info.max)
        tensors["key_bias"][:] = getattr(extreme, bias)
    sinks = torch.tensor([extreme.min, extreme.max, 0.0, -torch.inf], dtype=sinks_dtype)
    tensors["sinks"] = sinks.to(backend.device)
    check(case, tensors)


@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("by", ["key_bias", "attn_bias"])
def test_gradients(backend, assert_accurate, extreme, by):
    """The backward pass starts from an lse that has saturated."""
    case = Case(attn_bias=(2, 1), attn_bias_dtype=torch.float32, sinks=True)
    tensors = backend.draw(case)
    tensors[by][0, ..., ::3] = extreme
    tensors[by][1] = extreme
    tensors = {name: None if t is None else t.cpu() for name, t in tensors.items()}
    names = ("query", "key", "value", "influence")

    def gradients(run, tensors):
        inputs = [tensors[name].requires_grad_() for name in names]
        out, influence_out, _ = run(tensors)
        total = (out.double() * weights[0]).sum() + (influence_out.double() * weights[1]).sum()
        return torch.autograd.grad(total, inputs)

    on_device = {n: None if t is None else t.to(backend.device) for n, t in tensors.items()}
    shapes = [result.shape for result in oracle(tensors, case.options)]
    weights = [torch.randn(shape, device=backend.device).double() for shape in shapes]
    actual = gradients(lambda t: backend.run(*t.values(), **case.options), on_device)
    weights = [weight.cpu() for weight in weights]
    exact = {n: None if t is None else t.double() for n, t in tensors.items()}
    exact = gradients(lambda t: oracle(t, case.options), exact)
    dtype = tensors["query"].dtype
    naive = gradients(lambda t: naive_attention(t, case.options, dtype), tensors)
    for name, result, truth, other in zip(names, actual, exact, naive, strict=True):
        assert_accurate(
            *(result.cpu(), truth, other, f"gradient of {name}"), factor=backend.gradient_factor
        )
