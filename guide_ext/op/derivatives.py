# SPDX-License-Identifier: MIT
"""The derivatives of our operators: autograd, `torch.func`, and which ones are refused.

`torch.library.register_autograd` is not used. What it registers does not work in `torch.func`
transforms, and it drops the tangents of forward-mode derivatives: their results would be zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, is_grad_enabled
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI
from torch.autograd import forward_ad

from guide_ext.op import vmap

# Of `biased_attention`: how many tensors it takes, and how many of them have a gradient (all but
# q_start, the last).
NUM_TENSORS = 8
NUM_DIFFERENTIABLE = 7


class Call(NamedTuple):
    """What an operator is called with besides its tensors.

    Attributes:
        run: Computes the results, below autograd.
        backward: The operator of the gradients.
        options: All keyword-only arguments.

    """

    run: Callable[..., tuple[Tensor, ...]]
    backward: Any
    options: dict[str, Any]


class Attention(torch.autograd.Function):
    """`biased_attention`, by whichever operator computes it: ``apply(call, *tensors)``."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Compute the results."""
        return _below_autograd(call, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep every input and result: the gradients are recomputed from lse."""
        call, *tensors = inputs
        ctx.call = call
        ctx.save_for_backward(*tensors, *output)
        # A caller who ignores influence_out and lse pays for no gradients of zeros.
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are wanted."""
        wanted = list(ctx.needs_input_grad[1 : 1 + NUM_DIFFERENTIABLE])
        results = ctx.call.backward(
            *gradients, *ctx.saved_tensors, **ctx.call.options, wanted=wanted
        )
        kept = [result if want else None for result, want in zip(results, wanted, strict=True)]
        return None, *kept, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> NoReturn:
        """Refuse."""
        _refuse_forward_mode()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor | None) -> Any:
        """Compute a vectorised call as one of a larger batch."""
        run = functools.partial(Attention.apply, call)
        return vmap.forward(run, info.batch_size, in_dims[1:], tensors, call.options)


class AttentionBackward(torch.autograd.Function):
    """The gradients of `biased_attention`: ``apply(call, *gradients, *tensors, *results)``."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Compute the gradients."""
        return _below_autograd(call, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(
            "biased_attention: double backward is not implemented; call backward() without "
            "create_graph, or use guide_ext.reference for second derivatives of small problems"
        )

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> NoReturn:
        """Refuse."""
        _refuse_forward_mode()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor | None) -> Any:
        """Compute a vectorised call as one of a larger batch."""
        run = functools.partial(AttentionBackward.apply, call)
        wanted = call.options["wanted"]
        return vmap.backward(run, info.batch_size, in_dims[1:], tensors, wanted)


def may_be_wanted(tensors: tuple[Tensor | None, ...]) -> bool:
    """Return whether a call with these tensors may have to be differentiated or transformed."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return True
    return is_grad_enabled() and _any_requires_grad(tensors)


def _any_requires_grad(tensors: tuple[Tensor | None, ...]) -> bool:
    for tensor in tensors:  # noqa: SIM110 - a generator, or torch's own function, takes twice as long
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def _below_autograd(call: Call, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        return call.run(*tensors, **call.options)


def _refuse_forward_mode() -> NoReturn:
    raise NotImplementedError(
        "biased_attention: forward-mode derivatives (torch.func.jvp, jacfwd, hessian, "
        "torch.autograd.forward_ad) are not implemented; use reverse mode (torch.func.grad, vjp, "
        "jacrev, backward()), or guide_ext.reference for small problems"
    )


def register(
    library: Any,
    operator: Any,
    function: type[torch.autograd.Function],
    backward: Any = None,
    cast: Callable[..., tuple[Tensor | None, ...]] | None = None,
) -> None:
    """Make an operator differentiable.

    Args:
        library: The `torch.library.Library` that registers it.
        operator: The overload, such as ``torch.ops.guide.biased_attention.default``.
        function: `Attention` or `AttentionBackward`.
        backward: What computes the gradients, for `Attention`.
        cast: Casts the tensors as autocast would, if that acts on the operator.

    """
    arguments = operator._schema.arguments
    # The dispatcher leaves out trailing arguments that equal their defaults.
    defaults = {
        a.name: a.default_value for a in arguments if a.kwarg_only and a.has_default_value()
    }
    num_tensors = sum(not a.kwarg_only for a in arguments)
    redispatch = operator._handle.redispatch_boxed  # operator.redispatch is a function around it
    below = torch._C._after_autograd_keyset

    def filled(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tensors + (None,) * (num_tensors - len(tensors))

    def autograd_kernel(keys: Any, *tensors: Tensor | None, **options: Any) -> Any:
        keys = keys & below
        wants_gradient = is_grad_enabled() and _any_requires_grad(tensors)
        if wants_gradient or forward_ad._current_level >= 0:
            run = functools.partial(redispatch, keys)
            call = Call(run, backward, {**defaults, **options})
            return function.apply(call, *filled(tensors))  # type: ignore[no-untyped-call]
        return redispatch(keys, *tensors, **options)

    def transformed_kernel(*tensors: Tensor | None, **options: Any) -> Any:
        """Apply the outermost transform of `torch.func` (grad, vmap, ...) to a call."""
        tensors = filled(tensors)
        transform = retrieve_current_functorch_interpreter()
        if transform.key() == TransformType.Functionalize:  # for which Functions have no rule
            functional: Any = FunctorchFunctionalizeAPI(transform)  # type: ignore[arg-type]
            plain = functional.unwrap_tensors(tensors)
            with functional.redispatch_to_next():
                results = operator(*plain, **options)
            return functional.wrap_tensors(results)
        call = Call(operator, backward, {**defaults, **options})
        device_type = tensors[0].device.type if tensors[0] is not None else ""
        if cast is None or not torch.amp.is_autocast_available(device_type):
            return function.apply(call, *tensors)  # type: ignore[no-untyped-call]
        if torch.is_autocast_enabled(device_type):
            tensors = cast(device_type, *tensors)
        # Else the casts would come again, below the derivatives.
        with torch.autocast(device_type, enabled=False):
            return function.apply(call, *tensors)  # type: ignore[no-untyped-call]

    library.impl(operator, autograd_kernel, "Autograd", with_keyset=True)
    library.impl(operator, transformed_kernel, "FuncTorchDynamicLayerFrontMode")
