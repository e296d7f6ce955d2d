# SPDX-License-Identifier: MIT
"""What is timed on a CPU: its problems, and the implementations that take them there."""

from __future__ import annotations

import functools

import torch
from ceilings import Ceilings, product_name
from peers import Call, Implementations, UnavailableError, columns, eager, flex, guide, sdpa
from problems import DTYPE_NAMES, Inputs, Problem, prefill

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def ours(channels: int) -> str:
    """Name the op of this package with a bias and channels of influence.

    Example:
        >>> ours(8)
        'guide, bias + 8 channels'

    """
    return f"guide, bias + {channels} channel{'' if channels == 1 else 's'}"


OURS = ours(1)
OURS_PLAIN = "guide, neither"
SDPA = "SDPA, neither"
SDPA_FOLDED = "SDPA folded, neither"
SDPA_BIAS = "SDPA, dense bias"
SDPA_BIAS_FOLDED = "SDPA folded, dense bias"
COLUMNS = "columns, bias + 1 channel"
COLUMNS_FOLDED = "columns folded, bias + 1 channel"
FLEX = "Flex, bias + 1 channel"
EAGER = "eager, bias + 1 channel"

LONGEST_CALL = 10.0  # seconds; a peer that needs more is left out


def decode(
    seqlen_k: int, seqlen_q: int = 1, num_kv_heads: int = 8, **options: bool
) -> list[Problem]:
    """Make the problems of one size of decoding, 32 heads of 128."""
    return [
        Problem(
            1, 32, num_kv_heads, seqlen_q, seqlen_k, 128, is_causal=True, dtype=dtype, **options
        )
        for dtype in (FP32, BF16)
    ]


def rows(seqlen_q: int) -> list[Problem]:
    """Make the problems of some queries at the end of 4096 keys, 8 heads of 128."""
    return [
        Problem(1, 8, 2, seqlen_q, 4096, 128, is_causal=True, dtype=dtype) for dtype in (FP32, BF16)
    ]


def windowed(dtype: torch.dtype) -> Problem:
    """Make the problem with a window: every query sees 256 keys before its own."""
    return Problem(
        1, 4, 4, 4096, 4096, 64, is_causal=True, dtype=dtype, times_flex=True, window_left=256
    )


# The heaviest last: what has no time to run is then one of them.
PROBLEMS = [
    Problem(1, 8, 8, 1, 1, 64, is_causal=False, dtype=FP32),
    Problem(1, 8, 8, 16, 16, 64, is_causal=True, dtype=FP32),
    Problem(1, 8, 8, 512, 512, 64, is_causal=False, dtype=FP32, has_dense_bias=True),
    *rows(8),
    *rows(31),
    *rows(63),
    *decode(512),
    *decode(4096, times_flex=True),
    *decode(32768, times_flex=True),
    *decode(4096, num_kv_heads=32),
    *decode(4096, seqlen_q=16),
    *prefill(1, 8, 512, 64, dtype=FP32, times_flex=True),
    *prefill(1, 8, 512, 64, dtype=BF16, times_flex=True),
    *prefill(1, 8, 512, 64, dtype=FP16),
    Problem(1, 8, 8, 2048, 2048, 64, is_causal=True, dtype=FP32, channels=8),
    windowed(FP32),
    windowed(BF16),
    *prefill(8, 8, 1024, 64, dtype=FP32),
    *prefill(8, 8, 1024, 64, dtype=BF16),
    *prefill(1, 32, 2048, 128, dtype=FP32, times_flex=True),
    *prefill(1, 32, 2048, 128, dtype=BF16, times_flex=True),
    *prefill(1, 32, 2048, 128, dtype=FP16),
    *prefill(1, 32, 4096, 128, num_kv_heads=8, dtype=BF16),
    *prefill(1, 32, 4096, 128, num_kv_heads=8, dtype=FP32),
]
SMOKE = [
    *prefill(1, 4, 65, 32, num_kv_heads=2, dtype=FP32),
    Problem(1, 4, 2, 1, 70, 64, is_causal=True, dtype=BF16),
    Problem(2, 4, 2, 3, 70, 64, is_causal=True, dtype=FP32),
    Problem(1, 4, 2, 3, 70, 32, is_causal=True, dtype=FP32, has_dense_bias=True, window_left=9),
    Problem(1, 4, 4, 65, 65, 32, is_causal=True, dtype=BF16, window_left=20, channels=8),
]


def implementations(problem: Problem, products: Ceilings) -> Implementations:
    """List what can take a problem, this package first.

    Args:
        problem: What is timed.
        products: Rates of torch.mm, by which eager attention may be hopeless.

    """
    chosen: Implementations = {ours(problem.channels): guide}
    chosen[OURS_PLAIN] = functools.partial(guide, is_biased=False, channels=0)
    chosen[SDPA] = sdpa
    if problem.is_decode and problem.group_size > 1:
        # Without folding it reads keys and values once a head: not what to be compared with.
        chosen[SDPA_FOLDED] = functools.partial(sdpa, folds_group=True)
        chosen[SDPA_BIAS_FOLDED] = functools.partial(sdpa, is_biased=True, folds_group=True)
        chosen[COLUMNS_FOLDED] = functools.partial(columns, folds_group=True)
    else:
        chosen[SDPA_BIAS] = functools.partial(sdpa, is_biased=True)
        chosen[COLUMNS] = columns
    chosen[FLEX] = functools.partial(flex, channels=1)
    chosen[EAGER] = functools.partial(_eager, products=products)
    return chosen


def _eager(inputs: Inputs, products: Ceilings) -> Call:
    """Run eager attention, unless its products alone take too long."""
    problem = inputs.problem
    if problem.window_left >= 0:
        raise UnavailableError("computes the whole matrix, most of which the window hides")
    rate = products.get(product_name(DTYPE_NAMES[problem.dtype]), float("inf"))
    seconds = 4e-9 * problem.scores * problem.head_dim / rate
    if seconds > LONGEST_CALL:
        raise UnavailableError(
            f"its products take {seconds:.0f} s: torch.mm does {rate:.1f} GFLOP/s"
        )
    return eager(inputs)
