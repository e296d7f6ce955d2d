# SPDX-License-Identifier: MIT
"""Records of Influence whose runs were one batch, or one after the other."""

import copy

import numpy as np
import pytest
from tolerance import INFLUENCE


def values(run):
    return np.array(run["values"], dtype=float)


def assert_same(found, wanted):
    """Everything but the last digits of Influence."""
    found, wanted = copy.deepcopy(found), copy.deepcopy(wanted)
    for one, other in zip(found["runs"], wanted["runs"], strict=True):
        a, b = values(one), values(other)
        assert a.shape == b.shape
        assert np.nanmax(np.abs(a - b)) <= INFLUENCE
        assert (np.isnan(a) == np.isnan(b)).all()
        for left, right in zip(one["summary"], other["summary"], strict=True):
            assert left == pytest.approx(right, abs=INFLUENCE)
        for run in (one, other):
            del run["values"], run["summary"]
    assert found == wanted
