# SPDX-License-Identifier: MIT
"""Steered SmolLM2 on real prose equals its own eager attention with the bias in the mask."""

from __future__ import annotations

import math

import pytest
import torch
from marked_prose import ENDLESS, assert_greedy, by_hand, draw, eager_logits, whole
from models import (
    assert_logits_close,
    assert_same_generation,
    generation,
    logits,
    reference_logits,
)
from share_reference import put_under
from tolerance import assert_accurate

from guide_ext import integration as guide
from guide_ext.machine.processor import why_slow
from guide_ext.steering.steering import Steering

pytest.importorskip("pydoc_data.topics")

LAYERS, HEADS = 30, 9
STEPS = 8
SHARE = 0.3
# One row for each: tokens of the document, and nats of its marks in order.
ROWS = ((380, (2.5, -1.5, 4.0)), (260, (-3.0,)), (150, (1.0, 0.5, 6.0, -0.25)))
SHORT_ROWS = ((130, (2.0, -1.0)), (80, (3.0,)))


def drawn(tokenizer, rows, seed):
    return [
        draw(tokenizer, tokens, [{"delta": delta} for delta in deltas], seed)
        for tokens, deltas in rows
    ]


@pytest.fixture(scope="module")
def proses(smollm2, seed):
    return drawn(smollm2[1], ROWS, seed)


@pytest.fixture(scope="module")
def short(smollm2, seed):
    return drawn(smollm2[1], SHORT_ROWS, seed)


@pytest.fixture(scope="module")
def inputs(smollm2, proses):
    return by_hand(smollm2[1], proses)


@pytest.fixture(scope="module")
def encoded(smollm2, proses):
    """What the product makes of the tags."""
    return guide.encode(*smollm2, [prose.chat for prose in proses])


@pytest.fixture(scope="module")
def steered(smollm2, encoded):
    return generation(smollm2[0], encoded, max_new_tokens=STEPS, **ENDLESS)


@pytest.fixture(scope="module")
def wanted(eager, inputs, steered):
    return eager_logits(eager, whole(inputs, steered.sequences))


@pytest.fixture(scope="module")
def plain(eager, inputs):
    """What transformers' own sdpa writes, without marks."""
    eager.set_attn_implementation("sdpa")
    try:
        unmarked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return generation(eager, unmarked, max_new_tokens=3, **ENDLESS)
    finally:
        eager.set_attn_implementation("eager")


def test_encoded_as_by_hand(encoded, inputs):
    assert encoded["attention_mask"].sum(1).diff().abs().min() > 50  # rows are padded
    assert inputs.keys() == encoded.keys()
    for name, tensor in inputs.items():
        assert torch.equal(encoded[name].to(tensor.dtype), tensor), name


def test_every_token_of_the_prompts(smollm2, encoded, inputs, wanted):
    found = logits(smollm2[0], encoded)
    assert_logits_close(found, wanted[:, : found.shape[1]], inputs["attention_mask"])


def test_every_step_of_a_greedy_answer(steered, wanted):
    assert len(steered.logits) == STEPS
    assert_greedy(steered, wanted)


def test_no_row_is_without_effect(steered, plain):
    """Otherwise the tests above would pass on a model that ignores its marks."""
    for step, other in enumerate(plain.logits):
        for row, unsteered in zip(steered.logits[step], other, strict=True):
            with pytest.raises(AssertionError, match="logits differ"):
                assert_logits_close(row, unsteered)


def test_zero_equals_sdpa(smollm2, encoded, plain):
    zero = {**encoded, "guide_bias": torch.zeros_like(encoded["guide_bias"])}
    found = generation(smollm2[0], zero, max_new_tokens=3, **ENDLESS)
    assert_same_generation(found, plain)


def random_table(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, LAYERS, HEADS, generator=generator) * 2 - 0.5


def check_methods(smollm2, eager, encoded, inputs, table):
    """Generate with what was encoded, and compare with bias and strength by hand."""
    found = generation(smollm2[0], encoded, max_new_tokens=4, **ENDLESS)
    text = whole(inputs, found.sequences)
    bias = text.pop("guide_bias")
    text["position_ids"] = (text["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert_greedy(found, reference_logits(eager, text, bias, table))


def test_strength_of_every_layer_and_head(smollm2, eager, short, seed):
    inputs = by_hand(smollm2[1], short)
    table = random_table(seed)
    check_methods(smollm2, eager, {**inputs, "guide_strength": table}, inputs, table)


@pytest.mark.parametrize("method", ["layers", "pasta", "instaboost"])
def test_methods(smollm2, eager, short, method):
    """What a method is, said as a bias in some heads."""
    model, tokenizer = smollm2
    inputs, table = by_hand(tokenizer, short), torch.ones(2, LAYERS, HEADS)
    marked, present = inputs["guide_bias"] != 0, inputs["attention_mask"].bool()
    if method == "layers":
        steering = Steering.guide(7.0, layers=range(5, 12))  # a stated Δ keeps its nats
        table[:, :5] = table[:, 12:] = 0
    elif method == "pasta":
        steering = Steering.pasta(0.05, heads={3: [0, 8], 29: [4]})
        inputs["guide_bias"] = math.log(0.05) * (present & ~marked)
        table[:] = 0
        table[:, 3, [0, 8]] = table[:, 29, 4] = 1
    else:
        steering = Steering.instaboost(5.0)
        inputs["guide_bias"] = math.log(5.0) * marked
    encoded = guide.encode(model, tokenizer, [prose.chat for prose in short], steering=steering)
    check_methods(smollm2, eager, encoded, inputs, table)


def test_share(smollm2, eager, short):
    model, tokenizer = smollm2
    inputs = by_hand(tokenizer, short)
    share = SHARE * (inputs["guide_bias"] != 0)
    encoded = guide.encode(model, tokenizer, [prose.chat for prose in short], min_share=SHARE)
    found = generation(model, encoded, max_new_tokens=4, **ENDLESS)
    text = whole(inputs, found.sequences)
    del text["guide_bias"]
    text["position_ids"] = (text["attention_mask"].cumsum(1) - 1).clamp(min=0)
    try:
        wanted = logits(put_under(eager, share), text, use_cache=False)
    finally:
        eager.set_attn_implementation("eager")
    assert_greedy(found, wanted)


@pytest.mark.skipif(
    why_slow(torch.bfloat16) is not None, reason=f"bfloat16: {why_slow(torch.bfloat16)}"
)
def test_bfloat16(short):
    """No further from float32 than twice as far as eager attention in bfloat16."""
    model, tokenizer = guide.load("smollm2", dtype="bfloat16", device="cpu")
    plain, _ = guide.load("smollm2", dtype="bfloat16", device="cpu", steerable=False)
    plain.set_attn_implementation("eager")
    inputs = by_hand(tokenizer, short)
    found = logits(model, inputs)
    naive = eager_logits(plain, inputs)
    exact = eager_logits(plain.float(), inputs)
    real = inputs["attention_mask"].bool()
    assert_accurate(found[real], exact[real].double(), naive[real])
