# SPDX-License-Identifier: MIT
"""Figures and pages from saved records; knows neither torch nor models."""
