# SPDX-License-Identifier: MIT
"""`torch.func` over the op: gradients and vmap are exact, what is not implemented says so."""

import warnings

import pytest
import torch
from attention_cases import TENSORS, Case, judge
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from guide_ext.op.attention import biased_attention
from guide_ext.op.reference import biased_attention_reference
from guide_ext.op.share import attention_with_share

OPS = {
    "op": torch.ops.guide.biased_attention,
    "chunked": torch.ops.guide.biased_attention_chunked,
}
SMALL = Case(
    batch=2, num_heads=4, num_kv_heads=2, seqlen_q=3, seqlen_k=5, head_dim=8, head_dim_v=6
)  # fmt: skip
CASES = {
    "plain": SMALL,
    "causal": SMALL.but(options={"is_causal": True}, channels=2, key_bias=(1, 4)),
    "softcap": SMALL.but(options={"softcap": 1.5}, key_bias=(1, 1), influence_batch=1),
    "dense": SMALL.but(attn_bias=(1, 1), attn_bias_dtype=torch.float32, key_bias=None),
    "mask": SMALL.but(attn_bias=(2, 4), channels=None),
    "sinks": SMALL.but(sinks=True, q_start=(0, 2), options={"is_causal": True}),
}
SIZE = 3  # calls in one vmap


@pytest.fixture(params=OPS)
def op(request):
    return OPS[request.param]


def floating(tensors):
    return [n for n in TENSORS[:-1] if tensors[n] is not None and tensors[n].is_floating_point()]


def total(results):
    out, influence_out, lse = results
    return out.double().square().sum() + influence_out.double().sin().sum() + lse.double().sum()


def loss_of(run, tensors, options, name):
    return lambda value: total(run(**{**tensors, name: value}, **options))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_grad_is_that_of_autograd(op, case):
    tensors = case.tensors()
    for name in floating(tensors):
        loss = loss_of(op, tensors, case.options, name)
        leaf = tensors[name].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        assert torch.equal(torch.func.grad(loss)(tensors[name]), expected), name
        assert torch.equal(
            torch.func.vjp(loss, tensors[name])[1](torch.ones(()).double())[0], expected
        )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_jacrev(op, case):
    tensors = case.but(seqlen_q=2, head_dim=4, head_dim_v=3).tensors()
    for name in floating(tensors):

        def everything(value, name=name):
            results = op(**{**tensors, name: value}, **case.options)
            # An influence_out without channels has no elements.
            return torch.cat([result.flatten() for result in results if result.numel()])

        leaf = tensors[name].clone().requires_grad_()
        flat = everything(leaf)
        rows = [torch.autograd.grad(flat[i], leaf, retain_graph=True)[0] for i in range(len(flat))]
        torch.testing.assert_close(torch.func.jacrev(everything)(tensors[name]), torch.stack(rows))


def batched(tensors, names, dims):
    """Draw a few values for some of the tensors, side by side in a dimension of each."""
    stacked = dict(tensors)
    for name in names:
        other = [tensors[name]]
        for _ in range(SIZE - 1):
            drawn = torch.rand(tensors[name].shape)
            if tensors[name].dtype == torch.bool:
                other.append(drawn > 0.3)
            elif name == "q_start":
                other.append((5 * drawn).int())
            else:
                other.append(drawn.to(tensors[name].dtype))
        stacked[name] = torch.stack(other, dims)
    return stacked


def choices(tensors):
    present = [name for name in TENSORS if tensors[name] is not None]
    return [present, *([name] for name in present), ["query", "key", "value"]]


