# SPDX-License-Identifier: MIT
"""What the figures of studies are made of."""

import pytest
from study_tables import tables

from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report import panels as study_panels
from guide_ext.studies.report.panels import LIGHT
from guide_ext.studies.report.record import StudyRecord


@pytest.mark.parametrize("length", [3, 30, 60])
def test_legends_fit_into_the_figure(length):
    figure, panels = study_panels.canvas(StudyRecord.read(tables(), SECTIONS), "", "x", LIGHT)
    for index in range(7):
        label = f"{index} {'a' * length}"
        points = ((0.0, study_panels.Estimate(0.5)),)
        study_panels.draw_series(panels[0], [study_panels.Series(label, points, "#000000")])
    study_panels.legend(figure, panels, LIGHT)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
