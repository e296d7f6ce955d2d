# SPDX-License-Identifier: MIT
"""Registers what `torch.ops.guide` needs besides the compiled kernels.

The compiled library defines the schemas and the kernels. This module adds fake kernels, autograd,
autocast, and the chunked PyTorch implementation, which serves every other device and dtype. Where
no library was built it defines the same schemas itself, and everything works, but slower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, is_inference_mode_enabled

from guide_ext.op import chunked, chunked_backward, derivatives
from guide_ext.op.call import AttentionCall
from guide_ext.op.checks import check_arguments, check_backward
from guide_ext.op.libraries import keep_errors, load_libraries

SIGNATURE = (
    "(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, Tensor? influence=None, "
    "Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, *, bool is_causal=False, "
    "SymInt window_left=-1, SymInt window_right=-1, float? scale=None, float softcap=0.0) "
    "-> (Tensor out, Tensor influence_out, Tensor lse)"
)
BACKWARD_SIGNATURE = (
    "(Tensor? grad_out, Tensor? grad_influence_out, Tensor? grad_lse, Tensor query, Tensor key, "
    "Tensor value, Tensor? key_bias, Tensor? influence, Tensor? attn_bias, Tensor? sinks, "
    "Tensor? q_start, Tensor out, Tensor influence_out, Tensor lse, *, bool is_causal, "
    "SymInt window_left, SymInt window_right, float? scale, float softcap, bool[] wanted) "
    "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_key_bias, "
    "Tensor grad_influence, Tensor grad_attn_bias, Tensor grad_sinks)"
)
# What csrc/library.cpp defines, for where it was not built; a test compares the two.
SCHEMAS = {
    "biased_attention": "biased_attention" + SIGNATURE,
    "biased_attention_chunked": "biased_attention_chunked" + SIGNATURE,
    "biased_attention_backward": "biased_attention_backward" + BACKWARD_SIGNATURE,
    "biased_attention_backward_chunked": "biased_attention_backward_chunked" + BACKWARD_SIGNATURE,
    "new_empty_strided": (
        "new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, ScalarType dtype) -> Tensor"
    ),
}

_library: Any = torch.library.Library("guide", "FRAGMENT")  # type: ignore[no-untyped-call]
if not load_libraries(torch.ops.guide, SCHEMAS):
    for _schema in SCHEMAS.values():
        _library.define(_schema)


def _float32_products(query: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: it would compute the accumulating products in half precision."""
    device_type = query.device.type
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _chunked_kernel(*tensors: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = chunked.ChunkedCall(*tensors, **options)
    check_arguments(call)
    with _float32_products(call.query):
        return chunked.forward(call)


def _new_empty_strided(
    self: Tensor, size: list[int], stride: list[int], dtype: torch.dtype
) -> Tensor:
    return self.new_empty_strided(size, stride, dtype=dtype)


def _fake_kernel(*tensors: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = AttentionCall(*tensors, **options)
    check_arguments(call)
    return chunked.allocate_outputs(call)


def _backward_kernel(*tensors: Any, wanted: list[bool], **options: Any) -> tuple[Tensor, ...]:
    gradients, inputs, outputs = tensors[:3], tensors[3:-3], tensors[-3:]
    call = chunked.ChunkedCall(*inputs, **options)
    check_backward(call, gradients, outputs, wanted)
    with _float32_products(call.query):
        results = chunked_backward.backward(
            call, outputs, chunked_backward.OutputGradients(*gradients), wanted
        )
    return tuple(call.query.new_empty(0) if result is None else result for result in results)


def _fake_backward_kernel(*args: Any, wanted: list[bool], **options: Any) -> tuple[Tensor, ...]:
    query = args[3]
    inputs = args[3 : 3 + derivatives.NUM_DIFFERENTIABLE]
    check_backward(AttentionCall(*args[3:-3], **options), args[:3], args[-3:], wanted)
    return tuple(
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        if tensor is not None and want
        else query.new_empty(0)
        for tensor, want in zip(inputs, wanted, strict=True)
    )


def _autocast_kernel(device_type: str) -> Callable[..., Any]:
    """Make the kernel that casts query, key and value to the autocast dtype of a device.

    The rest stays as it is: the bias, the influence and the sinks act in float32 whatever the
    operands are.
    """
    keys = torch._C.DispatchKeySet(
        getattr(torch._C.DispatchKey, f"Autocast{_DISPATCH_KEYS[device_type]}")
    )

    def kernel(*tensors: Any, **options: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.guide.biased_attention(*_autocast(device_type, *tensors), **options)

    return kernel


def _autocast(
    device_type: str, query: Tensor, key: Tensor, value: Tensor, *rest: Tensor | None
) -> tuple[Tensor | None, ...]:
    dtype = torch.get_autocast_dtype(device_type)
    operands = (
        tensor.to(dtype) if tensor.dtype in _AUTOCAST_DTYPES else tensor
        for tensor in (query, key, value)
    )
    return (*operands, *rest)


# As in torch's own autocast rules, float64 is a choice that is left alone.
_AUTOCAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

_library.impl("biased_attention", _chunked_kernel, "CompositeExplicitAutograd")
_library.impl("biased_attention_backward", _backward_kernel, "CompositeExplicitAutograd")
# Compiled code calls these: the first two for calls that no kernel takes, the last to raise the
# error of an allocation that failed.
for _name, _kernel in (
    ("biased_attention_chunked", _chunked_kernel),
    ("biased_attention_backward_chunked", _backward_kernel),
    ("new_empty_strided", _new_empty_strided),
):
    _library.impl(_name, keep_errors(_kernel), "CompositeExplicitAutograd")
for _name in ("biased_attention", "biased_attention_chunked"):
    torch.library.register_fake(f"guide::{_name}", _fake_kernel, lib=_library)
for _name in ("biased_attention_backward", "biased_attention_backward_chunked"):
    torch.library.register_fake(f"guide::{_name}", _fake_backward_kernel, lib=_library)


def register_chunked_backward(library: Any, operator: Any) -> None:
    """Give an operator with the schema of `biased_attention` derivatives by chunked PyTorch."""
    backward = torch.ops.guide.biased_attention_backward_chunked.default
    derivatives.register(library, operator, derivatives.Attention, backward)


derivatives.register(
    _library,
    torch.ops.guide.biased_attention.default,
    derivatives.Attention,
    torch.ops.guide.biased_attention_backward.default,
    _autocast,
)
register_chunked_backward(_library, torch.ops.guide.biased_attention_chunked.default)
for _backward in (
    torch.ops.guide.biased_attention_backward.default,
    torch.ops.guide.biased_attention_backward_chunked.default,
):
    derivatives.register(_library, _backward, derivatives.AttentionBackward)
for _device_type, _key in _DISPATCH_KEYS.items():
    _library.impl("biased_attention", _autocast_kernel(_device_type), f"Autocast{_key}")


OPERATOR: Any = torch.ops.guide.biased_attention.default
# What `OPERATOR(...)` calls, without the Python function around it.
_call_operator = OPERATOR._op
_BelowAutograd = torch._C._AutoDispatchBelowAutograd


def call_plain(
    tensors: tuple[Tensor | None, ...],
    is_causal: bool,
    window_left: int,
    window_right: int,
    scale: float | None,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the operator with plain tensors and numbers, as quickly as that goes.

    Where nothing wants a derivative, the call begins below autograd, whose kernel is a Python
    function: to get there and back takes as long as a small attention. What equals its default is
    left out, as each argument costs its conversion.

    Args:
        tensors: The eight of the schema: of torch's own classes, and no mode of torch functions is
            active. Each of those runs code of its own, with derivatives of its own.
        is_causal: As in the schema, like all that follow; no symbols: to compare one would fix it.
        window_left: See the schema.
        window_right: See the schema.
        scale: See the schema.
        softcap: See the schema.

    """
    _, _, _, key_bias, influence, attn_bias, sinks, q_start = given = tensors
    if attn_bias is None and sinks is None and q_start is None:
        given = tensors[: 3 if key_bias is None and influence is None else 5]
    told: dict[str, Any] = {}
    if is_causal:
        told["is_causal"] = is_causal
    if window_left != -1:
        told["window_left"] = window_left
    if window_right != -1:
        told["window_right"] = window_right
    if scale is not None:
        told["scale"] = scale
    if softcap != 0:
        told["softcap"] = softcap
    result: tuple[Tensor, Tensor, Tensor]
    if derivatives.may_be_wanted(given) or is_inference_mode_enabled():
        result = _call_operator(*given, **told)
    else:
        with _BelowAutograd():
            result = _call_operator(*given, **told)
    return result
