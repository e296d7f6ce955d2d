# SPDX-License-Identifier: MIT
"""The tolerance policy has a test of its own."""

from fixtures import assert_accurate

__all__ = ["assert_accurate"]
