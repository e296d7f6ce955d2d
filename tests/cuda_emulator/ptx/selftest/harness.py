# SPDX-License-Identifier: MIT
"""Builds translated PTX with the emulator's runtime and runs its kernels on numpy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from cuda_emulator.ptx import translate  # by its full name: two packages up

ROOT = Path(__file__).resolve().parents[4]
EMULATOR = ROOT / "tests" / "cuda_emulator"
BUILD = ROOT / "build" / "cuda_emulator" / "ptx_selftest"
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", f"-I{EMULATOR}"]
_WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
# Undefined behaviour in a translated unit ends the process.
SANITIZE = "PTX_SELFTEST_SANITIZE"
_SANITIZER = ["-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error"]


def find_compiler() -> str | None:
    """Return the C++ compiler to use; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def find_nvcc() -> Path | None:
    """Return the nvcc that the build would use; None if there is none."""
    script = ROOT / "cmake" / "find_nvcc.py"
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    return Path(found.stdout) if found.returncode == 0 else None


def compile_cuda(source: str, *options: str) -> str:
    """Return the PTX of a CUDA source, for compute_80 and with the product's headers in reach."""
    nvcc = find_nvcc()
    assert nvcc is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.cu"
        path.write_text(source, encoding="utf-8")
        output = path.with_suffix(".ptx")
        target = ["-arch=compute_80", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}"]
        _run([str(nvcc), *target, *options, "-ptx", str(path), "-o", str(output)])
        return output.read_text(encoding="utf-8")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def _build(name: str, key: Iterable[bytes], options: Sequence[str], inputs: Sequence[Path]) -> Path:
    """Build a shared library unless it is there; its name tells what it was built from."""
    command = [str(find_compiler()), *_FLAGS, *options, "-shared"]
    digest = hashlib.sha256(b"\0".join([*key, *(part.encode() for part in command)])).hexdigest()
    library = BUILD / f"{name}_{digest[:16]}.so"
    if not library.exists():
        temporary = library.with_suffix(f".{os.getpid()}.tmp")
        _run([*command, *map(str, inputs), "-o", str(temporary)])
        temporary.replace(library)
    return library


def _runtime() -> Path:
    """Build the emulator's runtime with the glue, all of its symbols visible."""
    sources = [
        *sorted((EMULATOR / "runtime").glob("*.cpp")),
        EMULATOR / "selftest" / "ptx_launch.cpp",
    ]
    headers = [*EMULATOR.glob("*.h"), *(EMULATOR / "runtime").glob("*.h")]
    key = [path.read_bytes() for path in sorted([*sources, *headers])]
    return _build("runtime", key, [], sources)


class Unit:
    """The kernels of a PTX text, ready to run."""

    def __init__(self, ptx: str) -> None:
        code = translate(ptx)
        BUILD.mkdir(parents=True, exist_ok=True)
        runtime = _runtime()
        key = [code.encode(), runtime.name.encode()]
        options = [*_WARNINGS, *(_SANITIZER if os.environ.get(SANITIZE) else [])]
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            source = Path(folder) / "unit.cpp"
            source.write_text(code, encoding="utf-8")
            self._library = ctypes.CDLL(str(_build("unit", key, options, [source, runtime])))
        self._runtime = ctypes.CDLL(str(runtime))
        self._runtime.cuda_emulator_take_reports.restype = ctypes.c_char_p

    def launch(
        self,
        kernel: str,
        *arguments: np.ndarray | np.generic,
        blocks: int = 1,
        threads: int = 32,
        shared_bytes: int = 0,
        schedule: tuple[str, int] = ("in-order", 0),
    ) -> str:
        """Run a kernel and return the emulator's reports.

        Args:
            kernel: Its name.
            arguments: Arrays, passed as pointers and the only memory that the kernel may touch;
                and numpy scalars, passed by value. Arrays that are not writeable may not be
                written.
            blocks: Blocks of the grid.
            threads: Threads of a block.
            shared_bytes: Dynamic shared memory.
            schedule: Policy of the emulator's scheduler, and its seed.
        """
        runtime = self._runtime
        assert (
            runtime.cuda_emulator_set_schedule(schedule[0].encode(), ctypes.c_uint64(schedule[1]))
            == 0
        )
        runtime.cuda_emulator_take_reports()
        for i, array in enumerate(arguments):
            if isinstance(array, np.ndarray):
                runtime.ptx_add_range(
                    ctypes.c_void_p(array.ctypes.data),
                    ctypes.c_size_t(array.nbytes),
                    f"argument {i}".encode(),
                    array.flags.writeable,
                )
        block = np.frombuffer(_parameter_block(arguments), dtype=np.uint8)
        error = runtime.ptx_launch(
            kernel.encode(),
            ctypes.cast(getattr(self._library, kernel), ctypes.c_void_p),
            blocks,
            threads,
            ctypes.c_size_t(shared_bytes),
            ctypes.c_void_p(block.ctypes.data),
        )
        runtime.ptx_clear_ranges()
        assert error == 0
        return str(runtime.cuda_emulator_take_reports().decode())


def _parameter_block(arguments: Sequence[np.ndarray | np.generic]) -> bytes:
    """Lay arguments out as a launch does: in order, each aligned to its size."""
    block = b""
    for argument in arguments:
        value = argument
        if isinstance(argument, np.ndarray):
            value = np.uint64(argument.ctypes.data)
        block += b"\0" * (-len(block) % value.nbytes) + value.tobytes()
    return block
