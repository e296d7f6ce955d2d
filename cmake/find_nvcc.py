# SPDX-License-Identifier: MIT
"""Print the path of the nvcc to build with; exit with status 1 if there is none.

Tried in this order: ``CUDACXX``, ``CUDA_HOME`` and ``CUDA_PATH``, ``PATH``, the nvidia-cuda-nvcc
wheel, the usual system folders.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def candidates() -> Iterator[Path]:
    """Yield every place where nvcc may be, best first."""
    if compiler := os.environ.get("CUDACXX"):
        yield Path(shutil.which(compiler) or compiler)
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield Path(home) / "bin" / "nvcc"
    if on_path := shutil.which("nvcc"):
        yield Path(on_path)
    for folder in dict.fromkeys([sysconfig.get_path("purelib"), *site.getsitepackages()]):
        yield from sorted(Path(folder).glob("nvidia/*/bin/nvcc"), reverse=True)
    yield Path("/usr/local/cuda/bin/nvcc")
    yield from sorted(Path("/usr/local").glob("cuda-*/bin/nvcc"), reverse=True)
    yield Path("/opt/cuda/bin/nvcc")


def find_nvcc() -> Path | None:
    """Return the first candidate that can be run."""
    for candidate in candidates():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    return None


if __name__ == "__main__":
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit(1)
    sys.stdout.write(str(nvcc))
