# SPDX-License-Identifier: MIT
"""Figures from saved results. The only package that imports a plotting library."""
