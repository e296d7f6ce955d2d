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
        assert_accurate(
            *(result, truth, other, f"gradient of {name}"), factor=backend.gradient_factor
        )


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
        assert_accurate(result, truth, other, "gradient", factor=backend.gradient_factor)


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


HIDDEN = 1  # the key that nobody sees, of 40; the last one sees what it sees
WAYS_TO_HIDE = {
    "key_bias": Case(key_bias=(1, 1)),
    "key_bias of heads": Case(key_bias=(2, 4)),
    "mask": Case(attn_bias=(1, 1)),
    "dense": Case(attn_bias=(2, 4), attn_bias_dtype=torch.float32),
    "causal": Case(options={"is_causal": True}, q_start=(0, 0)),
    "window_left": Case(options={"window_left": 30}),
    "window_right": Case(options={"window_right": 0}, q_start=(0, 0)),
}


def _with_a_hidden_key(backend, case, way):
    """Draw inputs; return them with the place of a key that no row sees."""
    case = case.but(seqlen_q=5, seqlen_k=40, head_dim=16, head_dim_v=16, sinks=True, channels=2)
    tensors = backend.draw(case)
    hidden = {"causal": 35, "window_right": 35}.get(way, HIDDEN)
    if way.startswith("key_bias"):
        tensors["key_bias"][..., hidden] = -torch.inf
    elif way in ("mask", "dense"):
        tensors["attn_bias"][..., hidden] = False if way == "mask" else -torch.inf
    return tensors, hidden


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("way", WAYS_TO_HIDE)
def test_what_a_hidden_key_holds_changes_no_gradient(backend, way, bad, softcap):
    case = WAYS_TO_HIDE[way]
    options = {**case.options, "softcap": softcap}
    tensors, hidden = _with_a_hidden_key(backend, case, way)
    inputs = _with_gradients(tensors)

    def gradients(given, leaves):
        outputs = backend.run(*given.values(), **options)
        assert all(output.isfinite().all() for output in outputs)
        return torch.autograd.grad(sum(o.double().square().sum() for o in outputs), leaves)

    expected = gradients(tensors, inputs)
    for name in ("key", "value", "influence"):
        spoiled = dict(tensors)
        spoiled[name] = tensors[name].detach().clone()
        spoiled[name].select(-2 if name != "influence" else -1, hidden).fill_(bad)
        spoiled[name].requires_grad_()
        # The gradients alone: a forward pass meets the value of a hidden key as 0 * NaN.
        clean = backend.run(*tensors.values(), **options)
        weights = [2 * o.detach() for o in clean]
        wanted = [True] * len(FLOATING)
        wanted[5] = tensors["attn_bias"] is not None and tensors["attn_bias"].is_floating_point()
        wanted[3] = tensors["key_bias"] is not None
        plain = {"window_left": -1, "window_right": -1, "is_causal": False, "scale": None}
        with torch.no_grad():
            results = backend.backward(
                *weights, *spoiled.values(), *clean, **{**plain, **options}, wanted=wanted
            )
        found = [r for r, want in zip(results, wanted, strict=True) if want]
        for result, truth in zip(found, expected, strict=True):
            assert torch.equal(result, truth)
        assert found[FLOATING.index("key")][:, :, hidden].count_nonzero() == 0
    spoiled = dict(tensors)
    spoiled["key"] = tensors["key"].detach().clone()
    spoiled["key"][:, :, hidden] = bad
    leaves = _with_gradients(spoiled)
    for result, truth in zip(gradients(spoiled, leaves), expected, strict=True):
        assert torch.equal(result, truth)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_sees_nothing_gives_no_gradient_whatever_it_holds(backend, bad):
    """Its query, and what reaches its results."""
    case = Case(seqlen_q=40, seqlen_k=33, options={"is_causal": True}, channels=2, sinks=True)
    tensors = backend.draw(case)  # the first 7 rows stand before the first key
    blind = 7
    inputs = _with_gradients(tensors)
    outputs = backend.run(*tensors.values(), **case.options)
    weights = [torch.randn_like(o) for o in outputs]
    expected = torch.autograd.grad(outputs, inputs, [w.clone() for w in weights])
    for weight in weights:
        weight.select(-2 if weight is weights[0] else -1, blind - 1).fill_(bad)
    spoiled = dict(tensors)
    spoiled["query"] = tensors["query"].detach().clone()
    spoiled["query"][:, :, :blind] = bad
    leaves = _with_gradients(spoiled)
    results = torch.autograd.grad(backend.run(*spoiled.values(), **case.options), leaves, weights)
    for result, truth in zip(results, expected, strict=True):
        assert torch.equal(result, truth)
    assert results[0][:, :, :blind].count_nonzero() == 0


def test_what_is_seen_stays_nan(backend):
    tensors = backend.draw(Case(seqlen_q=5, seqlen_k=5, options={"is_causal": True}, sinks=True))
    tensors["key"][:, :, 3] = torch.nan
    inputs = _with_gradients(tensors)
    out = backend.run(*tensors.values(), is_causal=True)[0]
    (query, *_) = torch.autograd.grad(out[:, :, :3].sum(), inputs, retain_graph=True)
    assert query[:, :, :3].isfinite().all()
    (query, *_) = torch.autograd.grad(out.sum(), inputs)
    assert query[:, :, :3].isfinite().all()
    assert query[:, :, 3:].isnan().all()


@pytest.mark.parametrize("as_is", [torch.float32, torch.float64], ids=str)
def test_out_may_be_changed_in_place_where_no_gradient_follows(backend, as_is):
    tensors = Case(dtype=as_is).tensors(backend.device)  # what the kernels do not take, too
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
