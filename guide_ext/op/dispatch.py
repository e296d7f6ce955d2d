# SPDX-License-Identifier: MIT
"""Asks the compiled libraries which kernel takes a call, and why no faster one does.

The choice is theirs alone: csrc/attention/cpu/choose.h and csrc/attention/cuda/choose.h know every
limit and make every sentence. A further kernel changes nothing here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from guide_ext.op import libraries
from guide_ext.op.call import AttentionCall


class CallDescription(ctypes.Structure):
    """The struct of that name in csrc/attention/explain.h: the same fields in the same order."""

    _fields_ = (
        ("dtype", ctypes.c_char_p),
        ("batch", ctypes.c_int64),
        ("num_heads", ctypes.c_int64),
        ("num_kv_heads", ctypes.c_int64),
        ("seqlen_q", ctypes.c_int64),
        ("seqlen_k", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("head_dim_v", ctypes.c_int64),
        ("addresses", ctypes.c_int64 * 3),  # of query, key and value
        ("strides", ctypes.c_int64 * 9),  # of their batch, heads and rows
        ("channels", ctypes.c_int64),
        ("has_key_bias", ctypes.c_int64),
        ("has_attn_bias", ctypes.c_int64),
        ("has_sinks", ctypes.c_int64),
        ("has_q_start", ctypes.c_int64),
        ("is_causal", ctypes.c_int64),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("softcap", ctypes.c_double),
    )


_STATUS: dict[str, Callable[[], libraries.LibraryStatus | libraries.CudaStatus]] = {
    "cpu": libraries.library_status,
    "cuda": libraries.cuda_status,
}


def choose(call: AttentionCall) -> tuple[str | None, list[str]]:
    """Return the compiled kernel that takes a valid call, and what keeps it from a faster one.

    Returns:
        The name of the kernel, None where chunked PyTorch has to serve, and the reasons, one
        sentence each.

    """
    device = call.query.device
    if device.type not in _STATUS:
        return None, [f"query is on {device}: there is no {device.type} kernel"]
    status = _STATUS[device.type]()
    if not status.loaded:
        return None, [status.reason]
    return _read(libraries.ask_for_kernel(device, describe(call)), status.reason)


def choose_backward(call: AttentionCall) -> tuple[str | None, list[str]]:
    """Do the same for the gradients of the tensors that require one."""
    device = call.query.device
    if device.type != "cpu":
        return None, [f"query is on {device}: only the CPU has a compiled kernel of the gradients"]
    status = libraries.library_status()
    if not status.loaded:
        return None, [status.reason]
    wants_attn_bias = call.attn_bias is not None and call.attn_bias.requires_grad
    answer = libraries.ask_for_backward_kernel(describe(call), wants_attn_bias)
    return _read(answer, status.reason)


def _read(answer: str | None, status: str) -> tuple[str | None, list[str]]:
    if answer is None:  # no such instruction set: the call would raise
        return "none", [status]
    kernel, *reasons = answer.split("\n")
    return kernel or None, reasons


def describe(call: AttentionCall) -> CallDescription:
    """Fill the C struct with what a choice depends on."""
    operands = (call.query, call.key, call.value)
    return CallDescription(
        dtype=str(call.query.dtype).removeprefix("torch.").encode(),
        batch=call.query.shape[0],
        num_heads=call.num_heads,
        num_kv_heads=call.key.shape[1],
        seqlen_q=call.query.shape[2],
        seqlen_k=call.key.shape[2],
        head_dim=call.query.shape[3],
        head_dim_v=call.value.shape[3],
        addresses=tuple(_address(tensor) for tensor in operands),
        strides=tuple(stride for tensor in operands for stride in tensor.stride()[:3]),
        channels=0 if call.influence is None else call.influence.shape[1],
        has_key_bias=call.key_bias is not None,
        has_attn_bias=call.attn_bias is not None,
        has_sinks=call.sinks is not None,
        has_q_start=call.q_start is not None,
        is_causal=call.is_causal,
        window_left=call.window_left,
        window_right=call.window_right,
        softcap=call.softcap,
    )


def _address(tensor: Tensor) -> int:
    """Return where a tensor begins; of a fake one, which has no memory, the offset."""
    if isinstance(tensor, FakeTensor):
        return int(tensor.storage_offset()) * tensor.element_size()
    return tensor.data_ptr()
