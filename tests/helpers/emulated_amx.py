# SPDX-License-Identifier: MIT
"""The op by its AMX kernel over a model of the tiles: builds `amx_emulator/` once and loads it."""

import ctypes
import functools
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from emulated_op import CannotBuildError, define, tool
from filelock import FileLock

from guide_ext.op import libraries

ROOT = Path(__file__).resolve().parents[2]
BUILD_DIR = ROOT / "build" / "amx_emulator" / str(sys.implementation.cache_tag)
NAMESPACE = "guide_emulated_amx"


@functools.cache
def build() -> Path:
    """Bring the library up to date and return its path."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBuildError(f"AMX is of x86-64, this is {platform.machine()}")
    source = ROOT / "tests" / "amx_emulator"
    commands = (
        [
            *(tool("cmake"), "-S", source, "-B", BUILD_DIR, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
        ],
        [tool("cmake"), "--build", BUILD_DIR],
    )
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD_DIR / ".lock"):  # workers of pytest share the folder
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"the AMX op does not build:\n{done.stdout}{done.stderr}")
    return BUILD_DIR / f"lib{NAMESPACE}.so"


@functools.cache
def emulated_amx() -> Any:
    """Build and load the op; it raises RuntimeError where the processor would fault."""
    path = build()
    define(NAMESPACE)
    ctypes.CDLL(str(path))
    libraries.connect_errors(path)
    return getattr(torch.ops, NAMESPACE).biased_attention
