# SPDX-License-Identifier: MIT
"""docs/marking.md says what happens: every example on it is executed."""

import doctest
from pathlib import Path

from tokenizers_zoo import build

PAGE = Path(__file__).parents[2] / "docs" / "marking.md"


def test_marking_page():
    failed, attempted = doctest.testfile(
        str(PAGE),
        module_relative=False,
        globs={"tokenizer": build("word_piece")},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 0
