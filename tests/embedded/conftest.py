# SPDX-License-Identifier: MIT
"""Tests of the embedded model train on one thread."""

from fixtures import restored_threads

__all__ = ["restored_threads"]
