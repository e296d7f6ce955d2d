# SPDX-License-Identifier: MIT
"""Gradients of the op: exact in float64, as good as naive autograd in the other dtypes."""

import pytest
import torch
from attention_cases import TENSORS, Case, naive_attention, oracle

FLOATING = TENSORS[:-1]
CASES = {
    "full": Case(),
    "causal": Case(options={"is_causal": True}, channels=3),
    "decode": Case(seqlen_q=1, channels=None, sinks=True),
    "window": Case(options={"window_left": 7, "window_right": 2}, key_bias=(1, 4)),
    "softcap": Case(options={"softcap": 1.5, "is_causal": True}, key_bias=(1, 1)),
    "sinks": Case(sinks=True, influence_batch=1, options={"is_causal": True}, seqlen_k=40),
    "dense": Case(attn_bias=(1, 1), attn_bias_dtype=torch.float32, key_bias=(2, 4)),
    "dense-per-head": Case(attn_bias=(2, 4), attn_bias_dtype=torch.float32, key_bias=None),
    "mask": Case(attn_bias=(2, 1), channels=2),
    "q_start": Case(q_start=(3, 40), options={"is_causal": True}, sinks=True),
    "many-heads": Case(num_heads=6, num_kv_heads=2, head_dim=17, head_dim_v=9),
    "empty-rows": Case(seqlen_q=70, options={"is_causal": True}),
    "no-keys": Case(seqlen_k=0),
}


def _with_gradients(tensors):
    for name in FLOATING:
        if tensors[name] is not None and tensors[name].is_floating_point():
            tensors[name].requires_grad_()
    return [t for t in tensors.values() if t is not None and t.requires_grad]


def _gradients(outputs, weights, inputs):
    """Pull fixed weights back through all outputs, or through those that have a weight."""
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if w is not None]
    total = sum((o.nan_to_num(neginf=0.0).double() * w).sum() for o, w in pairs)
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def _exact_gradients(tensors, case, weights):
    """Differentiate the oracle with respect to float64 copies of the inputs."""
    exact = dict(tensors)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            exact[name] = tensor.detach().double().requires_grad_()
    inputs = [t for t in exact.values() if t is not None and t.requires_grad]
    return _gradients(oracle(exact, case.options), weights, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_as_good_as_naive_ones(backend, assert_accurate, case, dtype):
    tensors = backend.draw(case.but(dtype=dtype))
    inputs = _with_gradients(tensors)
    outputs = backend.run(*tensors.values(), **case.options)
    # A row that sees nothing has lse -inf: no gradient comes from there.
    weights = [
        torch.randn(o.shape, device=o.device).masked_fill_(o.isinf(), 0.0).double() for o in outputs
    ]
    actual = _gradients(outputs, weights, inputs)
    exact = _exact_gradients(tensors, case, weights)
    naive = _gradients(
        naive_attention(tensors, case.options, tensors["query"].dtype), weights, inputs
    )
    names = [name for name in TENSORS if tensors[name] is not None and tensors[name].requires_grad]
    for name, result, truth, other in zip(names, actual, exact, naive, strict=True):
        assert result.dtype == tensors[name].dtype
        assert_accurate(result, truth, other, f"gradient of {name}")


@pytest.mark.parametrize("only", range(3), ids=["out", "influence_out", "lse"])
def test_each_output_alone(backend, assert_accurate, only):
    case = Case(options={"is_causal": True}, sinks=True)
    tensors = backend.draw(case)
    inputs = _with_gradients(tensors)
    outputs = backend.run(*tensors.values(), **case.options)
    weights = [
        torch.randn(o.shape, device=o.device).double() if i == only else None
        for i, o in enumerate(outputs)
    ]
    actual = _gradients(outputs, weights, inputs)
    exact = _exact_gradients(tensors, case, weights)
    naive = _gradients(
        naive_attention(tensors, case.options, tensors["query"].dtype), weights, inputs
    )
    for result, truth, other in zip(actual, exact, naive, strict=True):
        assert_accurate(result, truth, other, "gradient")


@pytest.mark.parametrize("name", ["full", "causal", "softcap", "dense", "sinks", "mask", "q_start"])
def test_gradcheck(backend, name):
    case = CASES[name].but(
        batch=2, num_heads=2, num_kv_heads=1, seqlen_q=3, seqlen_k=5, head_dim=2, head_dim_v=3,
        dtype=torch.float64, key_bias=(1, 1), attn_bias=CASES[name].attn_bias and (1, 1),
        q_start=CASES[name].q_start and (1, 3),
    )  # fmt: skip
    tensors = case.tensors(backend.device)
    for bias in ("key_bias", "influence", "sinks", "attn_bias"):
        if tensors[bias] is not None and tensors[bias].is_floating_point():
            tensors[bias] = tensors[bias].double()
    _with_gradients(tensors)
    assert torch.autograd.gradcheck(
        lambda *inputs: backend.run(*inputs, **case.options),
        tuple(tensors.values()),
        fast_mode=True,
    )


@pytest.mark.parametrize("wanted", FLOATING[:5])
def test_one_gradient_at_a_time(backend, wanted):
    case = Case(options={"is_causal": True})
    tensors = backend.draw(case)
    inputs = _with_gradients(tensors)
    everything = torch.autograd.grad(
        sum(o.sum() for o in backend.run(*tensors.values(), **case.options)), inputs
    )
    alone = {n: t if t is None or n == wanted else t.detach() for n, t in tensors.items()}
    outputs = backend.run(*alone.values(), **case.options)
    (gradient,) = torch.autograd.grad(sum(o.sum() for o in outputs), alone[wanted])
    assert gradient.equal(everything[FLOATING.index(wanted)])


def test_equal_backward_calls_give_equal_bits(backend):
    case = Case(options={"is_causal": True}, sinks=True, dtype=torch.bfloat16)
    tensors = backend.draw(case)
    inputs = _with_gradients(tensors)
    runs = [
        torch.autograd.grad(backend.run(*tensors.values(), **case.options)[0].sum(), inputs)
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert first.equal(second)


def test_rows_that_see_nothing_have_no_gradient(backend):
    tensors = Case().tensors(backend.device)
    tensors["key_bias"] = torch.full((2, 1, 65), -torch.inf)
    inputs = _with_gradients(tensors)
    outputs = backend.run(*tensors.values())
    for gradient in torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), inputs):
        assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_out_may_be_changed_in_place_where_no_gradient_follows(backend, dtype):
    tensors = Case(dtype=dtype).tensors(backend.device)
    (query, *_) = _with_gradients(tensors)
    out, _, _ = backend.run(*tensors.values())
    expected = 2 * out.detach()
    out.mul_(2)
    assert out.equal(expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.sum(), query)


def test_double_backward_says_what_to_do(backend):
    tensors = Case().tensors(backend.device)
    inputs = _with_gradients(tensors)
    out = backend.run(*tensors.values())[0]
    gradient = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="double backward is not implemented; call"):
        gradient.sum().backward()


def test_backward_with_fewer_arguments_than_the_schema_has(backend):
    query, key, value = (t.requires_grad_() for t in list(Case().tensors().values())[:3])
    backend.run(query, key, value)[0].sum().backward()
    assert all(t.grad is not None for t in (query, key, value))
