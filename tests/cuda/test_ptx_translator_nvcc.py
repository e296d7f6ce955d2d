# SPDX-License-Identifier: MIT
"""PTX to C++ with what nvcc emits: the wrappers of ptx.cuh, planted errors, mathematics."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest
import torch
from cuda_emulator.ptx import MUTATIONS, mutate, translate
from cuda_emulator.ptx.selftest import harness

pytestmark = [
    pytest.mark.skipif(harness.find_compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(
        harness.find_nvcc() is None, reason="there is no nvcc: see cmake/find_nvcc.py"
    ),
]


@functools.cache
def wrappers_ptx() -> str:
    source = harness.EMULATOR / "selftest" / "ptx_wrappers.cu"
    return harness.compile_cuda(source.read_text(encoding="utf-8"))


def run_wrappers(ptx: str, kind: str, schedule: tuple[str, int] = ("in-order", 0)) -> str:
    """Run the wrappers on a matrix with missing rows; return what was reported or is wrong."""
    torch_kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}[kind]
    random = torch.Generator().manual_seed(1)
    a, b, start = (torch.randn(16, 16, generator=random) for _ in range(3))
    start[5, 3] = math.nan
    bits = [x.to(torch_kind).view(torch.int16).numpy() for x in (a[:11].contiguous(), b)]
    product, powers = np.zeros((16, 8), np.uint32), np.zeros((16, 16), np.float32)
    row_max = np.zeros(16, np.float32)
    arrays = (*bits, start.numpy(), product, powers, row_max)
    unit = harness.Unit(ptx)
    name = f"wrappers_{kind}"
    reports = unit.launch(
        name, *arrays, np.int32(11), threads=64, shared_bytes=2304, schedule=schedule
    )
    a[11:] = 0
    sums = a.to(torch_kind).double() @ b.to(torch_kind).double() + start.double()
    halves = torch.from_numpy(product.view(np.int16)).view(torch_kind).double()
    problems = (
        [] if torch.allclose(halves, sums, rtol=0.01, atol=0.01, equal_nan=True) else ["sums"]
    )
    if not torch.allclose(torch.from_numpy(powers).double(), 2**sums, rtol=1e-4, equal_nan=True):
        problems.append("powers")
    largest = torch.from_numpy(row_max).double()
    if not torch.allclose(largest, sums.amax(1), rtol=1e-4, atol=1e-5, equal_nan=True):
        problems.append("maximum")
    return reports + ", ".join(problems)


@pytest.mark.parametrize("schedule", [("in-order", 0), ("reverse", 0), ("random", 3)])
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_every_wrapper_of_ptx_cuh(kind: str, schedule: tuple[str, int]) -> None:
    assert run_wrappers(wrappers_ptx(), kind, schedule) == ""


def test_line_information_changes_nothing() -> None:
    source = (harness.EMULATOR / "selftest" / "ptx_wrappers.cu").read_text(encoding="utf-8")
    with_lines = translate(harness.compile_cuda(source, "-lineinfo"))
    numbers = re.compile(r" // \d+$", re.MULTILINE)
    assert numbers.sub("", with_lines) == numbers.sub("", translate(wrappers_ptx()))


# What each planted error makes of the wrappers: a passage of a report, or what is wrong.
NOTICED = {
    "load_not_transposed": "sums",
    "load_transposed": "sums",
    "load_registers_swapped": "sums",
    "mma_a_registers_swapped": "sums",
    "mma_b_registers_swapped": "sums",
    "mma_sums_not_added": "sums",
    "copy_source_size_ignored": "cp.async of 16 bytes at",
    "copy_not_committed": "under way",
    "copy_wait_raised": "under way",
    "copy_wait_removed": "under way",
    "barrier_removed": "race",
    "pack_swapped": "sums",
    "nan_dropped": "maximum",
    "shared_pair_swapped": "powers",
    "shared_chunk_swapped": "powers",
    "shuffle_lane_changed": "maximum",
}


@pytest.mark.parametrize(("name", "sign"), NOTICED.items(), ids=NOTICED)
def test_planted_errors_are_noticed(name: str, sign: str) -> None:
    mutant = mutate(wrappers_ptx(), name, which="all", kernel="bfloat16")
    assert mutant.count("\n") == wrappers_ptx().count("\n")
    noticed = run_wrappers(mutant, "bfloat16")
    assert sign in noticed
    assert run_wrappers(mutant, "float16") == ""


def test_every_mutation_has_a_test() -> None:
    # There is no warp barrier in the wrappers: what one orders, the emulator's own tests show.
    assert set(NOTICED) | {"warp_barrier_removed"} == set(MUTATIONS)


MATHS = """
extern "C" __global__ void maths(const float* x, const long long* n, float* y, long long* m) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float a = x[i];
  float* row = y + 8 * i;
  row[0] = tanhf(a); row[1] = expf(a); row[2] = logf(fabsf(a)); row[3] = powf(fabsf(a), 1.7f);
  row[4] = a / 3.0f; row[5] = log1pf(fabsf(a)); row[6] = exp2f(a); row[7] = rsqrtf(fabsf(a));
  const long long b = n[i];
  long long* out = m + 6 * i;
  out[0] = b / 7; out[1] = b % -5; out[2] = __popcll(b) + __clzll(b); out[3] = __ffs((int)b);
  out[4] = b * 5 >> 3; out[5] = (unsigned)b / 10u;
}
"""


def test_maths_of_nvcc() -> None:
    x = np.linspace(-9, 9, 64, dtype=np.float32)
    n = np.arange(-32, 32, dtype=np.int64) * 123456789123
    y, m = np.zeros((64, 8), np.float32), np.zeros((64, 6), np.int64)
    unit = harness.Unit(harness.compile_cuda(MATHS))
    assert not unit.launch("maths", x, n, y, m, blocks=2, threads=32)
    size = np.abs(x).astype(np.float64)
    wide = x.astype(np.float64)
    columns = [np.tanh(wide), np.exp(wide), np.log(size), size**1.7]
    columns += [wide / 3, np.log1p(size), np.exp2(wide), 1 / np.sqrt(size)]
    # The CUDA programming guide gives a few ulps for each of them.
    np.testing.assert_allclose(y, np.stack(columns, 1), rtol=1e-6)
    for values, b in zip(m.tolist(), n.tolist(), strict=True):
        pattern, low = b % (1 << 64), b % (1 << 32)
        assert values == [
            int(math.copysign(abs(b) // 7, b)),
            int(math.copysign(abs(b) % 5, b)),
            pattern.bit_count() + 64 - pattern.bit_length(),
            (low & -low).bit_length(),
            b * 5 >> 3,
            low // 10,
        ]
