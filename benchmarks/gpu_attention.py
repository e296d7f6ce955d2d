# SPDX-License-Identifier: MIT
"""What is timed on a GPU: its problems, and the implementations that take them there."""

from __future__ import annotations

import functools

import torch
from peers import Implementations, eager, flex, guide, sdpa
from problems import Problem, prefill
from torch.nn.attention import SDPBackend

# Most important first: a run that is out of time leaves the end out.
PROBLEMS = [
    *prefill(2, 32, 8192, 128, times_flex=True),
    *prefill(4, 32, 4096, 128),
    *prefill(2, 32, 8192, 64, times_flex=True),
    *prefill(2, 16, 8192, 256),
    *prefill(16, 32, 1024, 128),
    *prefill(2, 32, 8192, 128, num_kv_heads=8),
    *prefill(1, 32, 32768, 128),
    *prefill(2, 32, 8192, 128, dtype=torch.float16),
    # The kernel has no split over the keys yet: what decoding costs without one.
    Problem(4, 32, 8, 1, 8192, 128, is_causal=True),
    Problem(4, 32, 8, 16, 8192, 128, is_causal=True),
]
SMOKE = [*prefill(1, 4, 65, 32, num_kv_heads=2), Problem(1, 2, 1, 1, 70, 64, is_causal=True)]

IMPLEMENTATIONS: Implementations = {
    "guide, bias + 1 channel": guide,
    "guide, neither": functools.partial(guide, is_biased=False, channels=0),
    "guide, bias": functools.partial(guide, channels=0),
    "guide, bias + 2 channels": functools.partial(guide, channels=2),
    "guide, bias + 8 channels": functools.partial(guide, channels=8),
    "SDPA flash, neither": functools.partial(sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "SDPA cuDNN, neither": functools.partial(sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "SDPA efficient, dense bias": functools.partial(
        sdpa, backend=SDPBackend.EFFICIENT_ATTENTION, is_biased=True
    ),
    "Flex, bias": flex,
    "Flex, bias + 1 channel": functools.partial(flex, channels=1),
    "eager, bias + 1 channel": eager,
}
