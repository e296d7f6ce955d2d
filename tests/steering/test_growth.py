# SPDX-License-Identifier: MIT
"""Time over size: many marks become biases in linear time, once they are marks of tokens."""

import pytest
from growth_of_time import SHAPES, grows_linearly
from tokenizers_zoo import build

from guide_ext.marking.tokens import encode_text
from guide_ext.steering.batch import collate
from guide_ext.steering.steering import Steering

SPECIAL = {
    "special tokens between marks": lambda special, n: f"<!!->cat {special} dog<-!!> " * n,
    "special tokens in a mark": lambda special, n: "<!!->" + f"cat {special} " * n + "<-!!>",
}


def steered(encoding):
    """Turn marks into numbers in every way."""
    for steering in (Steering.guide(2.0), Steering.pasta(0.01), Steering.instaboost(5.0)):
        collate([encoding], steering, num_layers=1, num_heads=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_text(shape):
    tokenizer = build("byte_level")
    assert grows_linearly(steered, lambda n: encode_text(tokenizer, SHAPES[shape](n)), 250)


@pytest.mark.parametrize("shape", SPECIAL)
def test_special_tokens(shape):
    tokenizer = build("byte_level")
    text = SPECIAL[shape]
    assert grows_linearly(
        steered, lambda n: encode_text(tokenizer, text(tokenizer.eos_token, n)), 250
    )
