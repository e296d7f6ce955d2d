# SPDX-License-Identifier: MIT
"""Fixtures of the tests of continuous batching."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Leave what exists already out of the garbage collections that every manager ends with."""
    gc.freeze()
    yield
    gc.unfreeze()
