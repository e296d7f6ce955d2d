# SPDX-License-Identifier: MIT
"""Markers and seeds. No library of numbers is imported here: tests of text alone need none."""

import random
import sys
from pathlib import Path

import pytest

MARKERS = {
    "cuda": "needs a CUDA device",
    "emulated": "runs the CUDA kernels on the CPU emulator",
    "long": "takes seconds, and a change rarely breaks it: `make test-long`",
    "real": "runs SmolLM2-135M-Instruct: `make test-real`",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


# Folders whose files take longest: what begins last is waited for.
FIRST = ("cuda", "project", "studies", "benchmarks", "cli")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)


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
