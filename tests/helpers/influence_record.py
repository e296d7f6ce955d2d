# SPDX-License-Identifier: MIT
"""A record of Influence with two groups, prompts for others, and a reader of pictures.

A test file gets the fixtures by naming this module in `pytest_plugins`.
"""

import matplotlib.image
import pytest
from pages import TWO_GROUPS

from guide_ext import integration as guide
from guide_ext.integration.compare import measure_prompt

DOCUMENT = "Yesterday, the old baker hides the key in the barn. Anna likes the salt."
STEERED = f"<!!->Summarize in French<-!!>\n{DOCUMENT}"


@pytest.fixture(scope="module")
def embedded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def record(embedded):
    model, tokenizer = embedded
    prompt = guide.as_prompt(tokenizer, TWO_GROUPS)
    return measure_prompt(model, tokenizer, prompt, delta=2.0, model_name="embedded")


def pixels(path):
    return matplotlib.image.imread(path)[..., :3]
