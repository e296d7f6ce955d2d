# SPDX-License-Identifier: MIT
"""What a terminal shows of a run: the findings, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from guide_ext.influence.record import visible
from guide_ext.report.narrow import Fitting
from guide_ext.studies.report.findings import findings
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.section import Section


def study_table(tables: Mapping[str, Any], sections: Sequence[Section]) -> RenderableType:
    """Show in a few lines what a run found, and what failed.

    Args:
        tables: What ``tables.json`` of a run holds.
        sections: The sections of the report, in order.

    Raises:
        ValueError: If the tables are not those of a run.

    """
    record = StudyRecord.read(tables, sections)
    table = Table(title=Text(f"studies, {visible(record.model)}"), show_lines=True)
    for column in ("study", "paper", "found"):
        table.add_column(column, overflow="fold")
    for section in record.shown_sections:
        sentences = findings(record, section) or ["too few numbers"]
        table.add_row(section.title, section.place or "–", Text("\n".join(map(visible, sentences))))
    for other in record.other_tables:
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
