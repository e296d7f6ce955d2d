# SPDX-License-Identifier: MIT
"""What `guide::biased_attention` accepts: the one list of argument errors.

`csrc/ops` holds the same list in C++, in the same order and words, because the compiled kernels
must be safe when they are called without Python; `tests/op/test_checks.py` runs every bad input
through both. Only metadata is looked at (shapes, dtypes, devices, strides), never a value on the
device, so the checks cost no synchronisation and work on fake tensors and symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from guide_ext.op.call import AttentionCall

_SMALLEST_SOFTCAP = torch.finfo(torch.float32).tiny
_LARGEST_FACTOR = 2.35e38
NUM_GRADIENTS = 7
QUERY_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_arguments(call: AttentionCall) -> None:
    """Raise for the first argument that the op cannot take.

    Raises:
        ValueError: ``biased_attention: <argument> must ..., got ...``.

    """
    _check_operands(call.query, call.key, call.value)
    for name in ("key_bias", "influence", "attn_bias", "sinks", "q_start"):
        tensor = getattr(call, name)
        if tensor is not None:
            _check_layout(name, tensor)
            _check_device(name, tensor, call.query)
    if call.key_bias is not None:
        _check_key_bias(call.key_bias, call)
    if call.influence is not None:
        _check_influence(call.influence, call)
    if call.attn_bias is not None:
        _check_attn_bias(call.attn_bias, call)
    if call.sinks is not None:
        _check_sinks(call.sinks, call)
    if call.q_start is not None:
        _check_q_start(call.q_start, call)
    _check_window("window_left", call.window_left)
    _check_window("window_right", call.window_right)
    _check_factors(call.scale, call.softcap)


def check_backward(
    call: AttentionCall,
    gradients: Sequence[Tensor | None],
    results: Sequence[Tensor],
    wanted: Sequence[bool],
) -> None:
    """Raise for the first argument that `biased_attention_backward` cannot take.

    Args:
        call: What the op was called with.
        gradients: What reached out, influence_out and lse.
        results: out, influence_out and lse.
        wanted: Which of the seven gradients are wanted.

    Raises:
        ValueError: ``biased_attention: <argument> must ..., got ...``.

    """
    check_arguments(call)
    batch, num_heads, seqlen_q, _ = call.query.shape
    channels = 0 if call.influence is None else call.influence.shape[1]
    expected = {
        "out": (
            "[batch, num_heads, seqlen_q, head_dim_v]",
            (batch, num_heads, seqlen_q, call.value.shape[3]),
            call.query.dtype,
        ),
        "influence_out": (
            "[batch, channels, num_heads, seqlen_q]",
            (batch, channels, num_heads, seqlen_q),
            call.dtype,
        ),
        "lse": ("[batch, num_heads, seqlen_q]", (batch, num_heads, seqlen_q), call.dtype),
    }
    for prefix, tensors in (("grad_", gradients), ("", results)):
        for tensor, (name, (meaning, shape, dtype)) in zip(tensors, expected.items(), strict=True):
            if tensor is None:
                continue
            name = prefix + name
            _check_layout(name, tensor)
            _check_device(name, tensor, call.query)
            if tensor.dtype != dtype:
                _fail(f"{name} must be {_name(dtype)}, got {_name(tensor.dtype)}")
            if tensor.dim() != len(shape) or not all(
                holds(size == other) for size, other in zip(tensor.shape, shape, strict=True)
            ):
                _fail(f"{name} must be {meaning} = {_list(shape)}, got shape {_list(tensor.shape)}")
    if len(wanted) != NUM_GRADIENTS:
        _fail(f"wanted must have {NUM_GRADIENTS} entries, got {len(wanted)}")


def _check_operands(query: Tensor, key: Tensor, value: Tensor) -> None:
    operands = {"query": query, "key": key, "value": value}
    meanings = {
        "query": "[batch, num_heads, seqlen_q, head_dim]",
        "key": "[batch, num_kv_heads, seqlen_k, head_dim]",
        "value": "[batch, num_kv_heads, seqlen_k, head_dim_v]",
    }
    for name, tensor in operands.items():
        _check_layout(name, tensor)
        if tensor.dim() != 4:
            _fail(f"{name} must be {meanings[name]}, got shape {_list(tensor.shape)}")
    if query.dtype not in QUERY_DTYPES:
        _fail(f"query must be float16, bfloat16, float32 or float64, got {_name(query.dtype)}")
    for name in ("key", "value"):
        if operands[name].dtype != query.dtype:
            _fail(
                f"{name} must have the dtype of query, {_name(query.dtype)}, "
                f"got {_name(operands[name].dtype)}"
            )
        _check_device(name, operands[name], query)
    batch, num_heads, _, head_dim = query.shape
    _, num_kv_heads, seqlen_k, _ = key.shape
    if not holds(head_dim >= 1):
        _fail(f"query must have head_dim >= 1, got shape {_list(query.shape)}")
    if not (holds(key.shape[0] == batch) and holds(key.shape[3] == head_dim)):
        _fail(
            f"key must be [batch, num_kv_heads, seqlen_k, head_dim] = "
            f"[{batch}, num_kv_heads, seqlen_k, {head_dim}] to go with query, "
            f"got shape {_list(key.shape)}"
        )
    if not (
        holds(value.shape[0] == batch)
        and holds(value.shape[1] == num_kv_heads)
        and holds(value.shape[2] == seqlen_k)
    ):
        _fail(
            f"value must be [batch, num_kv_heads, seqlen_k, head_dim_v] = "
            f"[{batch}, {num_kv_heads}, {seqlen_k}, head_dim_v] to go with key, "
            f"got shape {_list(value.shape)}"
        )
    if not holds(value.shape[3] >= 1):
        _fail(f"value must have head_dim_v >= 1, got shape {_list(value.shape)}")
    if not (
        holds(num_heads >= 1) and holds(num_kv_heads >= 1) and holds(num_heads % num_kv_heads == 0)
    ):
        _fail(
            "query must have num_heads that is a positive multiple of key's num_kv_heads, "
            f"got {num_heads} and {num_kv_heads}"
        )
    for name, tensor in operands.items():
        if not (holds(tensor.stride(3) == 1) or holds(tensor.shape[3] <= 1)):
            _fail(
                f"{name} must have a contiguous last dimension, "
                f"got strides {_list(tensor.stride())}; call .contiguous()"
            )


def _check_key_bias(key_bias: Tensor, call: AttentionCall) -> None:
    _check_float32("key_bias", key_bias, call.query)
    batch, num_heads = call.query.shape[:2]
    seqlen_k, shape = call.key.shape[2], key_bias.shape
    if not (
        key_bias.dim() == 3
        and broadcasts(shape[0], batch)
        and broadcasts(shape[1], num_heads)
        and holds(shape[2] == seqlen_k)
    ):
        _fail(
            "key_bias must be [1 or batch, 1 or num_heads, seqlen_k] = "
            f"[1 or {batch}, 1 or {num_heads}, {seqlen_k}], got shape {_list(shape)}"
        )


def _check_influence(influence: Tensor, call: AttentionCall) -> None:
    _check_float32("influence", influence, call.query)
    batch, seqlen_k, shape = call.query.shape[0], call.key.shape[2], influence.shape
    if not (
        influence.dim() == 3
        and broadcasts(shape[0], batch)
        and holds(shape[1] >= 1)
        and holds(shape[2] == seqlen_k)
    ):
        _fail(
            "influence must be [1 or batch, channels >= 1, seqlen_k] = "
            f"[1 or {batch}, channels >= 1, {seqlen_k}], got shape {_list(shape)}"
        )


def _check_attn_bias(attn_bias: Tensor, call: AttentionCall) -> None:
    if attn_bias.dtype not in (torch.bool, *QUERY_DTYPES):
        _fail(
            "attn_bias must be bool (True = visible), float16, bfloat16, float32 or float64, "
            f"got {_name(attn_bias.dtype)}"
        )
    batch, num_heads, seqlen_q, _ = call.query.shape
    seqlen_k, shape = call.key.shape[2], attn_bias.shape
    if not (
        attn_bias.dim() == 4
        and broadcasts(shape[0], batch)
        and broadcasts(shape[1], num_heads)
        and holds(shape[2] == seqlen_q)
        and holds(shape[3] == seqlen_k)
    ):
        _fail(
            "attn_bias must be [1 or batch, 1 or num_heads, seqlen_q, seqlen_k] = "
            f"[1 or {batch}, 1 or {num_heads}, {seqlen_q}, {seqlen_k}], "
            f"got shape {_list(shape)}"
        )


def _check_sinks(sinks: Tensor, call: AttentionCall) -> None:
    num_heads = call.num_heads
    if sinks.dtype not in QUERY_DTYPES:
        _fail(f"sinks must be float16, bfloat16, float32 or float64, got {_name(sinks.dtype)}")
    if not (sinks.dim() == 1 and holds(sinks.shape[0] == num_heads)):
        _fail(f"sinks must be [num_heads] = [{num_heads}], got shape {_list(sinks.shape)}")


def _check_q_start(q_start: Tensor, call: AttentionCall) -> None:
    batch = call.query.shape[0]
    if q_start.dtype != torch.int32:
        _fail(f"q_start must be int32, got {_name(q_start.dtype)}")
    if not (q_start.dim() == 1 and broadcasts(q_start.shape[0], batch)):
        _fail(f"q_start must be [1 or batch] = [1 or {batch}], got shape {_list(q_start.shape)}")


def _check_window(name: str, window: int) -> None:
    if not holds(window >= -1):
        _fail(f"{name} must be -1 (no limit) or at least 0, got {window}")


def _check_factors(scale: float | None, softcap: float) -> None:
    # Kernels compute in float32 and may do so in bits: a number that leaves its range there would
    # change its meaning.
    # Comparisons instead of math.isfinite: they are false for NaN and work on symbolic floats.
    if scale is not None and not -_LARGEST_FACTOR <= scale <= _LARGEST_FACTOR:
        _fail(f"scale must be at most {_LARGEST_FACTOR:g} in magnitude, got {scale:g}")
    if not (softcap == 0.0 or _SMALLEST_SOFTCAP <= softcap <= _LARGEST_FACTOR):
        _fail(
            f"softcap must be 0 (off) or from {_SMALLEST_SOFTCAP:g} to {_LARGEST_FACTOR:g}, "
            f"got {softcap:g}"
        )
    if softcap and scale is not None and abs(scale) > _LARGEST_FACTOR * softcap:
        _fail(
            f"scale / softcap must be at most {_LARGEST_FACTOR:g} in magnitude, "
            f"got {scale:g} / {softcap:g}"
        )


def _check_layout(name: str, tensor: Tensor) -> None:
    # Not in C++: torch never sends another layout to the kernel of a device.
    if tensor.layout is not torch.strided:
        _fail(f"{name} must be a strided tensor, got layout {_name(tensor.layout)}")


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        _fail(f"{name} must be on the device of query, {query.device}, got {tensor.device}")


def _check_float32(name: str, tensor: Tensor, query: Tensor) -> None:
    # A float64 query is computed in float64 throughout, so its companions may be exact too.
    if query.dtype == torch.float64:
        if tensor.dtype not in (torch.float32, torch.float64):
            _fail(f"{name} must be float32 or float64, got {_name(tensor.dtype)}; call .float()")
    elif tensor.dtype != torch.float32:
        _fail(f"{name} must be float32, got {_name(tensor.dtype)}; call .float()")


def broadcasts(size: int, full: int) -> bool:
    """Say whether a size is 1 or equal to `full`. Both may be symbols."""
    # Equality first: equal symbols are equal whatever they stand for.
    return holds(size == full) or holds(size == 1)


def holds(condition: bool) -> bool:
    """Evaluate a condition; True if only the data of a later run can tell: kernels check again."""
    if isinstance(condition, torch.SymBool):
        from torch.fx.experimental.symbolic_shapes import guard_or_true

        return guard_or_true(condition)
    return condition


def _name(dtype_or_layout: torch.dtype | torch.layout) -> str:
    return str(dtype_or_layout).removeprefix("torch.")


def _list(sizes: torch.Size | tuple[int, ...]) -> str:
    return str(list(sizes))


def _fail(text: str) -> NoReturn:
    raise ValueError(f"biased_attention: {text}")
