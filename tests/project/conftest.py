# SPDX-License-Identifier: MIT
"""Builds are tested with the same tolerances as the op."""

from fixtures import assert_accurate

__all__ = ["assert_accurate"]
