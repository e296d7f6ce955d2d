# SPDX-License-Identifier: MIT
"""Which implementation takes a call and why no faster one does: the rules of csrc/ops, in words."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from guide_ext.op.libraries import cuda_device_obstacle, cuda_status, library_status

# Larger heads go from the compiled kernels to the chunked implementation: kMaxHeadDim in
# csrc/ops/biased_attention_cpu.cpp and in csrc/attention/cuda/forward.h.
MAX_HEAD_DIM = {"cpu": 512, "cuda": 256}
# Longer sequences too: kMaxLength in csrc/attention/cuda/forward.cpp.
CUDA_MAX_LENGTH = 1 << 30
# Channels of influence that one launch takes: kMaxChannels in csrc/attention/cuda/instances.h. Up
# to two have kernels of their own.
CUDA_CHANNELS_PER_LAUNCH = 8
CUDA_FAST_CHANNELS = 2
_COPY_BYTES = 16  # what the CUDA kernels copy in one piece

_COMPILED_DTYPES = {
    "cpu": (torch.float16, torch.bfloat16, torch.float32),
    "cuda": (torch.float16, torch.bfloat16),
}


def obstacles(query: Tensor, key: Tensor, value: Tensor) -> list[str]:
    """List in words why no compiled kernel takes a valid call; empty if one does."""
    device_type = query.device.type
    if device_type not in MAX_HEAD_DIM:
        return [f"query is on {query.device}: there is no {device_type} kernel"]
    found = _library_obstacles(query.device)
    dtypes = _COMPILED_DTYPES[device_type]
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    if query.dtype not in dtypes:
        dtype = str(query.dtype).removeprefix("torch.")
        found.append(
            f"query is {dtype}: the compiled {_NAMES[device_type]} kernels take "
            f"{', '.join(names[:-1])} and {names[-1]}"
        )
    limit = MAX_HEAD_DIM[device_type]
    for name, tensor in (("query", query), ("value", value)):
        if tensor.shape[3] > limit:
            found.append(
                f"{name} has a head dimension of {tensor.shape[3]}: the compiled "
                f"{_NAMES[device_type]} kernel takes at most {limit}"
            )
    if device_type == "cuda":
        for name, tensor in (("query", query), ("key", key)):
            if tensor.shape[2] > CUDA_MAX_LENGTH:
                found.append(
                    f"{name} has {tensor.shape[2]} rows: the compiled CUDA kernel takes at most "
                    f"{CUDA_MAX_LENGTH}"
                )
    return found


_NAMES = {"cpu": "CPU", "cuda": "CUDA"}


def _library_obstacles(device: torch.device) -> list[str]:
    if device.type == "cpu":
        status = library_status()
        return [] if status.loaded else [status.reason]
    cuda = cuda_status()
    if not cuda.loaded:
        return [cuda.reason]
    obstacle = cuda_device_obstacle(device.index or 0)
    return [] if obstacle is None else [obstacle]


def compiled_kernel(
    query: Tensor, key: Tensor, value: Tensor, influence: Tensor | None
) -> tuple[str, list[str]]:
    """Name the compiled kernel that takes a call and list what keeps it from a faster variant."""
    if query.device.type == "cuda":
        return "cuda/sm80", _why_general(query, key, value, influence)
    status = library_status()
    if status.instruction_set is None:
        return "none", [status.reason]
    forced = os.environ.get("GUIDE_EXT_CPU_ISA")
    reasons = [f"GUIDE_EXT_CPU_ISA={forced} chooses the instruction set"] if forced else []
    return f"cpu/{status.instruction_set}", reasons


def _why_general(query: Tensor, key: Tensor, value: Tensor, influence: Tensor | None) -> list[str]:
    """List what sends a call to the general CUDA kernel, besides a dense attn_bias."""
    reasons = []
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not _can_be_copied(tensor):
            reasons.append(
                f"{name} does not have all its rows at multiples of {_COPY_BYTES} bytes: they are "
                "gathered element by element; make the head dimension and the strides multiples "
                f"of {_COPY_BYTES // query.element_size()}"
            )
    channels = 0 if influence is None else influence.shape[1]
    if channels > CUDA_FAST_CHANNELS:
        launches = -(-channels // CUDA_CHANNELS_PER_LAUNCH)
        reasons.append(
            f"influence has {channels} channels: up to {CUDA_FAST_CHANNELS} have a kernel of their "
            f"own, this call takes {launches} launch{'es' if launches > 1 else ''} of the general "
            f"one, {CUDA_CHANNELS_PER_LAUNCH} channels each"
        )
    return reasons


def _can_be_copied(tensor: Tensor) -> bool:
    elements = _COPY_BYTES // tensor.element_size()
    return tensor.shape[3] % elements == 0 and all(
        stride % elements == 0 for stride in tensor.stride()[:3]
    )
