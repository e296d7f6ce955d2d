# SPDX-License-Identifier: MIT
"""The public function takes a shorter way where nothing wants a derivative; no other way."""

import traceback

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import guide_ext
from guide_ext.op import derivatives


def operands():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 3, 16, generator=generator) for _ in range(3)]


class Scaled(TorchFunctionMode):
    """Multiplies the first argument of our operator by a parameter."""

    def __init__(self, factor):
        self.factor = factor

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.guide.biased_attention.default:
            args = (args[0] * self.factor, *args[1:])
        return function(*args, **(kwargs or {}))


def test_a_mode_of_torch_functions_keeps_its_gradient():
    factor = torch.tensor(2.0, requires_grad=True)
    with Scaled(factor):
        out, _, _ = guide_ext.biased_attention(*operands())
    out.sum().backward()
    assert factor.grad.abs() > 0


def test_a_subclass_keeps_its_gradient():
    class Inner(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            plain = [inner.get(id(one), one) for one in args]
            with torch._C.DisableTorchFunctionSubclass():
                return function(*plain, **(kwargs or {}))

    query, key, value = operands()
    hidden = query.clone().requires_grad_()
    outer = query.as_subclass(Inner)
    inner = {id(outer): hidden}
    out, _, _ = guide_ext.biased_attention(outer, key, value)
    out.sum().backward()
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "around", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda one: one.__name__
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"window_left": 1, "scale": 0.5},
        {"window_right": 0, "softcap": 2},
        {"key_bias": torch.tensor([[[0.0, 1.0, 2.0]]])},
        {"influence": torch.tensor([[[0.0, 1.0, 2.0]]])},
        {"attn_bias": torch.tensor([[[[True, False, True]] * 3]])},
        {"sinks": torch.ones(2)},
        {"q_start": torch.ones(1, dtype=torch.int32), "is_causal": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_both_ways_give_the_same_bits(around, options):
    tensors = operands()
    with around():
        found = guide_ext.biased_attention(*tensors, **options)
        wanted = torch.ops.guide.biased_attention(*tensors, **options)
        plain = guide_ext.biased_attention(*tensors)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    if options:  # none of them is lost on both ways
        assert any(not torch.equal(one, other) for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_mode_of_the_dispatcher_sees_the_operator(around):
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    tensors = operands()
    with around(), Seen():
        guide_ext.biased_attention(*tensors)
    assert seen == [torch.ops.guide.biased_attention.default]


def test_a_mode_of_the_dispatcher_sees_no_refused_argument():
    class Answers(TorchDispatchMode):
        """Never runs the operator, which would refuse the argument."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return ()

    tensors, sinks = operands(), torch.zeros(2).to_sparse()
    with Answers(), pytest.raises(ValueError, match="sinks must be a strided tensor"):
        guide_ext.biased_attention(*tensors, sinks=sinks)


def test_a_wrong_type_is_the_only_error():
    """The call is tried before its tensors are looked at; what that raised is not shown."""
    query, key, _ = operands()
    for bad in ([1.0], None, query.to_sparse(), torch.nested.nested_tensor([query[0]])):
        with pytest.raises((TypeError, ValueError), match="value must be a") as caught:
            guide_ext.biased_attention(query, key, bad)
        text = "".join(traceback.format_exception(caught.value))
        assert "another exception" not in text


def test_who_may_want_a_derivative():
    plain = tuple(operands())
    assert not derivatives.may_be_wanted(plain)
    wanted = (plain[0].clone().requires_grad_(), *plain[1:])
    assert derivatives.may_be_wanted(wanted)
    with torch.no_grad():
        assert not derivatives.may_be_wanted(wanted)
    with forward_ad.dual_level():
        assert derivatives.may_be_wanted(plain)
    seen = []
    torch.func.grad(lambda x: (seen.append(derivatives.may_be_wanted((x,))), x.sum())[1])(plain[0])
    assert seen == [True]


WAYS = {"function": guide_ext.biased_attention, "operator": torch.ops.guide.biased_attention}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
class TestDerivatives:
    """The shorter way is not taken where one is wanted."""

    def test_of_autograd(self, way):
        query, key, value = operands()
        way(query, key, value.requires_grad_())[0].sum().backward()
        assert value.grad.sum() == pytest.approx(query[..., 0].numel() * 16)

    def test_of_a_transform(self, way):
        query, key, value = operands()
        found = torch.func.grad(lambda x: way(query, key, x)[0].sum())(value)
        assert found.sum() == pytest.approx(query[..., 0].numel() * 16)

    def test_a_vectorised_call(self, way):
        query, key, value = operands()
        found = torch.vmap(lambda x: way(query, key, x)[0])(torch.stack([value, 2 * value]))
        assert torch.equal(found[0], way(query, key, value)[0])
        assert torch.equal(found[1], way(query, key, 2 * value)[0])

    def test_of_autograd_around_a_vectorised_call(self, way):
        query, key, value = operands()
        stack = torch.stack([value, value]).requires_grad_()
        torch.vmap(lambda x: way(query, key, x)[0])(stack).sum().backward()
        assert stack.grad[0].sum() == pytest.approx(query[..., 0].numel() * 16)

    @pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad])
    def test_forward_mode_is_refused(self, way, around):
        query, key, value = operands()
        with around(), forward_ad.dual_level():
            dual = forward_ad.make_dual(value, torch.ones_like(value))
            with pytest.raises(NotImplementedError, match="forward-mode"):
                way(query, key, dual)