@pytest.mark.parametrize("dims", [0, 1, -1])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_vmap(op, case, dims):
    tensors = case.tensors()
    for names in choices(tensors):
        stacked = batched(tensors, names, dims)
        results = torch.func.vmap(
            lambda *changed, names=names: op(
                **{**tensors, **dict(zip(names, changed, strict=True))}, **case.options
            ),
            in_dims=dims,
        )(*(stacked[name] for name in names))
        for call in range(SIZE):
            one = {n: stacked[n].select(dims, call) if n in names else tensors[n] for n in TENSORS}
            judge(one, case.options, [result[call] for result in results])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_vmap_of_grad(op, case):
    tensors = case.tensors()
    of = floating(tensors)
    for place, names in enumerate(choices(tensors)):
        stacked = batched(tensors, names, 0)
        # Beside one value that differs from call to call, its own gradient and one of another.
        some = {*names, of[place % len(of)]}
        for wrt in [name for name in of if len(names) > 1 or name in some]:

            def gradient(*changed, names=names, wrt=wrt):
                given = {**tensors, **dict(zip(names, changed, strict=True))}
                return torch.func.grad(loss_of(op, given, case.options, wrt))(given[wrt])

            values = [stacked[name] for name in names]
            each = [gradient(*(value[call] for value in values)) for call in range(SIZE)]
            torch.testing.assert_close(torch.func.vmap(gradient)(*values), torch.stack(each))


def test_vmap_within_vmap_and_under_plain_autograd(op):
    queries = torch.randn(2, 3, 1, 2, 4, 8, requires_grad=True)
    key, value = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    twice = torch.func.vmap(torch.func.vmap(lambda query: op(query, key, value)[0]))
    out = twice(queries)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(out[i, j], op(queries[i, j], key, value)[0])
    (gradient,) = torch.autograd.grad(out.sum(), queries)
    flat = queries.detach().flatten(0, 2).requires_grad_()
    many = [tensor.expand(6, -1, -1, -1) for tensor in (key, value)]
    (expected,) = torch.autograd.grad(op(flat, *many)[0].sum(), flat)
    torch.testing.assert_close(gradient.flatten(0, 2), expected)


def test_many_gradients_at_once(op):
    """`is_grads_batched` and `functional.jacobian(vectorize=True)` vectorise the backward pass."""
    tensors = SMALL.tensors()
    query = tensors.pop("query").requires_grad_()
    out = op(query, **tensors)[0].flatten()
    basis = torch.eye(out.numel())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a slow loop where there is no rule
        (rows,) = torch.autograd.grad(out, query, basis, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(out, query, row, retain_graph=True)[0] for row in basis]
    torch.testing.assert_close(rows, torch.stack(one_by_one))


def test_vmap_of_the_backward_operator_itself(op):
    """One bias for the whole batch has one gradient a call."""
    tensors = SMALL.but(key_bias=(1, 1), influence_batch=1).tensors()
    results = op(**tensors)
    options = {"is_causal": False, "window_left": -1, "window_right": -1, "scale": None}

    def backward(grad_out):
        return torch.ops.guide.biased_attention_backward(
            grad_out, None, None, *tensors.values(), *results, **options, softcap=0.0,
            wanted=[True] * 5 + [False] * 2,
        )[:5]  # fmt: skip

    many = torch.randn(SIZE, *results[0].shape)
    each = [torch.stack(parts) for parts in zip(*map(backward, many), strict=True)]
    for found, expected in zip(torch.func.vmap(backward)(many), each, strict=True):
        torch.testing.assert_close(found, expected)


def test_errors_in_vmap_speak_of_one_call(op):
    tensors = SMALL.tensors()
    tensors["key_bias"] = torch.zeros(SIZE, 3, 1, 5)
    text = r"key_bias must be .* = \[1 or 2, 1 or 4, 5\], got shape \[3, 1, 5\]"
    with pytest.raises(ValueError, match=text):
        torch.func.vmap(lambda bias: op(**{**tensors, "key_bias": bias}))(tensors["key_bias"])


def test_an_empty_vmap(op):
    query, key = torch.randn(0, 1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    assert torch.func.vmap(lambda query: op(query, key, key)[0])(query).shape == (0, 1, 2, 3, 8)


FORWARD_MODE = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "linearize": lambda f, x: torch.func.linearize(f, x)[1](x),
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "jvp of grad": lambda f, x: torch.func.jvp(torch.func.grad(f), (x,), (x,)),
}


def dual(f, x):
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(x, x))


def dual_without_grad(f, x):
    with torch.no_grad():
        return dual(f, x)


