# SPDX-License-Identifier: MIT
"""The figure of a rate over Δ: which conditions it shows, and how."""

from study_tables import tables

from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report.figures import drawings
from guide_ext.studies.report.findings import findings
from guide_ext.studies.report.panels import LIGHT
from guide_ext.studies.report.record import StudyRecord


def test_a_panel_has_the_highest_levels_and_lines_of_what_else_is_marked():
    record = StudyRecord.read(tables("needle", "needle_by_length"), SECTIONS)
    (section,) = record.shown_sections
    (drawing,) = drawings(record, section)
    figure = drawing.draw(record, LIGHT)
    over_delta, by_length = figure.axes
    labels = over_delta.get_legend_handles_labels()[1]
    assert set(labels) == {
        "Δ = 0", "Δ = 0.5", "Δ = 1", "Δ = 2", "“Important:”", "said twice", "share ≥ 0.1",
        "Δ on the question", "Δ on sentence and question", "Δ on another sentence",
    }  # fmt: skip
    lines = {
        box.get_label(): [tuple(point) for point in box.lines[0].get_xydata()]
        for box in over_delta.containers
    }
    assert lines["Δ on another sentence"] == [(0, 0.89), (1, 0.79), (2, 0.49)]
    assert lines["Δ on the question"] == [(0, 0.89), (2, 0.86)]
    assert set(by_length.get_legend_handles_labels()[1]) <= set(labels)
    said = " ".join(findings(record, section))
    assert "Without Δ: upper case 0.88, “Important:” 0.92, said twice 0.91, share ≥ 0.1" in said
    assert "on question" not in said
