# SPDX-License-Identifier: MIT
"""The static gates on the built CUDA library, and whether they see planted errors."""

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from cuda_gates import gate, roofline, table, tools
from cuda_gates.compile import compile_to_cubin, product_flags
from cuda_gates.control_flow import find_main_loop
from cuda_gates.disassembly import Instruction, Kernel, compiler_release, count, read_kernels
from cuda_gates.spec import read_limits
from cuda_gates.tiles import Tile, exact_counts, read_tiles

PLANTED = Path(__file__).parent / "cuda_gates" / "planted.cu"


def _tool(find, *arguments):
    """Return what a tool gives, or skip with the reason that it is missing for."""
    try:
        return find(*arguments)
    except tools.MissingToolError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def library():
    if not tools.LIBRARY.exists():
        pytest.skip(f"{tools.LIBRARY.name} was not built")
    return tools.LIBRARY


@pytest.fixture(scope="module")
def kernels(library):
    return _tool(read_kernels, library)


@pytest.fixture(scope="module")
def release(library):
    """Give the CUDA release that compiled the library."""
    return _tool(compiler_release, library)


@pytest.fixture(scope="module")
def tiles():
    return _tool(read_tiles)


# ---- the library


def test_every_kernel_is_as_it_must_be(kernels, tiles, release):
    """What follows from the tiles, of any compiler; what spec.toml allows, of the recorded one."""
    limits = read_limits() if release == tools.RECORDED_NVCC else {}
    assert gate.check_library(kernels, tiles, limits) == []


def test_page_is_up_to_date(kernels, tiles, release):
    if release != tools.RECORDED_NVCC:
        pytest.skip(f"the page is of nvcc {tools.RECORDED_NVCC}, the library of {release}")
    if table.ARCHITECTURE not in {kernel.architecture for kernel in kernels}:
        pytest.skip(f"the library has no {table.ARCHITECTURE} kernel")
    assert table.DOCUMENT.read_text() == table.write_page(kernels, tiles), (
        f"docs/{table.DOCUMENT.name} is not of this library: {table.COMMAND}"
    )


def test_ptxas_has_nothing_to_say(tmp_path):
    """The instance with the most registers, with the flags of the product, and every wgmma one."""
    folder = tools.ROOT / "csrc" / "attention" / "cuda"
    sources = [folder / "sm80" / "forward_bfloat16_hd128.cu", *sorted(folder.glob("sm90/*.cu"))]
    for source in sources:
        flags = _tool(product_flags, source)
        architecture = "sm_90a" if source.parent.name == "sm90" else "sm_80"
        log = compile_to_cubin(
            source, tmp_path / "product.cubin", architecture=architecture, flags=flags
        )
        assert "registers" in log
        assert gate.check_compiler_log(log) == []


# ---- errors planted in the instructions of a real kernel


@pytest.fixture(scope="module")
def healthy(kernels, tiles):
    """Return a kernel without any violation, with its tile."""
    kernel = next(k for k in kernels if gate.label_of(k) == "BFloat16 hd128 OneChannel")
    return kernel, tiles[128, "OneChannel"]


def _violations(kernel, tile):
    most = count(find_main_loop(kernel.instructions).path)["all"]
    return [*gate.check_kernel(kernel), *gate.check_forward(kernel, tile, most)]


def _change(kernel, name, change):
    """Apply `change` to the first such instruction of the main loop that executes."""
    path = find_main_loop(kernel.instructions).path
    victim = next(i for i in path if i.name == name and i.guard != "!PT")
    code = tuple(change(i) if i is victim else i for i in kernel.instructions)
    return dataclasses.replace(kernel, instructions=code)


def _remove(instruction):
    return dataclasses.replace(instruction, opcode="NOP", operands="")


def _opcode(pattern, replacement):
    return lambda i: dataclasses.replace(i, opcode=re.sub(pattern, replacement, i.opcode))


PLANTED_IN_CODE = {
    "no product": ("HMMA", _remove, "{HMMA.16816} HMMA.16816 a block, must be"),
    "smaller product": ("HMMA", _opcode("16816", "1688"), "1 HMMA.other, must be 0"),
    "no matrix load": ("LDSM", _remove, "{LDSM.x4} LDSM.x4 a block, must be"),
    "narrow matrix load": ("LDSM", _opcode(r"\.4$", ".2"), "1 LDSM.other, must be 0"),
    "no copy": ("LDGSTS", _remove, "{LDGSTS.16} LDGSTS.16 a block, must be"),
    "narrow copy": ("LDGSTS", _opcode(r"\.128", ""), "1 LDGSTS.narrow, must be 0"),
    "no barrier": ("BAR", _remove, "0 BAR a block, must be 1"),
    "no weight": ("MUFU", _remove, "{MUFU.EX2} MUFU.EX2 a block, must be"),
    "narrow load": ("LDS", _opcode("64", "U"), "{LDS.8} LDS.8 a block, must be"),
    "no rounding": ("F2FP", _remove, "{F2FP} F2FP a block, must be"),
}