FORWARD_MODE |= {"dual": dual, "dual, no_grad": dual_without_grad}


def share(*tensors):
    marked = torch.tensor([[False, True, False, False, False]])
    return attention_with_share(*tensors[:3], marked, 0.3, tensors[3], tensors[4])


@pytest.mark.parametrize("way", FORWARD_MODE.values(), ids=FORWARD_MODE)
@pytest.mark.parametrize(
    "run", [*OPS.values(), biased_attention, share], ids=[*OPS, "function", "share"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_mode_is_refused(way, run, dtype):
    tensors = SMALL.but(dtype=dtype).tensors()
    for name in ("query", "value", "key_bias", "influence"):
        given = {n: tensors[n] for n in TENSORS[:5]}

        def loss(x, given=given, name=name):
            return run(*{**given, name: x}.values())[0].sum()

        with pytest.raises(NotImplementedError, match=r"forward-mode derivatives .* reverse mode"):
            way(loss, tensors[name])


def test_forward_mode_elsewhere_does_not_disturb(op):
    tensors = SMALL.tensors()
    expected = op(**tensors)
    with forward_ad.dual_level():
        other = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        results = op(**tensors)
        assert forward_ad.unpack_dual(other * 2).tangent is not None
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize(
    "twice",
    [
        lambda f, x: torch.func.grad(lambda y: torch.func.grad(f)(y).sum())(x),
        lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
        lambda f, x: torch.autograd.functional.hessian(f, x),
    ],
)
def test_second_derivatives_are_refused(op, twice):
    tensors = SMALL.tensors()
    with pytest.raises(NotImplementedError, match="double backward is not implemented"):
        twice(lambda x: op(**{**tensors, "query": x})[0].square().sum(), tensors["query"])


def test_the_reference_serves_where_the_op_refuses():
    query, key = torch.randn(1, 1, 2, 3).double(), torch.randn(1, 1, 4, 3).double()

    def loss(query):
        return biased_attention_reference(query, key, key)[0].square().sum()

    assert torch.func.hessian(loss)(query).isfinite().all()
    forward, reverse = torch.func.jacfwd(loss)(query), torch.func.jacrev(loss)(query)
    torch.testing.assert_close(forward, reverse)


def test_functionalize(op):
    tensors = SMALL.tensors()
    key, value = tensors["key"], tensors["value"]

    def changing(query):
        out = op(query, key, value)[0] * 1
        return out.mul_(2)

    query = tensors["query"]
    assert torch.equal(torch.func.functionalize(changing)(query), changing(query))
    assert "guide.biased_attention" in make_fx(torch.func.functionalize(changing))(query).code


TRANSFORMED = {
    "grad": torch.func.grad,
    "vmap": lambda f: lambda x: torch.func.vmap(f)(torch.stack([x, x + 1])),
    "vmap of grad": lambda f: lambda x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, -x])),
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_compiled(transform):
    tensors = SMALL.tensors()
    given = [tensors[n] for n in TENSORS[1:5]]
    run = transform(lambda query: biased_attention(query, *given, is_causal=True)[0].sin().sum())
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tensors["query"]), run(tensors["query"]))


@pytest.mark.parametrize("run", [torch.ops.guide.biased_attention, biased_attention])
def test_autocast(run):
    """The casts come before the derivatives, as without a transform."""
    tensors = SMALL.tensors()
    query = tensors.pop("query")
    names = ["key", "value", "key_bias", "influence"]

    def loss(query):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = run(query, *(tensors[n] for n in names))[0]
        assert out.dtype == torch.bfloat16
        return out.float().square().sum()

    leaf = query.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.equal(torch.func.grad(loss)(query), expected)


def test_share_under_transforms():
    tensors = [SMALL.tensors()[n] for n in TENSORS[:5]]

    def loss(query):
        return share(query, *tensors[1:])[0].square().sum()

    leaf = tensors[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.equal(torch.func.grad(loss)(tensors[0]), expected)
    many = torch.stack([tensors[0], -tensors[0]])
    each = torch.stack([torch.func.grad(loss)(query) for query in many])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(many), each)
