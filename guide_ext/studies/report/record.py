# SPDX-License-Identifier: MIT
"""The tables of a run of the paper's studies, checked and ready to be shown; plain data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from guide_ext.support import plain_data

KIND, FORMAT = "guide_ext study tables", 1
WORLDS = ("embedded", "documents")

Cell: TypeAlias = str | float | None
Row: TypeAlias = dict[str, Cell]


def _with_interval(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))


_CONDITION = ("condition", "style", "delta")
_LENGTH = ("length_from", "length_to")
# The tables that are known, with the columns that each must have; it may have more.
COLUMNS: dict[str, tuple[str, ...]] = {
    "french": (
        *_CONDITION, "answers", "documents",
        *_with_interval("in_french"), "well_formed", *_with_interval("right"),
    ),
    "french_by_length": (*_CONDITION, *_LENGTH, "answers", *_with_interval("in_french")),
    "french_quality": ("delta", "pairs", *_with_interval("win_rate")),
    "french_quality_density": ("language", "from", "to", "share"),
    "needle": (*_CONDITION, "answers", "documents", *_with_interval("found")),
    "needle_grid": ("delta", *_LENGTH, "depth_from", "depth_to", "answers", "found"),
    "json": (
        *_CONDITION, "answers", "documents",
        *_with_interval("jaccard", "authors"), "exact", "right",
    ),
    "json_by_length": (*_CONDITION, *_LENGTH, "answers", *_with_interval("jaccard")),
    "predictor": (
        "task", "predictor", "cases", "success",
        *_with_interval("auc", "auc_within", "correlation"),
    ),
    "norms": ("layer", "tokens", "p5", "p25", "median", "p75", "p95"),
    "norms_by_length": ("predictor", "layer", "task", *_LENGTH, "cases", *_with_interval("mean")),
    "delta_limit": (
        "delta", "answers", "in_french", "well_formed",
        *_with_interval("right"), "repeated", "new_tokens",
    ),
    "sft": (
        "method", "tokens", "delta", "answers", "documents",
        *_with_interval("in_french"), "well_formed", *_with_interval("right"),
    ),
}  # fmt: skip
_TEXTS = frozenset({"condition", "style", "language", "task", "predictor", "method"})
RATES = frozenset(
    _with_interval(
        "in_french", "right", "win_rate", "found", "jaccard", "authors", "auc", "auc_within"
    )
) | {"well_formed", "share", "exact", "success", "repeated", "depth_from", "depth_to"}
CORRELATIONS = frozenset(_with_interval("correlation"))
_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: What the run calls it.
        title: What to call it to readers.
        columns: Names of the columns.
        rows: Cells by column.
        note: A remark to its reader; may be empty.

    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why."""

    study: str
    row: str
    condition: str
    error: str


@dataclass(frozen=True)
class Sample:
    """One answer, to be read."""

    study: str
    delta: float | None
    prompt: str
    answer: str


