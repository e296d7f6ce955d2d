# SPDX-License-Identifier: MIT
"""The op by its CUDA kernels on the CPU: builds `cuda_emulator/` once and loads it."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from guide_ext.op import libraries, registration

ROOT = Path(__file__).resolve().parents[2]
BUILD_DIR = ROOT / "build" / "cuda_emulator" / str(sys.implementation.cache_tag)
SOURCE, PTX = "guide_emulated_source", "guide_emulated_ptx"


class CannotBuildError(Exception):
    """Why the emulated op cannot be built on this machine."""


@dataclass(frozen=True)
class EmulatedOp:
    """The op of one route.

    Attributes:
        library: For the emulator's C interface.
        run: `biased_attention` on CPU tensors; raises RuntimeError with the emulator's reports.

    """

    library: ctypes.CDLL
    run: Any

    def set_schedule(self, policy: str, seed: int = 0) -> None:
        """Choose which thread runs next: "in-order", "reverse" or "random"."""
        if self.library.cuda_emulator_set_schedule(policy.encode(), ctypes.c_uint64(seed)) != 0:
            raise ValueError(f"no schedule {policy!r}")


@functools.cache
def nvcc() -> str | None:
    """Return the path of an nvcc."""
    found = subprocess.run(
        [sys.executable, ROOT / "cmake" / "find_nvcc.py"], capture_output=True, text=True
    )
    return found.stdout if found.returncode == 0 else None


def tool(name: str) -> str:
    """Return the path of CMake or Ninja, which their Python packages put beside Python."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise CannotBuildError(f"no {name}: pip install {name}")
    return path


@functools.cache
def build(target: str) -> Path:
    """Bring the library of a route up to date and return its path."""
    if platform.machine() not in ("x86_64", "AMD64", "aarch64"):
        raise CannotBuildError(f"the emulator is not ported to {platform.machine()}")
    commands = (
        [
            *(
                tool("cmake"),
                "-S",
                ROOT / "tests" / "cuda_emulator",
                "-B",
                BUILD_DIR,
                "-G",
                "Ninja",
            ),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DGUIDE_NVCC={nvcc() or ''}",
        ],
        [tool("cmake"), "--build", BUILD_DIR, "--target", target],
    )
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD_DIR / ".lock"):  # workers of pytest share the folder
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"the emulated op does not build:\n{done.stdout}{done.stderr}")
    return BUILD_DIR / f"lib{target}.so"


_LIBRARIES = []  # what they register lasts as long as they do


def define(namespace: str) -> None:
    """Give a namespace the op's schema, and its gradients."""
    name = f"{namespace}::biased_attention"
    torch.library.define(name, registration.SIGNATURE)
    library = torch.library.Library(namespace, "FRAGMENT")
    operator = getattr(torch.ops, namespace).biased_attention.default
    registration.register_chunked_backward(library, operator)
    _LIBRARIES.append(library)


def load(path: Path, namespace: str) -> EmulatedOp:
    """Load a library that implements the op in a namespace."""
    library = ctypes.CDLL(str(path))
    library.cuda_emulator_take_reports.restype = ctypes.c_char_p
    libraries.connect_errors(path)
    return EmulatedOp(library, getattr(torch.ops, namespace).biased_attention)


def translate(ptx: Path, cpp: Path) -> None:
    """Translate PTX to C++ over the emulator."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "cuda_emulator")}
    command = [sys.executable, "-m", "ptx", ptx, cpp]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


@functools.cache
def emulated_op(route: str) -> EmulatedOp:
    """Build and load the op of a route, `SOURCE` or `PTX`."""
    if route == PTX and nvcc() is None:
        raise CannotBuildError("no nvcc: pip install nvidia-cuda-nvcc, or install the CUDA toolkit")
    path = build(route)
    define(route)
    return load(path, route)
