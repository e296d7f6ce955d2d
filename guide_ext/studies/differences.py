# SPDX-License-Identifier: MIT
"""A table that several studies have: how far each condition is from Δ = 0, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guide_ext.studies.report.sentences import fixed, interval
from guide_ext.studies.tables.paired import differences
from guide_ext.studies.tables.reading import TableRow, estimate, number, text
from guide_ext.studies.tables.results import Results
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DOCUMENTS,
    Column,
    Kind,
    Table,
    with_interval,
)

DIFFERENCE = Column("difference", "difference from Δ = 0", Kind.CORRELATION)
P = Column("p", "p")
P_CORRECTED = Column("p_corrected", "p, corrected")
"""For the number of comparisons in its table."""
_SIGNIFICANT = 0.05


def difference_table(name: str, title: str, score: str, noun: str, task: str = "") -> Table:
    """Return a table of differences from Δ = 0; it exists for real texts alone.

    Args:
        name: Its name in ``tables.json``.
        title: Its heading.
        score: The score that is compared.
        noun: What the score is called in sentences; begins them.
        task: The task whose answers are compared, where a study has several; empty for all.

    """

    def rows(results: Results) -> list[list[Any]] | None:
        if results.is_embedded:
            return None
        own = [answer for answer in results.answers if task in ("", answer.cell.row.task)]
        return differences(own, score)

    return Table(
        name,
        title,
        (
            *CONDITION,
            ANSWERS,
            DOCUMENTS,
            *with_interval(DIFFERENCE),
            P,
            P_CORRECTED,
        ),
        rows=rows,
        findings=lambda found: _findings(found, noun),
        note="each answer less the plain answer to the same row; intervals by resampling "
        "documents; p by flipping the signs of documents' sums, corrected by Holm's method for the "
        "number of conditions",
    )


def _findings(rows: Sequence[TableRow], noun: str) -> list[str]:
    gains: list[str] = []
    losses: list[str] = []
    compared = False
    for row in rows:
        value, p = estimate(row, "difference"), number(row, "p_corrected")
        if value is None or p is None:
            continue
        compared = True
        if p < _SIGNIFICANT:
            told = f"{text(row, 'condition')} {fixed(value.value)}{interval(value)}"
            (gains if value.value > 0 else losses).append(told)
    if not compared:
        return []
    parts = [
        f"{word} with {'; '.join(found)}"
        for word, found in (("higher", gains), ("lower", losses))
        if found
    ]
    change = ", ".join(parts) or "no condition differs beyond chance"
    return [f"{noun}, beside Δ = 0 on the same rows (at 5 %, after correction): {change}."]
