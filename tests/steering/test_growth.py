# SPDX-License-Identifier: MIT
"""Time over size: many marks become biases in linear time."""

import pytest
from growth_of_time import SHAPES, grows_linearly
from tokenizers_zoo import build

from guide_ext.marking.chat import encode_chat
from guide_ext.marking.tokens import encode_text
from guide_ext.steering.batch import collate
from guide_ext.steering.steering import Steering


def steered(encoding):
    """Turn marks into numbers in every way."""
    for steering in (Steering.guide(2.0), Steering.pasta(0.01), Steering.instaboost(5.0)):
        collate([encoding], steering, num_layers=1, num_heads=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_text(shape):
    tokenizer = build("byte_level")
    assert grows_linearly(lambda text: steered(encode_text(tokenizer, text)), SHAPES[shape], 250)


@pytest.mark.parametrize("shape", SHAPES)
def test_chat(shape):
    tokenizer = build("byte_level")
    for make in (
        lambda n: [{"role": "user", "content": SHAPES[shape](n)}],
        lambda n: [{"role": "user", "content": SHAPES[shape](1)}] * n,
    ):
        assert grows_linearly(lambda chat: steered(encode_chat(tokenizer, chat)), make, 250)


def test_special_tokens_between_marks():
    tokenizer = build("byte_level")
    special = tokenizer.eos_token
    for make in (
        lambda n: f"<!!->cat {special} dog<-!!> " * n,
        lambda n: "<!!->" + f"cat {special} " * n + "<-!!>",
    ):
        assert grows_linearly(lambda text: steered(encode_text(tokenizer, text)), make, 250)
