# SPDX-License-Identifier: MIT
"""The prompts of cells."""

import pytest

from guide_ext.embedded.world import Style
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.run.engine import marked_prompt

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


@pytest.mark.parametrize(
    ("style", "marked"),
    [
        (Style.UPPER, "SUMMARIZE IN FRENCH"),
        (Style.IMPORTANT, "Important: Summarize in French"),
    ],
)
def test_baselines_are_written_so(style, marked):
    found = marked_prompt(Cell(ANSWER, ROW, Condition(style)))
    assert found.text == f"{marked} The cat."
    assert [(span.start, span.end, span.delta) for span in found.spans] == [(0, len(marked), 0.0)]
