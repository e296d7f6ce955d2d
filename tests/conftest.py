# SPDX-License-Identifier: MIT
"""Seeds, markers, the backends of the op, and the one tolerance policy (`tolerance.py`)."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import tolerance
import torch
from torch import Tensor

from guide_ext import _chunked, _ops

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
    # Blocks small enough that little problems have several, and ragged ones: in batch, rows, keys.
    monkeypatch.setattr(_chunked, "SCRATCH_ELEMENTS", 1 << 11)
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
    """Give the tolerance policy, see `tolerance.assert_accurate`."""
    return tolerance.assert_accurate
