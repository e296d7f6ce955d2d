# SPDX-License-Identifier: MIT
"""Finds and loads the compiled libraries, and reports why one is missing."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[1]
LIBRARY_PATH = _PACKAGE / "libguide_ext.so"
CUDA_LIBRARY_PATH = _PACKAGE / "libguide_ext_cuda.so"


@dataclass(frozen=True)
class LibraryStatus:
    """Whether the compiled library serves this process.

    Attributes:
        loaded: Whether `libguide_ext.so` was found and loaded.
        reason: Why not, in words; where it was loaded from otherwise.
        instruction_set: That of the CPU kernels, as "avx512"; None if none can be used.

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


_OTHER_SOURCES = (
    "{path} was built from other sources than these: {what}; build again with "
    "`pip install --no-build-isolation -e .`, or delete it"
)
# Why a library was not loaded; None where it was. Set once, by load_libraries.
_load_error: str | None = "guide_ext.op.registration was not imported"
_cuda_load_error: str | None = "guide_ext.op.registration was not imported"


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
            raise ImportError(_OTHER_SOURCES.format(path=LIBRARY_PATH, what=f"it lacks {missing}"))
        connect_errors(LIBRARY_PATH)
    # Its symbols come from torch's own CUDA library. No device is touched here: a process that
    # forks later must not have used one.
    if torch.version.cuda is None:
        _cuda_load_error = f"torch {torch.__version__} was built without CUDA"
    else:
        _cuda_load_error = _load(CUDA_LIBRARY_PATH, _why_cuda_was_skipped())
        if _cuda_load_error is None:
            connect_errors(CUDA_LIBRARY_PATH)
    return _load_error is None


def keep_errors(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Let an exception of a Python kernel pass through the compiled library that called it.

    torch's C interface tells a library that a call has failed, but not why: without this, Ctrl-C
    or a lack of memory would become an unrelated RuntimeError.
    """
    if _load_error is not None or (extension := _extension()) is None:
        return kernel
    kept: Callable[..., Any] = extension.keep_errors(kernel)
    return kept


def connect_errors(path: Path) -> None:
    """Let a loaded library throw the exceptions that `keep_errors` has kept.

    Raises:
        ImportError: If the library or `_C` was built from other sources.

    """
    if (extension := _extension()) is None:
        return
    try:
        addresses = (ctypes.c_void_p(address) for address in extension.error_keeper())
        ctypes.CDLL(str(path)).guide_ext_keep_errors(*addresses)
    except AttributeError as error:
        raise ImportError(_OTHER_SOURCES.format(path=path, what=str(error))) from error


@functools.cache
def _extension() -> Any | None:
    """Import `_C`; it is missing where nothing was built, or for another Python."""
    try:
        return importlib.import_module("guide_ext._C")
    except ImportError:
        return None


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
    if (extension := _extension()) is None:
        return "nvcc and `pip install .` build it"
    skipped = extension.build_info()["cuda_skipped_because"]
    return f"the build skipped it: {skipped}" if skipped else "nvcc and `pip install .` build it"


def library_status() -> LibraryStatus:
    """Say whether the compiled library was loaded, or why not, and its instruction set."""
    if _load_error is not None:
        return LibraryStatus(loaded=False, reason=_load_error, instruction_set=None)
    query = _function(LIBRARY_PATH, "guide_ext_cpu_instruction_set")
    query.restype = ctypes.c_char_p
    name = query()
    if name is None:
        ask_why = _function(LIBRARY_PATH, "guide_ext_cpu_switch_on_problem")
        ask_why.restype = ctypes.c_char_p
        found: bytes | None = ask_why()
        problem = (
            f"GUIDE_EXT_CPU_ISA={os.environ.get('GUIDE_EXT_CPU_ISA', '')} names no instruction set "
            "that was built and that this processor has"
            if found is None
            else found.decode()
        )
        return LibraryStatus(
            loaded=True,
            reason=(
                f"loaded from {LIBRARY_PATH}, but {problem}: every call on the CPU raises; unset it"
            ),
            instruction_set=None,
        )
    return LibraryStatus(
        loaded=True, reason=f"loaded from {LIBRARY_PATH}", instruction_set=name.decode()
    )


def build_info() -> dict[str, Any]:
    """Return how the compiled libraries were built; empty where nothing was."""
    return {} if (extension := _extension()) is None else dict(extension.build_info())


def cuda_status() -> CudaStatus:
    """Say whether the CUDA kernels were loaded, or why not."""
    if _cuda_load_error is not None:
        return CudaStatus(loaded=False, reason=_cuda_load_error)
    return CudaStatus(loaded=True, reason=f"loaded from {CUDA_LIBRARY_PATH}")


def ask_for_kernel(device: torch.device, call: ctypes.Structure) -> str | None:
    """Ask the library of a device, which was loaded, for its choice of a kernel.

    Args:
        device: On the CPU or of CUDA.
        call: `CallDescription` of csrc/attention/explain.h.

    Returns:
        The kernel, empty if none takes the call, and one reason a line; None if GUIDE_EXT_CPU_ISA
        names no instruction set that can be used.

    """
    path = LIBRARY_PATH if device.type == "cpu" else CUDA_LIBRARY_PATH
    return _ask(path, f"guide_ext_{device.type}_choose", call, device.index or 0)


def ask_for_backward_kernel(call: ctypes.Structure, wants_attn_bias: bool) -> str | None:
    """Ask the library of the CPU, which was loaded, for the kernel of the gradients, likewise."""
    return _ask(LIBRARY_PATH, "guide_ext_cpu_choose_backward", call, int(wants_attn_bias))


def _ask(path: Path, name: str, call: ctypes.Structure, number: int) -> str | None:
    choose = _function(path, name)
    choose.restype = ctypes.c_char_p
    answer: bytes | None = choose(ctypes.byref(call), ctypes.c_int(number))
    return None if answer is None else answer.decode()


def _function(path: Path, name: str) -> Any:
    """Find a C function of a loaded library.

    Raises:
        ImportError: If the library was built from other sources and lacks it.

    """
    try:
        return getattr(ctypes.CDLL(str(path)), name)
    except AttributeError as error:
        raise ImportError(_OTHER_SOURCES.format(path=path, what=str(error))) from error
