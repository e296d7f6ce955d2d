# SPDX-License-Identifier: MIT
"""Write the values of a table: words for names, one column for both ends of an interval."""

from __future__ import annotations

from dataclasses import dataclass

from guide_ext.studies.report.record import ShownTable
from guide_ext.studies.report.sentences import fixed, short
from guide_ext.studies.tables.reading import TableRow, number
from guide_ext.studies.tables.table import Column, Kind

_ENDS = (("low", "high"), ("high", "low"), ("from", "to"), ("to", "from"))


@dataclass(frozen=True)
class ShownColumn:
    """A column of the report: one column of the table, or both ends of an interval or range."""

    head: str
    columns: tuple[Column, ...]
    is_text: bool


def columns_of(table: ShownTable) -> list[ShownColumn]:
    """Return the columns that are shown; an interval or a range takes one.

    Style and Δ are left out beside the name of their condition, and so is a column that is hidden
    where nothing is known.

    """
    columns = {column.name: column for column in table.columns}
    hidden = {"style", "delta"} if "condition" in columns else set()
    shown = []
    for name, column in columns.items():
        is_unknown = all(row[name] is None for row in table.rows)
        if name in hidden or (is_unknown and column.hidden_if_unknown):
            continue
        other = columns.get(_other_end(name))
        if other is None:
            shown.append(ShownColumn(column.title, (column,), _is_text(table, column)))
        elif name.endswith("_low"):
            shown.append(ShownColumn("95 % interval", (column, other), is_text=False))
        elif name.endswith("from"):
            head = column.head or name.removesuffix("from").replace("_", " ").strip() or "bin"
            shown.append(ShownColumn(head, (column, other), is_text=False))
    return shown


def _other_end(name: str) -> str:
    """Return the column of the other end of an interval or range; an empty name if it has none."""
    for end, other in _ENDS:
        if name.endswith(f"_{end}"):
            return name.removesuffix(end) + other
    return {"from": "to", "to": "from"}.get(name, "")


def _is_text(table: ShownTable, column: Column) -> bool:
    values = [row[column.name] for row in table.rows]
    return bool(column.words) or (
        all(isinstance(value, str | None) for value in values)
        and any(isinstance(value, str) for value in values)
    )


def value_text(column: ShownColumn, row: TableRow) -> str:
    """Return what stands in a place of a table, as plain text; “–” where nothing is known."""
    if len(column.columns) == 1:
        return _text(column.columns[0], row)
    start, end = column.columns
    if row[start.name] is None and row[end.name] is None:
        return "–"
    if start.kind is Kind.DEPTH:
        depths = (number(row, one.name) for one in column.columns)
        return "–".join("–" if one is None else short(100 * one) for one in depths) + " %"
    joint = " to " if start.name.endswith("_low") else "–"
    return joint.join(_text(one, row) for one in column.columns)


def _text(column: Column, row: TableRow) -> str:
    value = row[column.name]
    if value is None:
        return "–"
    if isinstance(value, str):
        return column.word(value)
    is_share = column.kind in (Kind.SHARE, Kind.CORRELATION)
    return fixed(value, 3) if is_share else short(value)
