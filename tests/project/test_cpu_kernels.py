# SPDX-License-Identifier: MIT
"""The CPU kernels without torch: those of this machine, and those of 64-bit ARM under qemu.

`cpu_kernels/check.cpp` says what is compared.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import emulated_op
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "cpu_kernels"
INSTRUCTION_SETS = ["avx512bf16", "avx512", "avx2", "neon", "portable"]


def _run(instruction_set, *command):
    environment = os.environ | {"GUIDE_EXT_CPU_ISA": instruction_set}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _judge(done, instruction_set):
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.fullmatch(
        rf"{instruction_set}: (\d+) problems, (\d+) numbers, 0 wrong results\n", done.stdout
    )
    assert counts, done.stdout
    assert int(counts[1]) > 200
    assert int(counts[2]) > 2_000_000


# ---- this machine


def _objects():
    """List the objects of the kernels in the package's own build, all of one folder."""
    build = ROOT / "build" / "cmake" / str(sys.implementation.cache_tag)
    return sorted((build / "CMakeFiles" / "guide_attention_cpu.dir").rglob("*.o"))


@pytest.fixture(scope="module")
def check_of_this_machine(tmp_path_factory):
    """Link the check with the objects that the package was built of."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler: {compiler[0]}")
    objects = _objects()
    if not objects:
        pytest.skip(f"no objects of the kernels under {ROOT / 'build' / 'cmake'}: make setup")
    program = tmp_path_factory.mktemp("cpu_kernels") / "check"
    command = [
        *(*compiler, "-std=c++17", "-O1", "-I", ROOT / "csrc", SOURCES / "check.cpp"),
        *(*objects, "-pthread", "-o", program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_kernels_of_this_machine(check_of_this_machine, instruction_set):
    done = _run(instruction_set, check_of_this_machine)
    if "must name an instruction set that was built" in done.stderr:
        pytest.skip(f"this build or this processor has no {instruction_set}")
    _judge(done, instruction_set)


# ---- 64-bit ARM


def _tool(*names):
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"no {names[0]}: on Debian, apt-get install g++-aarch64-linux-gnu qemu-user")


@pytest.fixture(scope="module")
def check_of_arm():
    """Compile the kernels and their check for 64-bit ARM; give the emulator and the program."""
    compiler = _tool("aarch64-linux-gnu-g++")
    emulator = _tool("qemu-aarch64", "qemu-aarch64-static")
    build = ROOT / "build" / "cpu_kernels" / "aarch64"
    cmake, ninja = emulated_op.tool("cmake"), emulated_op.tool("ninja")
    configure = [
        *(cmake, "-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
        *("-DGUIDE_KERNEL_CHECK=ON", "-DGUIDE_WERROR=ON", f"-DCMAKE_CXX_COMPILER={compiler}"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    ]
    for command in (configure, [cmake, "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return emulator, build / "check_cpu_kernels"


@pytest.mark.long
@pytest.mark.parametrize("instruction_set", ["neon", "portable"])
def test_kernels_of_arm(check_of_arm, instruction_set):
    _judge(_run(instruction_set, *check_of_arm), instruction_set)


@pytest.mark.long
def test_arm_has_no_other_instruction_set(check_of_arm):
    done = _run("avx2", *check_of_arm)
    assert done.returncode != 0
    assert "that was built and that this processor has (neon, portable), got 'avx2'" in done.stderr


# Multiply-adds of one step of an inner loop that prefill, and the gradients, spend their time in.
_TILE = 16


def _inner_loops(listing):
    """Give the instructions of every loop without a branch within, from objdump's listing."""
    addresses, instructions = [], []
    for line in listing.splitlines():
        if line.endswith(">:"):
            addresses, instructions = [], []
        elif found := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            addresses.append(int(found[1], 16))
            instructions.append(f"{found[2]} {found[3]}")
            if not re.match(r"b\.|cbn?z|tbn?z|b |bl|ret", instructions[-1]):
                continue
            target = re.search(r"([0-9a-f]+) <", found[3])
            if target and int(target[1], 16) in addresses:
                yield instructions[addresses.index(int(target[1], 16)) :]
            addresses, instructions = [], []


@pytest.mark.long
def test_tiles_of_arm_stay_in_registers(check_of_arm):
    """A product takes its factor from a lane of a vector, and no sum goes to memory."""
    _, program = check_of_arm
    unit = program.parent / "CMakeFiles/guide_attention_cpu.dir/csrc/attention/cpu/units/neon.cpp.o"
    command = [_tool("aarch64-linux-gnu-objdump"), "-d", "--no-show-raw-insn", unit]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tiles = [
        loop
        for loop in _inner_loops(listing)
        if sum(op.startswith("fmla") for op in loop) == _TILE
        and sum(".s[" in op for op in loop) >= _TILE * 3 // 4
    ]
    # The two products of prefill, for the options that have an instance, and those of the
    # gradients.
    assert len(tiles) >= 8
    clean = [loop for loop in tiles if not any(op.startswith("st") for op in loop)]
    assert len(clean) >= 8, [" ; ".join(loop) for loop in tiles if loop not in clean]
    assert min(len(loop) for loop in clean) <= 26, sorted(len(loop) for loop in clean)
