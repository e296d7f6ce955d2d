# SPDX-License-Identifier: MIT
"""Fixtures of several folders, which import them in their conftest."""

from collections.abc import Callable, Iterator

import pytest
import tolerance
import torch


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def assert_accurate() -> Callable[..., None]:
    """Give the tolerance policy, see `tolerance.assert_accurate`."""
    return tolerance.assert_accurate
