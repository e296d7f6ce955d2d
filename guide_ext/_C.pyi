"""The pybind11 module: what was built, and how."""

from typing import Any

def build_info() -> dict[str, Any]:
    """Return version, compiler, instruction sets, CUDA architectures, git revision."""
