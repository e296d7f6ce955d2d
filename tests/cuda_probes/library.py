# SPDX-License-Identifier: MIT
"""Compiles the probes, for the emulator and for GPUs, and runs them."""

import ctypes
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("probes.cu")
EMULATOR = ROOT / "tests" / "cuda_emulator"
INCLUDES = [f"-I{ROOT / 'csrc'}", f"-I{EMULATOR}"]
# -ffp-contract=off: the emulator gives the same bits on every machine.
EMULATED_FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas"),
    "-DGUIDE_CUDA_EMULATED",
]
NVCC_FLAGS = [
    *("-std=c++17", "-O2", "-shared", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
    *("-Werror=all-warnings", "-Xptxas=-warn-spills,-warn-lmem-usage"),
]


class ProbeError(RuntimeError):
    """A probe that could not be run, or about whose run the emulator has something to report."""


def compile_emulated(folder: Path, compiler: str) -> Path:
    """Compile probes and emulator into one library."""
    library = folder / "libprobes_emulated.so"
    runtime = sorted((EMULATOR / "runtime").glob("*.cpp"))
    sources = ["-x", "c++", str(SOURCE), *map(str, runtime)]
    _run([compiler, *EMULATED_FLAGS, *INCLUDES, *sources, "-o", str(library)])
    return library


def compile_for_gpu(folder: Path, nvcc: str, architecture: int) -> Path:
    """Compile the probes for one architecture, as 80, from the PTX of compute_80."""
    library = folder / f"libprobes_sm{architecture}.so"
    target = f"-gencode=arch=compute_80,code=sm_{architecture}"
    _run([nvcc, *NVCC_FLAGS, *INCLUDES, target, str(SOURCE), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr.strip():
        raise ProbeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


class ProbeLibrary:
    """A compiled set of probes."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.probe_name.restype = ctypes.c_char_p
        self.is_emulated = hasattr(self._library, "cuda_emulator_take_reports")
        if self.is_emulated:
            self._library.cuda_emulator_take_reports.restype = ctypes.c_char_p
            self._library.cuda_emulator_set_schedule.argtypes = [ctypes.c_char_p, ctypes.c_uint64]

    def names(self) -> list[str]:
        """List the probes."""
        names = []
        while (name := self._library.probe_name(ctypes.c_size_t(len(names)))) is not None:
            names.append(name.decode())
        return names

    def set_schedule(self, policy: str, seed: int = 1) -> None:
        """Choose in which order the emulator runs threads."""
        if self._library.cuda_emulator_set_schedule(policy.encode(), seed) != 0:
            raise ValueError(f"the emulator knows no schedule {policy!r}")

    def run(self, name: str, given: bytes, out_bytes: int) -> bytes:
        """Run a probe.

        Raises:
            ProbeError: If it did not run, or not as the rules of CUDA want it.

        """
        out = ctypes.create_string_buffer(out_bytes)
        status = self._library.run_probe(
            name.encode(), given, ctypes.c_size_t(len(given)), out, ctypes.c_size_t(out_bytes)
        )
        if status < 0:
            reasons = {-1: "there is no such probe", -2: "input and output are not whole items"}
            raise ProbeError(f"{name}: {reasons[status]}")
        if status > 0:
            raise ProbeError(f"{name}: CUDA error {status}")
        if self.is_emulated and (reports := self._library.cuda_emulator_take_reports().decode()):
            raise ProbeError(f"{name}: {reports}")
        return out.raw
