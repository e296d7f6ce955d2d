# SPDX-License-Identifier: MIT
"""Compile a .cu file to a .cubin, with the flags of the product or with given ones."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .tools import ROOT, MissingToolError, find_nvcc


def product_flags(source: Path) -> list[str]:
    """Return nvcc and the flags that setup.py's build compiles a source with, as Ninja knows them.

    Without those that say what to write, where, and for which GPU.

    Raises:
        MissingToolError: If there is no build folder, no Ninja, or no such source in the build.

    """
    ninja = shutil.which("ninja", path=sysconfig.get_path("scripts")) or shutil.which("ninja")
    folder = ROOT / "build" / "cmake" / str(sys.implementation.cache_tag)
    if ninja is None or not (folder / "build.ninja").exists():
        raise MissingToolError("no build folder of Ninja: run make setup")
    commands = subprocess.run(
        [ninja, "-C", str(folder), "-t", "commands"], check=True, capture_output=True, text=True
    ).stdout
    for line in commands.splitlines():
        # "cmake -E make_directory … && nvcc …"
        for command in line.split(" && "):
            words = shlex.split(command)
            if str(source) in words and Path(words[0]).name == "nvcc":
                return _without_outputs(words, source)
    raise MissingToolError(f"the build has no {source.name}")


def compile_to_cubin(
    source: Path, cubin: Path, *, architecture: str = "sm_80", flags: list[str] | None = None
) -> str:
    """Compile one source for one architecture and return what nvcc and ptxas said.

    Raises:
        MissingToolError: If there is no nvcc.
        RuntimeError: If nvcc fails. The message is its log.

    """
    command = flags or [str(find_nvcc()), "-std=c++17", "-O3"]
    command += [f"-arch={architecture}", "-Xptxas=-v,-warn-spills,-warn-lmem-usage"]
    command += ["-cubin", str(source), "-o", str(cubin)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def _without_outputs(words: list[str], source: Path) -> list[str]:
    kept = []
    takes_value = False
    for word in words:
        if takes_value:
            takes_value = False
        elif word in ("-o", "-MF"):
            takes_value = True
        elif word not in ("-c", "-MD", str(source)) and not word.startswith("-gencode"):
            kept.append(word)
    return kept
