# SPDX-License-Identifier: MIT
"""Read the values of a row of a saved table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = str | float | None
"""What stands in one place of a table; None where nothing is known."""
TableRow: TypeAlias = dict[str, Value]
"""One row of a table: values by the name of their column."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return self.low is not None and self.high is not None


def number(row: TableRow, column: str) -> float | None:
    """Return a number; None where it is missing."""
    value = row.get(column)
    return None if value is None or isinstance(value, str) else float(value)


def text(row: TableRow, column: str) -> str:
    """Return a text; an empty one where it is missing."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def estimate(row: TableRow, column: str) -> Estimate | None:
    """Return a number with its interval; None where it is missing.

    Example:
        >>> estimate({"found": 0.5, "found_low": 0.4, "found_high": 0.6}, "found")
        Estimate(value=0.5, low=0.4, high=0.6)

    """
    value = number(row, column)
    if value is None:
        return None
    return Estimate(value, number(row, f"{column}_low"), number(row, f"{column}_high"))


def guided(rows: Iterable[TableRow], column: str) -> list[tuple[float, Estimate]]:
    """Return Δ and value of the rows in the plain style, by Δ."""
    found = []
    for row in rows:
        delta, value = number(row, "delta"), estimate(row, column)
        if not is_baseline(row) and delta is not None and value is not None:
            found.append((delta, value))
    return sorted(found, key=lambda pair: pair[0])


def is_baseline(row: TableRow) -> bool:
    """Tell whether a row is of a prompt-engineering baseline: upper case, “Important:”."""
    return text(row, "style") not in ("plain", "")
