# SPDX-License-Identifier: MIT
"""Finds and loads the compiled libraries, and says what became of them."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LIBRARY_PATH = Path(__file__).with_name("libguide_ext.so")
CUDA_LIBRARY_PATH = Path(__file__).with_name("libguide_ext_cuda.so")


@dataclass(frozen=True)
class LibraryStatus:
    """Whether the compiled library serves this process.

    Attributes:
        loaded: Whether `libguide_ext.so` was found and loaded.
        reason: Why not, in words; where it was loaded from otherwise.
        instruction_set: What the CPU kernels use, as "avx512"; None when there is none to use.

    """

    loaded: bool
    reason: str
    instruction_set: str | None


@dataclass(frozen=True)
class CudaStatus:
    """Whether the CUDA kernels serve this process.

    Attributes:
        loaded: Whether `libguide_ext_cuda.so` was found and loaded.
        reason: Why not, in words; where it was loaded from otherwise.

    """

    loaded: bool
    reason: str


# Why a library was not loaded; None where it was. Set once, by load_libraries.
_load_error: str | None = "guide_ext._ops was not imported"
_cuda_load_error: str | None = "guide_ext._ops was not imported"


def load_libraries(ops: Any, names: Iterable[str]) -> bool:
    """Load what was built; return whether the library that defines the schemas is among it.

    Args:
        ops: The namespace ``torch.ops.guide``.
        names: The operators that the library must define.

    Raises:
        ImportError: If the library was built from other sources and lacks one of them.

    """
    global _load_error, _cuda_load_error
    _load_error = _load(LIBRARY_PATH, "a C++17 compiler and `pip install .` build it")
    if _load_error is None:
        missing = [name for name in names if not hasattr(ops, name)]
        if missing:
            raise ImportError(
                f"{LIBRARY_PATH} was built from other sources than these: it lacks {missing}; "
                "build again with `pip install --no-build-isolation -e .`, or delete it"
            )
    # Its symbols come from torch's own CUDA library. No device is touched here: a process that
    # forks later must not have used one.
    if torch.version.cuda is None:
        _cuda_load_error = f"torch {torch.__version__} was built without CUDA"
    else:
        _cuda_load_error = _load(CUDA_LIBRARY_PATH, _why_cuda_was_skipped())
    return _load_error is None


def _load(path: Path, how_to_build: str) -> str | None:
    """Load a library; return why that was not possible."""
    if not path.exists():
        return f"{path.name} was not built: there is none in {path.parent}; {how_to_build}"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{path} was built but cannot be loaded: {error}"
    return None


def _why_cuda_was_skipped() -> str:
    try:
        build_info = importlib.import_module("guide_ext._C").build_info()
    except ImportError:
        return "nvcc and `pip install .` build it"
    skipped = build_info["cuda_skipped_because"]
    return f"the build skipped it: {skipped}" if skipped else "nvcc and `pip install .` build it"


def library_status() -> LibraryStatus:
    """Say whether the compiled library was loaded, why not, and what its CPU kernels use."""
    if _load_error is not None:
        return LibraryStatus(loaded=False, reason=_load_error, instruction_set=None)
    query = ctypes.CDLL(str(LIBRARY_PATH)).guide_ext_cpu_instruction_set
    query.restype = ctypes.c_char_p
    name = query()
    if name is None:
        return LibraryStatus(
            loaded=True,
            reason=(
                f"loaded from {LIBRARY_PATH}, but GUIDE_EXT_CPU_ISA="
                f"{os.environ.get('GUIDE_EXT_CPU_ISA', '')} names no instruction set of this "
                "processor: every call on the CPU raises; unset it"
            ),
            instruction_set=None,
        )
    return LibraryStatus(
        loaded=True, reason=f"loaded from {LIBRARY_PATH}", instruction_set=name.decode()
    )


def cuda_status() -> CudaStatus:
    """Say whether the CUDA kernels were loaded, and why not."""
    if _cuda_load_error is not None:
        return CudaStatus(loaded=False, reason=_cuda_load_error)
    return CudaStatus(loaded=True, reason=f"loaded from {CUDA_LIBRARY_PATH}")


@functools.cache
def cuda_device_obstacle(index: int) -> str | None:
    """Say why the CUDA kernels, which were loaded, cannot run on a device; None if they can."""
    query = ctypes.CDLL(str(CUDA_LIBRARY_PATH)).guide_ext_cuda_obstacle
    query.restype = ctypes.c_char_p
    obstacle = query(index)
    return None if obstacle is None else obstacle.decode()
