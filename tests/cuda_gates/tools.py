# SPDX-License-Identifier: MIT
"""The programs that the gates run, and the library that they read."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "guide_ext" / "libguide_ext_cuda.so"

# The compiler whose output is on record: docs/cuda_kernels.md and the instruction limits.
RECORDED_NVCC = "13.0"


class MissingToolError(RuntimeError):
    """A program that the gates need is not installed."""


def find_tool(name: str) -> Path:
    """Return a program of the CUDA toolkit: from the NVIDIA wheels, else from PATH.

    Raises:
        MissingToolError: If there is none. The message says how to install it.

    """
    wheels = importlib.util.find_spec("nvidia")
    for folder in wheels.submodule_search_locations or () if wheels else ():
        for tool in sorted(Path(folder).glob(f"*/bin/{name}"), reverse=True):
            if os.access(tool, os.X_OK):
                return tool
    if on_path := shutil.which(name):
        return Path(on_path)
    raise MissingToolError(f"no {name}: pip install --group cuda-gates")


def find_nvcc() -> Path:
    """Return the nvcc that the build takes.

    Raises:
        MissingToolError: If there is none.

    """
    found = run(sys.executable, str(ROOT / "cmake" / "find_nvcc.py"), check=False)
    if not found:
        raise MissingToolError("no nvcc: set CUDA_HOME")
    return Path(found)


def find_host_compiler() -> str:
    """Return the C++ compiler of this machine.

    Raises:
        MissingToolError: If there is none.

    """
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    raise MissingToolError("no C++ compiler (c++, g++, clang++)")


def cuda_includes(nvcc: Path) -> list[str]:
    """Return the flags with which a C++ compiler finds the CUDA headers that this nvcc takes.

    nvcc says where they are: it may be called through a link or a script.
    """
    dryrun = subprocess.run(
        [str(nvcc), "--dryrun", "-E", "-x", "cu", os.devnull],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    lines = re.findall(r"^#\$ (?:SYSTEM_)?INCLUDES=(.*)$", dryrun, re.M)
    return [flag for line in lines for flag in shlex.split(line)]


def run(*command: str, folder: str | None = None, check: bool = True) -> str:
    """Return what a command prints. Tools of the CUDA toolkit find each other through PATH."""
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path}
    return subprocess.run(
        command, check=check, capture_output=True, text=True, cwd=folder, env=environment
    ).stdout


@functools.cache
def disassembler() -> Path:
    """Return cuobjdump, having made sure of the nvdisasm that it calls."""
    cuobjdump = find_tool("cuobjdump")
    if not (cuobjdump.parent / "nvdisasm").exists():
        find_tool("nvdisasm")
    return cuobjdump
