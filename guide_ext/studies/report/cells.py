# SPDX-License-Identifier: MIT
"""How the tables of the studies are written: heads and cells in words, intervals in one column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guide_ext.studies.report.findings import fixed, predictor_name, short, task_name
from guide_ext.studies.report.record import CORRELATIONS, RATES, Cell, Row, Table, number, text

_HEADS = {
    "delta": "Δ",
    "in_french": "in French",
    "well_formed": "well-formed",
    "right": "right in every word",
    "win_rate": "win rate",
    "jaccard": "Jaccard index",
    "authors": "authors' score",
    "exact": "exactly the template",
    "auc": "AUC",
    "auc_within": "AUC among texts of one length",
    "tokens": "tokens",
    "p5": "5 %",
    "p25": "25 %",
    "p75": "75 %",
    "p95": "95 %",
    "new_tokens": "new tokens",
    "length": "tokens of the text",
    "depth": "depth",
    "repeated": "mostly repeating itself",
}
_METHODS = {"sft": "fine-tuning", "guide": "GUIDE", "plain": "plain"}


def _method_name(name: str) -> str:
    return _METHODS.get(name, name)


def _language_name(name: str) -> str:
    return {"french": "French", "other": "another"}.get(name, name)


_NAMES: dict[str, Callable[[str], str]] = {
    "predictor": predictor_name,
    "task": task_name,
    "method": _method_name,
    "language": _language_name,
}


@dataclass(frozen=True)
class Column:
    """A column as it is shown: of one column of the table, or of both ends of something."""

    head: str
    names: tuple[str, ...]
    is_text: bool


def head_of(name: str) -> str:
    """Return what to call a column."""
    return _HEADS.get(name, name.replace("_", " "))


def columns_of(table: Table) -> list[Column]:
    """Return the columns that are shown; intervals and ranges take one each.

    A condition names style and Δ, which are left out beside it; so is whether answers are right
    where nobody knows.

    """
    hidden = {"style", "delta"} if "condition" in table.columns else set()
    shown = []
    for name in table.columns:
        is_unknown = all(row[name] is None for row in table.rows)
        if name in hidden or (is_unknown and name.startswith("right")):
            continue
        stem, _, end = name.rpartition("_")
        other = f"{stem}_{'high' if end == 'low' else 'to'}"
        if (
            end in ("high", "to")
            and f"{stem}_{'low' if end == 'high' else 'from'}" in table.columns
        ):
            continue
        if name == "to" and "from" in table.columns:
            continue
        is_text = name in _NAMES or (
            all(isinstance(row[name], str | None) for row in table.rows)
            and any(isinstance(row[name], str) for row in table.rows)
        )
        if end in ("low", "from") and stem and other in table.columns:
            head = "95 % interval" if end == "low" else head_of(stem)
            shown.append(Column(head, (name, other), is_text=False))
        elif name == "from" and "to" in table.columns:
            shown.append(Column("bin", ("from", "to"), is_text=False))
        else:
            shown.append(Column(head_of(name), (name,), is_text))
    return shown


def cell_text(column: Column, row: Row) -> str:
    """Return what stands in a cell, as plain text; “–” where it is missing."""
    if len(column.names) == 2:
        start, end = column.names
        if row[start] is None and row[end] is None:
            return "–"
        if start == "depth_from":
            depths = (number(row, name) for name in column.names)
            return "–".join("–" if one is None else short(100 * one) for one in depths) + " %"
        joint = " to " if start.endswith("_low") else "–"
        return joint.join(_value(name, row[name]) for name in column.names)
    name = column.names[0]
    return _NAMES[name](text(row, name)) if name in _NAMES else _value(name, row[name])


def _value(name: str, cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    is_share = name in RATES | CORRELATIONS and name not in ("depth_from", "depth_to")
    return fixed(cell, 3) if is_share else short(cell)