@dataclass(frozen=True)
class StudyRecord:
    """The tables of one run.

    Attributes:
        model: Name of the model.
        world: ``"embedded"`` if the documents are constructed, ``"documents"`` if they were given.
        settings: What the run was told.
        tables: Those that have rows, by name.
        failures: What could not be measured.
        samples: Answers to be read.

    """

    model: str
    world: str
    settings: dict[str, Any]
    tables: dict[str, Table]
    failures: tuple[Failure, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> StudyRecord:
        """Check what ``tables.json`` of a run holds.

        Args:
            data: The whole of it.

        Raises:
            ValueError: If it is something else, or does not fit together; says what was expected.

        Example:
            >>> StudyRecord.read({"kind": "guide_ext study tables", "format": 2})
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
            tables=_tables(plain_data.objects(data, "tables", "tables")),
            failures=tuple(
                Failure(*(_shown(one.get(name)) for name in ("study", "row", "condition", "error")))
                for one in plain_data.objects(data, "failures", "tables")
            ),
            samples=tuple(
                _sample(one, at)
                for at, one in enumerate(plain_data.objects(data, "samples", "tables"))
            ),
        )

    def rows(self, name: str) -> tuple[Row, ...]:
        """Return the rows of a table; none if the run has no such table."""
        return self.tables[name].rows if name in self.tables else ()


def number(row: Row, column: str) -> float | None:
    """Return a number, or None where it is missing."""
    value = row.get(column)
    return None if value is None or isinstance(value, str) else float(value)


def text(row: Row, column: str) -> str:
    """Return a text, or the empty one where it is missing."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def estimate(row: Row, column: str) -> Estimate | None:
    """Return a number with its interval, or None where it is missing.

    Example:
        >>> estimate({"found": 0.5, "found_low": 0.4, "found_high": 0.6}, "found")
        Estimate(value=0.5, low=0.4, high=0.6)

    """
    value = number(row, column)
    if value is None:
        return None
    return Estimate(value, number(row, f"{column}_low"), number(row, f"{column}_high"))


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _sample(data: Mapping[str, Any], at: int) -> Sample:
    where = f"sample {at}"
    delta = data.get("delta")
    if delta is not None:
        _check_number(delta, f"delta of the {where}")
    parts = {name: plain_data.string(data, name, where) for name in ("study", "prompt", "answer")}
    return Sample(delta=None if delta is None else float(delta), **parts)


def _tables(found: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    seen = set()
    for data in found:
        table = _table(data)
        if table.name in seen:
            msg = f"tables must have different names, got two named {table.name!r}"
            raise ValueError(msg)
        seen.add(table.name)
        if table.rows:
            tables[table.name] = table
    return tables


def _table(data: Mapping[str, Any]) -> Table:
    name = plain_data.string(data, "name", "table")
    where = f"table {name!r}"
    columns = data.get("columns")
    if not plain_data.is_list(columns) or not all(isinstance(column, str) for column in columns):
        msg = f"columns of the {where} must be a list of texts, got {plain_data.brief(columns)}"
        raise ValueError(msg)
    columns = tuple(columns)
    if not columns or len(set(columns)) != len(columns):
        msg = (
            f"columns of the {where} must be different ones, got {plain_data.brief(list(columns))}"
        )
        raise ValueError(msg)
    missing = [column for column in COLUMNS.get(name, ()) if column not in columns]
    if missing:
        msg = f"{where} must have the columns {', '.join(missing)}, got {', '.join(columns)}"
        raise ValueError(msg)
    rows = data.get("rows")
    if not plain_data.is_list(rows):
        msg = f"rows of the {where} must be a list, got {plain_data.brief(rows)}"
        raise ValueError(msg)
    return Table(
        name=name,
        title=plain_data.string(data, "title", where),
        columns=columns,
        rows=tuple(_row(row, columns, name, at) for at, row in enumerate(rows)),
        note=data["note"] if isinstance(data.get("note"), str) else "",
    )


def _row(cells: Any, columns: tuple[str, ...], name: str, at: int) -> Row:
    where = f"row {at} of the table {name!r}"
    if not plain_data.is_list(cells) or len(cells) != len(columns):
        got = f"{len(cells)} cells" if plain_data.is_list(cells) else plain_data.brief(cells)
        msg = f"{where} must be a list of {len(columns)} cells, got {got}"
        raise ValueError(msg)
    row = dict(zip(columns, cells, strict=True))
    is_known = name in COLUMNS
    for column, cell in row.items():
        if is_known and column in COLUMNS[name]:
            _check_cell(column, cell, f"{column} in {where}")
        elif isinstance(cell, int | float) and not isinstance(cell, bool):
            _check_number(cell, f"{column} in {where}")
        elif cell is not None and not isinstance(cell, str):
            row[column] = str(cell)
    for column in row:
        if column.endswith("_low"):
            _check_order(row, column.removesuffix("_low"), where)
    return row


def _check_cell(column: str, cell: Any, where: str) -> None:
    if column in _TEXTS:
        if not isinstance(cell, str):
            msg = f"{where} must be a text, got {plain_data.brief(cell)}"
            raise ValueError(msg)
        return
    if cell is None:
        return
    _check_number(cell, where)
    least = 0.0 if column in RATES else -1.0
    if column in RATES | CORRELATIONS and not least - _ROUND_OFF <= cell <= 1.0 + _ROUND_OFF:
        msg = f"{where} must be from {least:g} to 1, got {cell!r}"
        raise ValueError(msg)


def _check_number(cell: Any, where: str) -> None:
    if not plain_data.is_number(cell):
        msg = f"{where} must be a finite number or null, got {plain_data.brief(cell)}"
        raise ValueError(msg)


def _check_order(row: Row, column: str, where: str) -> None:
    low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
    if low is not None and high is not None and low > high:
        msg = f"{column} in {where} must have an interval from low to high, got {low} to {high}"
        raise ValueError(msg)
