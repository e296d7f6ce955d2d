# SPDX-License-Identifier: MIT
"""What every task asks of an answer."""

import random

from guide_ext.embedded import world
from guide_ext.studies.cells import Row
from guide_ext.studies.french import TASK
from guide_ext.studies.tables import metrics

ROW = Row("a@0.5", "french", "", "Summarize in French", " The cat.", 3, (0, 500))


def test_languages_of_the_world():
    rng = random.Random(3)
    for _ in range(50):
        event = world.random_event(rng)
        assert metrics.language(event.french()) == "fr"
        assert metrics.language(event.english()) == "en"


def test_repetition():
    assert metrics.judge(TASK, ROW, "19th century, " * 9, is_embedded=False)["well_formed"] == 0
    assert metrics.judge(TASK, ROW, "", is_embedded=False)["well_formed"] == 0
    assert (
        metrics.judge(TASK, ROW, "Une phrase qui va bien.", is_embedded=False)["well_formed"] == 1
    )
