# SPDX-License-Identifier: MIT
"""The figures of a run as PNGs, drawn from its tables alone."""

from __future__ import annotations

from guide_ext.studies.report.findings import findings
from guide_ext.studies.report.panels import LIGHT, Palette, png
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.section import Drawing, Section


def drawings(record: StudyRecord, section: Section) -> list[Drawing]:
    """Return the figures of a section whose table the run has."""
    return [one for one in section.drawings if one.table.name in record.tables]


def picture(record: StudyRecord, drawing: Drawing, palette: Palette = LIGHT) -> bytes:
    """Draw a figure.

    Args:
        record: The tables of a run.
        drawing: The figure.
        palette: Its colours: `LIGHT` or `DARK` of `guide_ext.studies.report.panels`.

    Returns:
        A PNG. The same tables give the same bytes.

    """
    return png(drawing.draw(record, palette))


def described(record: StudyRecord, section: Section, drawing: Drawing) -> str:
    """Return what a figure of a section shows, in words, with what the tables say."""
    return " ".join([f"{drawing.alt}.", *findings(record, section)])
