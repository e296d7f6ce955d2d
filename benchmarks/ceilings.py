# SPDX-License-Identifier: MIT
"""What this processor can do at most, measured in the process that measures everything else."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from problems import DTYPE_NAMES

SOURCE = Path(__file__).with_name("ceilings.cpp")
STEPS = 1_000_000  # of the loops over registers
STREAM_BYTES = 256 << 20  # more than most last-level caches
SECONDS_OF_PRODUCTS = 0.1  # per dtype and size

Ceilings = dict[str, float]
READ, COPY = "read GB/s", "copy GB/s"


class NoCompilerError(Exception):
    """Why the native ceilings cannot be measured here."""


@functools.cache
def _library() -> ctypes.CDLL:
    """Compile and load the native part."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise NoCompilerError(
            f"no C++ compiler ({command[0]}), so no share of the machine's peak: set CXX"
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ceilings.so"
        flags = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
        done = subprocess.run(
            [*command, *flags, str(SOURCE), "-o", str(target)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise NoCompilerError(f"{command[0]} cannot compile {SOURCE.name}: {' '.join(last)}")
        library = ctypes.CDLL(str(target))
    for name in ("fma_gflops", "bf16_gflops", "read_gbytes", "copy_gbytes"):
        getattr(library, name).restype = ctypes.c_double
    return library


@functools.cache
def _streams() -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate the memory that is read and copied; a prefetch may look behind its end."""
    source, target = (torch.zeros(STREAM_BYTES, dtype=torch.uint8) for _ in range(2))
    return source, target


def native(threads: int) -> Ceilings:
    """Measure instructions and memory; some 0.2 s.

    Raises:
        NoCompilerError: If there is none, or it does not compile the program.

    """
    library = _library()
    steps, size = ctypes.c_int64(STEPS), ctypes.c_int64(STREAM_BYTES)
    source, target = (ctypes.c_void_p(stream.data_ptr()) for stream in _streams())
    found: Ceilings = {
        "fma fp32 GFLOP/s": library.fma_gflops(threads, steps),
        "fma bf16 GFLOP/s": library.bf16_gflops(threads, steps),
        READ: library.read_gbytes(threads, source, size),
        COPY: library.copy_gbytes(threads, source, target, size),
    }
    return {name: rate for name, rate in found.items() if rate}


def peak(ceilings: Ceilings, dtype: str) -> float | None:
    """Return the rate of the fastest instruction for a dtype; for fp16 that of fp32.

    Example:
        >>> peak({"fma fp32 GFLOP/s": 100.0}, "bf16")
        100.0

    """
    fp32 = ceilings.get("fma fp32 GFLOP/s")
    return ceilings.get(f"fma {dtype} GFLOP/s", fp32)


def product_name(dtype: str) -> str:
    """Name the rate of torch.mm for a dtype among the ceilings."""
    return f"torch.mm {dtype} GFLOP/s"


def products() -> Ceilings:
    """Measure torch.mm, at the threads that torch is set to: the best of several sizes."""
    found: Ceilings = {}
    for dtype, name in DTYPE_NAMES.items():
        best = 0.0
        for size in (256, 512, 1024, 2048):
            left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
            seconds = _best(functools.partial(torch.mm, left, right))
            best = max(best, 2 * size**3 / seconds / 1e9)
            if seconds > SECONDS_OF_PRODUCTS:  # the next one takes eight times as long
                break
        found[product_name(name)] = best
    return found


def _best(call: Callable[[], object], fewest: int = 2) -> float:
    times: list[float] = []
    while len(times) < fewest or sum(times) < SECONDS_OF_PRODUCTS:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def last_level_cache_bytes() -> int:
    """Return the size of the largest cache of the first core; a guess where none is told."""
    sizes = [64 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes[1:] or sizes)
