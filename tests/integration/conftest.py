# SPDX-License-Identifier: MIT
"""An enabled model and its inputs; a file that needs others has its own of these names."""

import models
import pytest

import guide_ext.integration as guide


@pytest.fixture
def model():
    return guide.enable(models.make("llama"))


@pytest.fixture
def inputs():
    return models.prompts()
