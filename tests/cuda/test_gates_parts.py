# SPDX-License-Identifier: MIT
"""Parts of the static gates: the main loop of made-up code, and occupancy as the toolkit has it."""

import subprocess

import pytest
from cuda_gates import gate, roofline, tools
from cuda_gates.control_flow import find_main_loop
from cuda_gates.disassembly import Instruction, Kernel
from cuda_gates.tiles import Tile

# ---- control flow


def _code(*lines):
    """Make instructions from lines such as ``@P0 BRA 3``, where 3 is an index."""
    instructions = []
    for index, line in enumerate(lines):
        words = line.split()
        guard = words.pop(0)[1:] if words[0].startswith("@") else ""
        operands = [f"{16 * int(w):#x}" if w.isdigit() else w for w in words[1:]]
        instructions.append(Instruction(16 * index, guard, words[0], " ".join(operands)))
    return tuple(instructions)


CONTROL_FLOW = {
    # path, body, fewest
    "simple": (["HMMA", "@P0 BRA 0", "EXIT"], 2, 2, 1),
    "block out of line": (
        ["HMMA", "@P0 BRA 4", "@P1 BRA 0", "EXIT", "FMUL", "FMUL", "BRA 2"], 3, 6, 1,
    ),
    "loop entered in the middle of its addresses": (
        ["BRA 3", "HMMA", "FADD", "HMMA", "@P0 BRA 1", "EXIT"], 4, 4, 2,
    ),
    "two ways with products": (
        ["@P0 BRA 4", "HMMA", "HMMA", "BRA 7", "HMMA", "NOP", "NOP", "@P1 BRA 0", "EXIT"], 5, 8, 1,
    ),
    "product that a predicate guards": (["HMMA", "@P1 HMMA", "@P0 BRA 0", "EXIT"], 3, 3, 1),
    "way without copies": (
        ["@P0 BRA 3", "LDGSTS.E.128", "NOP", "HMMA", "@P1 BRA 0", "EXIT"], 5, 5, 1,
    ),
    "loop inside": (
        ["HMMA", "@P0 BRA 4", "LDG", "@P1 BRA 2", "HMMA", "@P2 BRA 0", "EXIT"], 4, 6, 2,
    ),
    "loop around": (
        ["NOP", "HMMA", "HMMA", "@P0 BRA 2", "@P1 BRA 0", "EXIT"], 2, 2, 1,
    ),
    "convergence barrier": (
        ["BSSY B0, 5", "HMMA", "@P0 BRA 4", "BSYNC B0", "BSYNC B0", "@P1 BRA 0", "EXIT"], 5, 6, 1,
    ),
    "branch with a second predicate": (
        ["HMMA", "BRA P3, 3", "FMUL", "@P1 BRA 0", "EXIT"], 3, 4, 1,
    ),
    "conditional call": (["HMMA", "@P0 CALL.REL.NOINC 3", "BRA 0", "EXIT"], 3, 3, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_main_loop_is_found(name):
    lines, path, body, fewest = CONTROL_FLOW[name]
    loop = find_main_loop(_code(*lines))
    assert (len(loop.path), len(loop.body), loop.fewest_multiplies) == (path, body, fewest)


def test_kernel_without_a_loop_is_reported():
    assert find_main_loop(_code("HMMA", "EXIT")) is None
    kernel = Kernel("sm_80", "f", 32, 0, 0, 0, _code("HMMA", "EXIT"))
    tile = Tile(64, "None", 0, 1, 8, 64, 1, True, 8192)
    assert list(gate.check_forward(kernel, tile, 10)) == ["sm_80 f: no loop multiplies"]


# ---- occupancy

OCCUPANCY = """
#include <cstdio>
#include <cstdlib>
#include <cuda_occupancy.h>
int main(int count, char** given) {
  int n[10];
  for (int i = 1; i < count; ++i) n[i] = std::atoi(given[i]);
  cudaOccDeviceProp device;
  device.computeMajor = n[1], device.computeMinor = n[2];
  device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = n[3] * 32;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536, device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = n[4];
  device.numSms = 1, device.sharedMemPerBlockOptin = n[4] - 1024;
  device.reservedSharedMemPerBlock = 1024;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = 1024, kernel.numRegs = n[5];
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = n[7];
  cudaOccDeviceState state;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, n[6], n[7])) {
    return 1;
  }
  std::printf("%d", result.activeBlocksPerMultiprocessor);
}
"""


def test_occupancy_is_that_of_the_toolkit(tmp_path):
    try:
        compiler, nvcc = tools.find_host_compiler(), tools.find_nvcc()
    except tools.MissingToolError as reason:
        pytest.skip(str(reason))
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY)
    built = subprocess.run(
        [compiler, "-w", *tools.cuda_includes(nvcc), "occupancy.cpp", "-o", "occupancy"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cuda_occupancy.h: No such file" in built.stderr:
        pytest.skip("the CUDA toolkit has no cuda_occupancy.h")
    assert built.returncode == 0, built.stderr
    calls = [(128, 256, 25088), (250, 256, 66048), (255, 128, 98560), (64, 96, 1000), (40, 1024, 0)]
    for architecture, device in roofline.DEVICES.items():
        major, minor = divmod(int(architecture[3:]), 10)
        limits = (major, minor, device.max_warps, device.shared_bytes)
        for registers, threads, shared_bytes in calls:
            arguments = map(str, (*limits, registers, threads, shared_bytes))
            answer = subprocess.run(
                [tmp_path / "occupancy", *arguments], capture_output=True, text=True, check=True
            )
            blocks = roofline.occupancy(
                device, registers=registers, threads=threads, shared_bytes=shared_bytes
            )
            assert blocks == int(answer.stdout), (architecture, registers, threads, shared_bytes)
