# SPDX-License-Identifier: MIT
"""The limits in spec.toml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

SPEC = Path(__file__).with_name("spec.toml")


@dataclass(frozen=True)
class Limits:
    """The most instructions of the straight path.

    Attributes:
        forward: By head_dim and extras.
        room: Factor for an architecture that needs more; 1 for those not named.

    """

    forward: Mapping[tuple[int, str], int] = field(default_factory=dict)
    room: Mapping[str, float] = field(default_factory=dict)

    def of(self, architecture: str, head_dim: int, extras: str) -> int | None:
        """Return the limit of one kernel, None if it has none."""
        most = self.forward.get((head_dim, extras))
        return None if most is None else int(most * self.room.get(architecture, 1.0))


def read_limits() -> Limits:
    """Read spec.toml."""
    spec = tomllib.loads(SPEC.read_text())["sm80"]
    return Limits(
        {
            (int(head_dim), extras): most
            for head_dim, row in spec["forward"].items()
            for extras, most in row.items()
        },
        spec["room"],
    )
