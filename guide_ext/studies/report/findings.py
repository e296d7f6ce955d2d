# SPDX-License-Identifier: MIT
"""What a section of the report found, in sentences."""

from __future__ import annotations

from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.section import Section


def findings(record: StudyRecord, section: Section) -> list[str]:
    """Return sentences about a section, computed from its tables.

    Args:
        record: The tables of a run.
        section: A section of the report.

    Returns:
        Plain text; empty where the tables hold too few numbers.

    """
    return [
        sentence
        for table in section.tables
        if table.name in record.tables
        for sentence in table.findings(record.rows(table.name))
    ]
