# SPDX-License-Identifier: MIT
"""What a terminal shows of the paper's studies: what was found, study by study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from guide_ext.influence.record import visible
from guide_ext.report.narrow import Fitting
from guide_ext.studies.report.findings import STUDIES, findings, shown_studies
from guide_ext.studies.report.record import StudyRecord


def study_table(tables: Mapping[str, Any]) -> RenderableType:
    """Show in a few lines what every study found, and what failed.

    Args:
        tables: What ``tables.json`` of a run holds.

    Raises:
        ValueError: If they are no such tables.

    """
    record = StudyRecord.read(tables)
    table = Table(title=Text(f"studies, {visible(record.model)}"), show_lines=True)
    for column in ("study", "paper", "found"):
        table.add_column(column, overflow="fold")
    for study in shown_studies(record):
        sentences = findings(record, study) or ["too few numbers"]
        table.add_row(study.title, study.place, Text("\n".join(map(visible, sentences))))
    known = {name for study in STUDIES for name in study.tables}
    for name, other in record.tables.items():
        if name not in known:
            table.add_row(Text(visible(other.title)), "", f"{len(other.rows)} rows")
    notes = [Text("The world of the documents is constructed.")] * (record.world == "embedded")
    if record.failures:
        first = record.failures[0]
        cases = "1 case" if len(record.failures) == 1 else f"{len(record.failures)} cases"
        what = ", ".join(filter(None, (first.study, first.row, first.condition)))
        notes.append(
            Text(visible(f"{cases} failed, the first ({what}): {first.error}"), style="bold red")
        )
    return Group(Fitting(table), *notes)
