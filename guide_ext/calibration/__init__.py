# SPDX-License-Identifier: MIT
"""Calibrate Δ: find the Δ that has the Influence of an emphasis that people write."""

from guide_ext.calibration.calibration import UPPERCASE, Calibration, find_delta, solve
from guide_ext.calibration.search import CalibrationError, Crossing, Search

__all__ = [
    "UPPERCASE",
    "Calibration",
    "CalibrationError",
    "Crossing",
    "Search",
    "find_delta",
    "solve",
]
