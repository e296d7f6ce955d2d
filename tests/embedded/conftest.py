# SPDX-License-Identifier: MIT
"""Tests of the embedded model read the shipped weights, and train on one thread."""

import pytest
from fixtures import restored_threads
from tokenizers import Tokenizer

from guide_ext.embedded import model_path
from guide_ext.embedded.training.lean_engine import LeanEngine

__all__ = ["restored_threads"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_path() / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine() -> LeanEngine:
    return LeanEngine.from_folder(model_path())
