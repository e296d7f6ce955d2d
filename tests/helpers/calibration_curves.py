# SPDX-License-Identifier: MIT
"""Curves of Influence over Δ whose every value is known."""

import math


def odds_curve(start, slope=1.0):
    """A bias multiplies odds by e^Δ: the curve of one layer with equal keys."""
    return lambda delta: 1 / (1 + (1 - start) / start * math.exp(-slope * delta))
