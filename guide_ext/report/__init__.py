# SPDX-License-Identifier: MIT
"""Figures and pages from saved records, without torch or models."""
