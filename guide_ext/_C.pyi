"""The pybind11 module: what was built, and how; errors of Python through C++."""

from collections.abc import Callable
from typing import Any

def build_info() -> dict[str, Any]:
    """Return version, compiler, instruction sets, CUDA architectures, git revision."""

def keep_errors(function: Callable[..., Any], /) -> Callable[..., Any]:
    """Wrap an operator's function: what it raises passes through a C++ kernel unchanged."""

def error_keeper() -> tuple[int, int]:
    """Return addresses of two functions, for `guide_ext_keep_errors` of a library."""
