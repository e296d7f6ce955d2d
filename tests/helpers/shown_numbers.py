# SPDX-License-Identifier: MIT
"""What a page shows of a command, compared where a processor decides the last digit."""

import re

import pytest

_NUMBER = re.compile(r"\d+\.\d+")


def assert_shown(shown, said):
    """Compare texts, line by line; the last digit of a number may be one more or one less."""
    shown, said = ([line.rstrip() for line in text.splitlines()] for text in (shown, said))
    assert [_NUMBER.sub("#", line) for line in shown] == [_NUMBER.sub("#", line) for line in said]
    for found, wanted in zip(_NUMBER.findall("\n".join(shown)), _NUMBER.findall("\n".join(said)),
                             strict=True):  # fmt: skip
        digits = len(wanted.partition(".")[2])
        assert len(found.partition(".")[2]) == digits
        assert float(found) == pytest.approx(float(wanted), abs=1.01 * 10**-digits, rel=0)
