# SPDX-License-Identifier: MIT
"""Helpers that depend on nothing and that every other folder may use."""
