# SPDX-License-Identifier: MIT
"""A record of Influence with two groups, of a real model.

A test file gets the fixtures by naming this module in `pytest_plugins`.
"""

import pytest
from pages import TWO_GROUPS

from guide_ext import integration as guide
from guide_ext.integration.compare import measure_prompt


@pytest.fixture(scope="module")
def embedded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def record(embedded):
    model, tokenizer = embedded
    prompt = guide.as_prompt(tokenizer, TWO_GROUPS)
    return measure_prompt(model, tokenizer, prompt, delta=2.0, model_name="embedded")
