# SPDX-License-Identifier: MIT
"""Seeds, markers, the backends of the op, and the one tolerance policy."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from guide_ext import _chunked, _ops

# The tolerance policy, the only place with such numbers: the error of what is tested against the
# float64 oracle is at most twice the error of naive PyTorch in the same dtype, plus a few units in
# the last place of the largest output (naive PyTorch may be right by luck).
NAIVE_FACTOR = 2.0
FLOOR_ULPS = 4.0

MARKERS = {
    "cuda": "needs a CUDA device",
    "emulated": "runs the CUDA kernels on the CPU emulator",
    "slow": "takes more than a few seconds",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@dataclass(frozen=True)
class Backend:
    """One implementation of the op: where its inputs live and how it is called."""

    name: str
    device: torch.device
    run: Callable[..., tuple[Tensor, Tensor, Tensor]]


def _compiled_cpu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    status = _ops.library_status()
    if not status.loaded:
        pytest.skip(status.reason)
    return Backend("cpu", torch.device("cpu"), torch.ops.guide.biased_attention)


def _chunked_cpu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    # Blocks small enough that little problems have several, and ragged ones.
    monkeypatch.setattr(_chunked, "MAX_BLOCK_Q", 16)
    monkeypatch.setattr(_chunked, "MAX_BLOCK_K", 32)
    return Backend("chunked", torch.device("cpu"), torch.ops.guide.biased_attention_chunked)


# A further backend is one more line here: every test that takes `backend` then runs on it.
BACKENDS: dict[str, Callable[[pytest.MonkeyPatch], Backend]] = {
    "cpu": _compiled_cpu,
    "chunked": _chunked_cpu,
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return BACKENDS[request.param](monkeypatch)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def assert_accurate() -> Callable[..., None]:
    """Give the tolerance policy as a function, see `_assert_accurate`."""
    return _assert_accurate


def _assert_accurate(
    actual: Tensor, oracle: Tensor, naive: Tensor, name: str = "result", *, at_least: float = 0.0
) -> None:
    """Judge a result by the policy at the top of this file.

    Args:
        actual: The result under test.
        oracle: The float64 truth, same shape. Where it is inf or NaN, `actual` must be the same.
        naive: What naive PyTorch gets in the dtype of `actual`.
        name: What to call it in the message.
        at_least: Magnitude to which the floor refers when the outputs are smaller, as 1 for a
            logarithm, whose absolute error is the relative error of its argument.

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
        return torch.where(finite, candidate.double() - oracle, 0.0).abs()

    error, naive_error = error_of(actual), error_of(naive).max().item()
    magnitude = max(at_least, oracle[finite].abs().max().item())
    floor = FLOOR_ULPS * torch.finfo(actual.dtype).eps * magnitude
    worst = error.max().item()
    index = tuple(i.item() for i in torch.unravel_index(error.argmax(), error.shape))
    if worst > NAIVE_FACTOR * naive_error + floor:
        pytest.fail(
            f"{name} ({actual.dtype}): error {worst:.3e} at {index} where the oracle has "
            f"{oracle[index].item():.6g} and the result {actual[index].item():.6g}; naive PyTorch "
            f"has error {naive_error:.3e}; allowed are {NAIVE_FACTOR:g} times that plus {floor:.3e}"
        )
