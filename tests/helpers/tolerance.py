# SPDX-License-Identifier: MIT
"""The one tolerance policy, for tests and benchmarks.

The error of what is tested against the float64 oracle is at most twice the error of naive PyTorch
in the same dtype, plus a few units in the last place of the largest output (naive PyTorch may be
right by luck); three times for gradients that start from a rounded lse. No other file holds a
tolerance.
"""

import pytest
import torch
from torch import Tensor

# The exception: logits of whole float32 models, of which there is no float64 oracle. Two orders of
# summation differ by some 1e-6 of the largest logit; every mutation tried (a wrong offset, window,
# cap, sink, missing bias) differs by more than 1e-2.
MODEL_LOGITS = 2e-5

# Likewise Influence, whose values lie between 0 and 1.
INFLUENCE = 1e-5

NAIVE_FACTOR = 2.0
# Of gradients by the compiled kernel of the CPU. It takes the weights of a row from lse, as every
# fused backward does, and lse is rounded to float32: a relative error of all weights of the row,
# which naive PyTorch may escape by luck. Chunked PyTorch sums the scores once more and does not
# need it.
ROUNDED_LSE_FACTOR = 3.0
FLOOR_ULPS = 4.0


def assert_accurate(
    actual: Tensor,
    oracle: Tensor,
    naive: Tensor,
    name: str = "result",
    *,
    at_least: float = 0.0,
    factor: float = NAIVE_FACTOR,
) -> None:
    """Judge a result by the policy at the top of this file.

    Args:
        actual: The result under test.
        oracle: The float64 truth, same shape. Where it is inf or NaN, `actual` must be the same.
        naive: What naive PyTorch gets in the dtype of `actual`.
        name: What to call it in the message.
        at_least: Magnitude to which the floor refers when the outputs are smaller, as 1 for a
            logarithm, whose absolute error is the relative error of its argument.
        factor: How many times the error of naive PyTorch is allowed: one of this file.

    """
    if actual.shape != oracle.shape:
        pytest.fail(f"{name}: shape {actual.shape} where the oracle has {oracle.shape}")
    finite = oracle.isfinite()
    special = ~finite | ~actual.isfinite()
    wrong = special & (actual.double() != oracle) & ~(actual.isnan() & oracle.isnan())
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        pytest.fail(f"{name}: {actual[index]} at {index} where the oracle has {oracle[index]}")
    if not finite.any():
        return

    def error_of(candidate: Tensor) -> Tensor:
        # Where naive PyTorch overflows it allows nothing.
        counted = finite & candidate.isfinite()
        return torch.where(counted, candidate.double() - oracle, 0.0).abs()

    error, naive_error = error_of(actual), error_of(naive).max().item()
    magnitude = max(at_least, oracle[finite].abs().max().item())
    floor = FLOOR_ULPS * torch.finfo(actual.dtype).eps * magnitude
    worst = error.max().item()
    index = tuple(i.item() for i in torch.unravel_index(error.argmax(), error.shape))
    if worst > factor * naive_error + floor:
        pytest.fail(
            f"{name} ({actual.dtype}): error {worst:.3e} at {index} where the oracle has "
            f"{oracle[index].item():.6g} and the result {actual[index].item():.6g}; naive PyTorch "
            f"has error {naive_error:.3e}; allowed are {factor:g} times that plus {floor:.3e}"
        )
