# SPDX-License-Identifier: MIT
"""The limits in spec.toml."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

SPEC = Path(__file__).with_name("spec.toml")


def read_limits() -> dict[tuple[int, str], int]:
    """Return the most instructions of the straight path, by head_dim and extras."""
    return {
        (int(head_dim), extras): most
        for head_dim, row in tomllib.loads(SPEC.read_text())["sm80"]["forward"].items()
        for extras, most in row.items()
    }
