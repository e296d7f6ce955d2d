# SPDX-License-Identifier: MIT
"""The study `needle`: what counts as found."""

import pytest

from guide_ext.studies.cells import Row
from guide_ext.studies.needle import TASK
from guide_ext.studies.tables.metrics import judge


@pytest.mark.parametrize(("answer", "found"), [("Sit in DOLORES park.", 1), ("Sit in a park.", 0)])
def test_needle_of_the_paper(answer, found):
    row = Row("a@0.5", TASK.name, "", "Summarize in French", " The cat.", 3, (0, 500))
    assert judge(TASK, row, answer, is_embedded=False)["found"] == found
