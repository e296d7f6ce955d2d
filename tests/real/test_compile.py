# SPDX-License-Identifier: MIT
"""The decode step of SmolLM2's first layers, compiled with a static cache.

The whole model compiles for two minutes, and its layers are alike.
"""

from __future__ import annotations

import pytest
import torch
from marked_prose import by_hand, draw, eager_logits, whole
from models import Decoder, assert_logits_close

from guide_ext import integration as guide

pytest.importorskip("pydoc_data.topics")

STEPS = 4
LAYERS = 6


def first_layers():
    model, _ = guide.load("smollm2", device="cpu", steerable=False)
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    return model


def test_equal_to_the_model_as_it_is(seed):
    """The same graph serves other marks."""
    tokenizer, model = guide.load_tokenizer("smollm2"), guide.enable(first_layers())
    eager = first_layers()
    eager.set_attn_implementation("eager")
    torch._dynamo.reset()
    decoder = Decoder(model, torch.compile(model, fullgraph=True))
    plain = Decoder(model, model)
    for delta in (2.5, -1.5):
        inputs = by_hand(tokenizer, [draw(tokenizer, 80, [{"delta": delta}], seed)])
        bias = inputs["guide_bias"]
        found = decoder.generate(inputs, bias, None, STEPS)
        interpreted = plain.generate(inputs, bias, None, STEPS)
        written = torch.stack([step.argmax(-1) for step in found], 1)
        text = whole(inputs, torch.cat([inputs["input_ids"], written], 1))
        wanted = eager_logits(eager, text)[:, -STEPS - 1 : -1]
        for step, logits in enumerate(found):
            assert_logits_close(logits, interpreted[step])
            assert_logits_close(logits, wanted[:, step])
