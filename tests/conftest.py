# SPDX-License-Identifier: MIT
"""Markers and seeds. No library of numbers is imported here: tests of text alone need none."""

import random
import sys

import pytest

MARKERS = {
    "cuda": "needs a CUDA device",
    "emulated": "runs the CUDA kernels on the CPU emulator",
    "slow": "takes more than a few seconds",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="another draw of every random input")


@pytest.fixture(autouse=True)
def seeds(request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed")
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
