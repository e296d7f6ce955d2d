# SPDX-License-Identifier: MIT
"""What a table of a study is: its columns, how its rows are made, what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from guide_ext.studies.cells import STYLE_NAMES
from guide_ext.studies.tables.reading import TableRow
from guide_ext.studies.tables.results import Results


class Kind(Enum):
    """What the values of a column are."""

    NUMBER = "a number"
    TEXT = "a text"
    SHARE = "from 0 to 1, shown with three digits"
    CORRELATION = "from -1 to 1, shown with three digits"
    DEPTH = "from 0 to 1, shown in per cent"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name in ``tables.json``.
        head: Its name in reports; empty for `name` with spaces.
        kind: What its values are.
        words: What reports write for its values; others are written as they are.
        hidden_if_unknown: Whether reports leave it out where no row has a value.

    """

    name: str
    head: str = ""
    kind: Kind = Kind.NUMBER
    words: Mapping[str, str] = field(default_factory=dict)
    hidden_if_unknown: bool = False

    @property
    def title(self) -> str:
        """Its name in reports."""
        return self.head or self.name.replace("_", " ")

    def word(self, value: str) -> str:
        """Return what reports write for a value."""
        return self.words.get(value, value)


@dataclass(frozen=True)
class Table:
    """A table of a study.

    Attributes:
        name: Its name in ``tables.json``; no other table has it.
        title: Its heading.
        columns: Its columns, in order.
        rows: Makes the values of its rows from the results of its study; None for no such table.
        findings: Says in sentences what its rows show; nothing where they hold too few numbers.
        note: A remark below it; may be empty.

    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Callable[[Results], Iterable[Sequence[Any]] | None]
    findings: Callable[[Sequence[TableRow]], list[str]]
    note: str = ""

    def made(self, results: Results) -> dict[str, Any] | None:
        """Return the table as ``tables.json`` holds it; None if the run has no such table."""
        rows = self.rows(results)
        if rows is None:
            return None
        return {
            "name": self.name,
            "title": self.title,
            "columns": [column.name for column in self.columns],
            "rows": [list(row) for row in rows],
            "note": self.note,
        }


def with_interval(column: Column) -> tuple[Column, Column, Column]:
    """Return a column and those of the ends of its interval.

    Example:
        >>> [column.name for column in with_interval(Column("found"))]
        ['found', 'found_low', 'found_high']

    """
    low, high = (replace(column, name=f"{column.name}_{end}") for end in ("low", "high"))
    return column, low, high


_STYLES = {style.value: name for style, name in STYLE_NAMES.items()}

DELTA = Column("delta", "Δ")
CONDITION = (
    Column("condition", kind=Kind.TEXT),
    Column("style", kind=Kind.TEXT, words=_STYLES),
    DELTA,
)
"""Columns of `guide_ext.studies.tables.results.condition_values`."""
LENGTH = (Column("length_from", "tokens of the text"), Column("length_to", "tokens of the text"))
ANSWERS = Column("answers")
DOCUMENTS = Column("documents")
WELL_FORMED = Column("well_formed", "well-formed", Kind.SHARE)
RIGHT = Column("right", "right in every word", Kind.SHARE, hidden_if_unknown=True)
"""Known in the embedded world alone."""


def columns_by_length(value: Column) -> tuple[Column, ...]:
    """Return the columns of `guide_ext.studies.tables.results.values_by_length`."""
    return (*CONDITION, *LENGTH, ANSWERS, *with_interval(value))
