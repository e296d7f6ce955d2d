# SPDX-License-Identifier: MIT
"""The static gates on the built CUDA library, and whether they see planted errors."""

import dataclasses
import re
from pathlib import Path

import pytest
from cuda_gates import gate, table, tools
from cuda_gates.compile import compile_to_cubin, product_flags
from cuda_gates.control_flow import find_main_loop
from cuda_gates.disassembly import compiler_release, count, read_kernels
from cuda_gates.spec import Limits, read_limits
from cuda_gates.tiles import Tile, exact_counts, read_tiles

PLANTED = Path(__file__).parents[1] / "cuda_gates" / "planted.cu"


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
    limits = read_limits() if release == tools.RECORDED_NVCC else Limits()
    assert gate.check_library(kernels, tiles, limits) == []


def test_page_is_up_to_date(kernels, tiles, release):
    if release != tools.RECORDED_NVCC:
        pytest.skip(f"the page is of nvcc {tools.RECORDED_NVCC}, the library of {release}")
    if table.ARCHITECTURE not in {kernel.architecture for kernel in kernels}:
        pytest.skip(f"the library has no {table.ARCHITECTURE} kernel")
    assert table.DOCUMENT.read_text() == table.write_page(kernels, tiles), (
        f"docs/{table.DOCUMENT.name} is not of this library: {table.COMMAND}"
    )


@pytest.mark.long
def test_ptxas_has_nothing_to_say(tmp_path):
    """The instance with the most registers, with the flags of the product, and every wgmma one."""
    folder = tools.ROOT / "csrc" / "attention" / "cuda"
    sources = [
        folder / "sm80" / "instances" / "forward_bfloat16_hd128.cu",
        *sorted(folder.glob("sm90/instances/*.cu")),
    ]
    for source in sources:
        flags = _tool(product_flags, source)
        architecture = "sm_90a" if "sm90" in source.parts else "sm_80"
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
    assert gate.check_library(lacking, tiles, Limits()) == [
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
