# SPDX-License-Identifier: MIT
"""The backends of the op: one file of tests runs on all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import emulated_amx
import emulated_op
import pytest
import torch
from attention_cases import Case
from fixtures import assert_accurate, restored_threads
from tolerance import NAIVE_FACTOR, ROUNDED_LSE_FACTOR
from torch import Tensor

from guide_ext.op import chunked, libraries, registration

__all__ = ["assert_accurate", "registration", "restored_threads"]

EVERY_DTYPE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Backend:
    """One implementation of the op: where its inputs live, how it is called, what it takes.

    `backward` computes its gradients, of which `gradient_factor` is the tolerance.
    """

    name: str
    device: torch.device
    run: Callable[..., tuple[Tensor, Tensor, Tensor]]
    dtypes: tuple[torch.dtype, ...] = EVERY_DTYPE
    backward: Callable[..., tuple[Tensor, ...]] = torch.ops.guide.biased_attention_backward_chunked
    gradient_factor: float = NAIVE_FACTOR

    def draw(self, case: Case) -> dict[str, Tensor | None]:
        """Draw the inputs of a case on the device, in a dtype that the kernels take."""
        dtype = case.dtype if case.dtype in self.dtypes else self.dtypes[0]
        return case.but(dtype=dtype).tensors(self.device)


def _compiled_cpu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    status = libraries.library_status()
    if not status.loaded:
        pytest.skip(status.reason)
    return Backend(
        *("cpu", torch.device("cpu"), torch.ops.guide.biased_attention),
        backward=torch.ops.guide.biased_attention_backward,
        gradient_factor=ROUNDED_LSE_FACTOR,
    )


def _chunked_cpu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    # Blocks small enough that little problems have several, and ragged ones: in batch, rows, keys.
    monkeypatch.setattr(chunked, "SCRATCH_ELEMENTS", 1 << 11)
    monkeypatch.setattr(chunked, "MAX_BLOCK_Q", 16)
    monkeypatch.setattr(chunked, "MAX_BLOCK_K", 32)
    return Backend("chunked", torch.device("cpu"), torch.ops.guide.biased_attention_chunked)


HALF_DTYPES = (torch.bfloat16, torch.float16)  # what the CUDA kernels take
BF16 = (torch.bfloat16,)  # what the tiles of AMX multiply


def _emulated(route: str, policy: str) -> Backend:
    try:
        op = emulated_op.emulated_op(route)
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))
    op.set_schedule(policy, seed=1)
    return Backend(route, torch.device("cpu"), op.run, HALF_DTYPES)


def _emulated_source(monkeypatch: pytest.MonkeyPatch) -> Backend:
    return _emulated(emulated_op.SOURCE, "in-order")


def _emulated_ptx(monkeypatch: pytest.MonkeyPatch) -> Backend:
    return _emulated(emulated_op.PTX, "random")


def _amx(monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)  # of another library
    try:
        run = emulated_amx.emulated_amx()
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))
    return Backend("amx", torch.device("cpu"), run, BF16)


def _cuda(monkeypatch: pytest.MonkeyPatch) -> Backend:
    return Backend("cuda", torch.device("cuda"), torch.ops.guide.biased_attention, HALF_DTYPES)


# A further backend is one more line here: every test that takes `backend` then runs on it.
BACKENDS: dict[str, Callable[[pytest.MonkeyPatch], Backend]] = {
    "cpu": _compiled_cpu,
    "chunked": _chunked_cpu,
    "emulated": _emulated_source,
    "emulated-ptx": _emulated_ptx,
    "amx": _amx,
}
SOME_DTYPES = dict.fromkeys(("emulated", "emulated-ptx", "cuda"), HALF_DTYPES) | {"amx": BF16}
if torch.cuda.is_available():
    BACKENDS["cuda"] = _cuda


# tests/amx/test_tiles.py has the sharpest of these cases.
LONG = {"amx"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in BACKENDS]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return BACKENDS[request.param](monkeypatch)


def _dtype(item: pytest.Item) -> torch.dtype | None:
    """Return the dtype that a test asks a backend for that has only some."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    dtype = parameters.get("dtype")
    is_meant = parameters.get("backend") in SOME_DTYPES and isinstance(dtype, torch.dtype)
    return dtype if is_meant else None


def _taken(item: pytest.Item) -> tuple[torch.dtype, ...]:
    return SOME_DTYPES[item.callspec.params["backend"]]


def _drawn(item: pytest.Item, dtype: torch.dtype) -> tuple[object, ...]:
    """Name what such a test really runs, see `Backend.draw`."""
    others = {name: one for name, one in item.callspec.params.items() if name != "dtype"}
    drawn = dtype if dtype in _taken(item) else _taken(item)[0]
    return item.path, item.cls, item.originalname, drawn, repr(others)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs once more what another test runs: float32 where only halves are taken."""
    dtypes = {item: dtype for item in items if (dtype := _dtype(item)) is not None}
    taken_first = sorted(dtypes, key=lambda item: dtypes[item] not in _taken(item))
    first: dict[tuple[object, ...], pytest.Item] = {}
    for item in taken_first:
        first.setdefault(_drawn(item, dtypes[item]), item)
    again = set(dtypes) - set(first.values())
    if again:
        config.hook.pytest_deselected(items=list(again))
        items[:] = [item for item in items if item not in again]
