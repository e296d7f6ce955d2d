# SPDX-License-Identifier: MIT
"""The tables of a run, read from ``tables.json`` and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.studies.report.section import Section
from guide_ext.studies.tables.reading import TableRow, number
from guide_ext.studies.tables.table import Column, Kind
from guide_ext.support import plain_data

KIND, FORMAT = "guide_ext study tables", 1
WORLDS = ("embedded", "documents")

_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class ShownTable:
    """A saved table.

    Attributes:
        name: Its name in ``tables.json``.
        title: Its heading.
        columns: Its columns, in order.
        rows: Its rows: values by the name of their column.
        note: A remark below it; may be empty.

    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    note: str

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Failure:
    """A cell or document that failed, and why."""

    study: str
    row: str
    condition: str
    error: str


@dataclass(frozen=True)
class ShownAnswer:
    """An answer to be read as an example."""

    study: str
    delta: float | None
    prompt: str
    answer: str


@dataclass(frozen=True)
class StudyRecord:
    """The tables of one run.

    Attributes:
        model: Name of the model.
        world: ``"embedded"`` if the documents are of the embedded world, ``"documents"`` if the
            user gave them.
        settings: The settings of the run.
        tables: The tables that have rows, by name.
        failures: What failed.
        answers: Answers to be read as examples.
        sections: The sections that the report knows; `shown_sections` are those with a table.

    """

    model: str
    world: str
    settings: dict[str, Any]
    tables: dict[str, ShownTable]
    failures: tuple[Failure, ...]
    answers: tuple[ShownAnswer, ...]
    sections: tuple[Section, ...]

    @classmethod
    def read(cls, data: Mapping[str, Any], sections: Sequence[Section]) -> StudyRecord:
        """Read and check what ``tables.json`` of a run holds.

        Args:
            data: The content of the file.
            sections: The sections that the report knows. Their tables must have their columns;
                other tables may have any.

        Raises:
            ValueError: If the content is no such file, or inconsistent; says what was expected.

        Example:
            >>> StudyRecord.read({"kind": "guide_ext study tables", "format": 2}, ())
            Traceback (most recent call last):
            ...
            ValueError: tables must be of kind 'guide_ext study tables', format 1, got
            'guide_ext study tables', format 2

        """
        if not isinstance(data, Mapping):
            msg = f"tables must be a JSON object, got {type(data).__name__}"
            raise ValueError(msg)
        kind, version = data.get("kind"), data.get("format")
        if (kind, version) != (KIND, FORMAT):
            got = f"{kind!r}, format {version!r}"
            msg = f"tables must be of kind {KIND!r}, format {FORMAT}, got {got}"
            raise ValueError(msg)
        world = plain_data.string(data, "world", "tables")
        if world not in WORLDS:
            msg = (
                f"world of the tables must be one of {', '.join(map(repr, WORLDS))}, got {world!r}"
            )
            raise ValueError(msg)
        settings = data.get("settings", {})
        if not isinstance(settings, Mapping):
            msg = f"settings of the tables must be an object, got {type(settings).__name__}"
            raise ValueError(msg)
        return cls(
            model=plain_data.string(data, "model", "tables"),
            world=world,
            settings=dict(settings),
            tables=_tables(plain_data.objects(data, "tables", "tables"), _Known(sections)),
            failures=tuple(
                Failure(*(_shown(one.get(name)) for name in ("study", "row", "condition", "error")))
                for one in plain_data.objects(data, "failures", "tables")
            ),
            answers=tuple(
                _answer(one, at)
                for at, one in enumerate(plain_data.objects(data, "samples", "tables"))
            ),
            sections=tuple(sections),
        )

    @property
    def shown_sections(self) -> list[Section]:
        """The sections of which the run has a table."""
        return [
            section
            for section in self.sections
            if any(table.name in self.tables for table in section.tables)
        ]

    @property
    def other_tables(self) -> list[ShownTable]:
        """The tables that no section knows."""
        known = {table.name for section in self.sections for table in section.tables}
        return [table for name, table in self.tables.items() if name not in known]

    def rows(self, name: str) -> tuple[TableRow, ...]:
        """Return the rows of a table; none if the run has no such table."""
        return self.tables[name].rows if name in self.tables else ()

    def word(self, table: str, column: str, value: str) -> str:
        """Return what reports write for a value of a table that the run has."""
        return self.tables[table].column(column).word(value)


