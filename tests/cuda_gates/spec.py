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


def read_limits() -> dict[tuple[int, int], int]:
    """Return the most instructions of the straight path, by head_dim and extras."""
    limits = tomllib.loads(SPEC.read_text())["sm80_forward"]
    return {
        (int(head_dim), extras): most
        for head_dim, row in limits.items()
        for extras, most in enumerate(row)
    }