@pytest.mark.parametrize("planted", PLANTED_IN_CODE)
def test_instruction_planted_in_a_kernel_is_reported(healthy, planted):
    kernel, tile = healthy
    assert _violations(kernel, tile) == []
    name, change, expected = PLANTED_IN_CODE[planted]
    one_less = {name: number - 1 for name, number in exact_counts(tile).items()}
    expected = re.sub(r"\{(.+?)\}", lambda match: str(one_less[match[1]]), expected)
    violations = _violations(_change(kernel, name, change), tile)
    assert any(expected in violation for violation in violations), violations


def test_missing_instance_is_reported(kernels, tiles):
    lacking = [k for k in kernels if gate.label_of(k) != "Float16 hd64 None"]
    assert gate.check_library(lacking, tiles, {}) == [
        f"{architecture} Float16 hd64 None: not in the library"
        for architecture in sorted({kernel.architecture for kernel in kernels})
    ]


def test_slower_kernel_is_reported(healthy):
    kernel, tile = healthy
    instructions = count(find_main_loop(kernel.instructions).path)["all"]
    problems = list(gate.check_forward(kernel, tile, instructions - 1))
    assert [problem.partition(": ")[2] for problem in problems] == [
        f"{instructions} instructions a block, at most {instructions - 1} (spec.toml)"
    ]


# ---- errors planted in a source

PLANTED_IN_SOURCE = {
    "MISSING_PRODUCT": r"31 HMMA.16816 a block, must be 32",
    "PRODUCT_SKIPPED_AT_RUN_TIME": r"a way through the loop multiplies only 31 times",
    "NARROW_COPY": r"1 LDGSTS.narrow, must be 0",
    "NO_BARRIER": r"0 BAR a block, must be 1",
    "SPILL": r"[1-9]\d* LDL and [1-9]\d* STL, registers must not spill",
    "EXACT_EXPONENTIAL": r"16 FMUL a block, at most 1",
}
MINIATURE = Tile(
    head_dim=128, extras="None", channels=0, row_tiles=1, warps=8, block_n=16, min_blocks=1,
    query_in_registers=True, shared_bytes=8192,
)  # fmt: skip


@pytest.fixture(scope="module")
def compile_planted(tmp_path_factory):
    """Give a function that compiles planted.cu: what is wrong with it, and what ptxas said."""
    nvcc = str(_tool(tools.find_nvcc))
    _tool(tools.disassembler)

    def compile_one(error):
        cubin = tmp_path_factory.mktemp("planted") / "planted.cubin"
        log = compile_to_cubin(PLANTED, cubin, flags=[nvcc, "-O3", f"-DPLANTED={error}"])
        (kernel,) = read_kernels(cubin)
        return [*gate.check_kernel(kernel), *gate.check_forward(kernel, MINIATURE, 200)], log

    return compile_one


@pytest.mark.parametrize("error", PLANTED_IN_SOURCE)
def test_error_planted_in_a_source_is_reported(compile_planted, error):
    violations, log = compile_planted(error)
    expected = PLANTED_IN_SOURCE[error]
    assert any(re.search(expected, violation) for violation in violations), violations
    assert bool(gate.check_compiler_log(log)) == (error == "SPILL")


def test_source_without_planted_error_is_not_accused(compile_planted):
    violations, log = compile_planted("NONE")
    assert gate.check_compiler_log(log) == []
    for expected in PLANTED_IN_SOURCE.values():
        assert not any(re.search(expected, violation) for violation in violations), violations


def test_serialised_wgmma_is_seen_in_a_log():
    line = (
        "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
        "serialized due to insufficient register resources for the wgmma pipeline in function 'f'"
    )
    assert gate.check_compiler_log(f"ptxas info    : 0 bytes gmem\n{line}\n") == [line]


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
    assert list(gate.check_forward(kernel, MINIATURE, 10)) == ["sm_80 f: no loop multiplies"]


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
    compiler, nvcc = _tool(tools.find_host_compiler), _tool(tools.find_nvcc)
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
