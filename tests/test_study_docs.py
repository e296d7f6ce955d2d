# SPDX-License-Identifier: MIT
"""docs/studies.md says what happens: its examples are executed."""

import doctest
from pathlib import Path

from guide_ext.experiments.studies.study import STUDIES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "studies.md"


def test_examples():
    failed, attempted = doctest.testfile(
        str(PAGE),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 0


def test_every_study_is_described():
    text = PAGE.read_text("utf-8")
    for name in STUDIES:
        assert f"| `{name}` |" in text