class _Known:
    """The columns that are known: of each table, and by their name alone."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self.tables = {table.name: table for section in sections for table in section.tables}
        self._columns = {
            column.name: column for table in self.tables.values() for column in table.columns
        }

    def required(self, table: str) -> dict[str, Column]:
        """Return the columns that a table must have, by name; it may have more."""
        found = self.tables.get(table)
        return {} if found is None else {column.name: column for column in found.columns}

    def columns(self, table: str, names: Sequence[str]) -> tuple[Column, ...]:
        """Return columns by name; one that no table knows has no more than its name."""
        own = self.required(table)
        return tuple(own.get(name) or self._columns.get(name) or Column(name) for name in names)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _answer(data: Mapping[str, Any], at: int) -> ShownAnswer:
    where = f"sample {at}"
    delta = data.get("delta")
    if delta is not None:
        _check_number(delta, f"delta of the {where}")
    parts = {name: plain_data.string(data, name, where) for name in ("study", "prompt", "answer")}
    return ShownAnswer(delta=None if delta is None else float(delta), **parts)


def _tables(found: Sequence[Mapping[str, Any]], known: _Known) -> dict[str, ShownTable]:
    tables: dict[str, ShownTable] = {}
    seen = set()
    for data in found:
        table = _table(data, known)
        if table.name in seen:
            msg = f"tables must have different names, got two named {table.name!r}"
            raise ValueError(msg)
        seen.add(table.name)
        if table.rows:
            tables[table.name] = table
    return tables


def _table(data: Mapping[str, Any], known: _Known) -> ShownTable:
    name = plain_data.string(data, "name", "table")
    where = f"table {name!r}"
    names = data.get("columns")
    if not plain_data.is_list(names) or not all(isinstance(one, str) for one in names):
        msg = f"columns of the {where} must be a list of texts, got {plain_data.brief(names)}"
        raise ValueError(msg)
    names = tuple(names)
    if not names or len(set(names)) != len(names):
        msg = f"columns of the {where} must be different ones, got {plain_data.brief(list(names))}"
        raise ValueError(msg)
    required = known.required(name)
    missing = [column for column in required if column not in names]
    if missing:
        msg = f"{where} must have the columns {', '.join(missing)}, got {', '.join(names)}"
        raise ValueError(msg)
    rows = data.get("rows")
    if not plain_data.is_list(rows):
        msg = f"rows of the {where} must be a list, got {plain_data.brief(rows)}"
        raise ValueError(msg)
    return ShownTable(
        name=name,
        title=plain_data.string(data, "title", where),
        columns=known.columns(name, names),
        rows=tuple(
            _row(row, names, required, f"row {at} of the table {name!r}")
            for at, row in enumerate(rows)
        ),
        note=data["note"] if isinstance(data.get("note"), str) else "",
    )


def _row(
    values: Any, names: tuple[str, ...], required: Mapping[str, Column], where: str
) -> TableRow:
    if not plain_data.is_list(values) or len(values) != len(names):
        got = f"{len(values)} cells" if plain_data.is_list(values) else plain_data.brief(values)
        msg = f"{where} must be a list of {len(names)} cells, got {got}"
        raise ValueError(msg)
    row = dict(zip(names, values, strict=True))
    for name, value in row.items():
        if name in required:
            _check_value(required[name].kind, value, f"{name} in {where}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(value, f"{name} in {where}")
        elif value is not None and not isinstance(value, str):
            row[name] = str(value)
    for column in row:
        if column.endswith("_low"):
            _check_order(row, column.removesuffix("_low"), where)
    return row


def _check_value(kind: Kind, value: Any, where: str) -> None:
    if kind is Kind.TEXT:
        if not isinstance(value, str):
            msg = f"{where} must be a text, got {plain_data.brief(value)}"
            raise ValueError(msg)
        return
    if value is None:
        return
    _check_number(value, where)
    least = -1.0 if kind is Kind.CORRELATION else 0.0
    if kind is not Kind.NUMBER and not least - _ROUND_OFF <= value <= 1.0 + _ROUND_OFF:
        msg = f"{where} must be from {least:g} to 1, got {value!r}"
        raise ValueError(msg)


def _check_number(value: Any, where: str) -> None:
    if not plain_data.is_finite_number(value):
        msg = f"{where} must be a finite number or null, got {plain_data.brief(value)}"
        raise ValueError(msg)


def _check_order(row: TableRow, column: str, where: str) -> None:
    low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
    if low is not None and high is not None and low > high:
        msg = f"{column} in {where} must have an interval from low to high, got {low} to {high}"
        raise ValueError(msg)
