# SPDX-License-Identifier: MIT
"""Any model in a GGUF file, named by the environment variable GUIDE_TEST_GGUF: a file or a folder.

`make test-real GGUF=path` sets it. One copy of the model is in memory: 4 bytes a weight, twice that
while it loads.
"""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from marked_documents import check_marks, marked_documents
from marked_prose import ENDLESS, assert_greedy, by_hand, draw, whole
from models import assert_logits_close, generation, logits, reference_logits

from guide_ext import integration as guide

pytest.importorskip("pydoc_data.topics")

PLACE = os.environ.get("GUIDE_TEST_GGUF")
STEPS = 6

pytestmark = pytest.mark.skipif(
    not PLACE, reason="no model given: make test-real GGUF=path, or GUIDE_TEST_GGUF=path"
)


@pytest.fixture(scope="module")
def loaded():
    """Return the model as transformers runs it, and its tokenizer."""
    return guide.load(PLACE, device="cpu", steerable=False)


@contextmanager
def enabled(model):
    try:
        yield guide.enable(model)
    finally:
        guide.disable(model)


@pytest.fixture(scope="module")
def prompts(loaded, seed):
    """Return two marked texts as they are written, and what a model is to read of them."""
    tokenizer = loaded[1]
    rows = ((260, (2.0, -1.5)), (130, (3.0,)))  # paragraphs, even in a poor vocabulary
    proses = [
        draw(tokenizer, tokens, [{"delta": delta} for delta in deltas], seed)
        for tokens, deltas in rows
    ]
    written = [prose.chat if tokenizer.chat_template else prose.tagged for prose in proses]
    return written, by_hand(tokenizer, proses)


@pytest.fixture(scope="module")
def encoded(loaded, prompts):
    model, tokenizer = loaded
    with enabled(model):
        return guide.encode(model, tokenizer, prompts[0])


@pytest.fixture(scope="module")
def answer(loaded, encoded):
    with enabled(loaded[0]) as model:
        return generation(model, encoded, max_new_tokens=STEPS, **ENDLESS)


@pytest.fixture(scope="module")
def wanted(loaded, prompts, answer):
    """Logits of the model's own eager attention, with the bias in the mask of every layer."""
    model = loaded[0]
    text = whole(prompts[1], answer.sequences)
    bias = text.pop("guide_bias")
    if "position_ids" in inspect.signature(model.forward).parameters:
        text["position_ids"] = (text["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return reference_logits(model, text, bias)


def test_it_can_be_enabled_and_disabled(loaded):
    model, tokenizer = loaded
    assert tokenizer.is_fast
    assert not guide.is_enabled(model)
    before = model.config._attn_implementation
    with enabled(model):
        assert guide.is_enabled(model)
        assert len(guide.table_size(model)) == 2
    assert model.config._attn_implementation == before


def test_encoded_as_by_hand(encoded, prompts):
    assert encoded["attention_mask"][1, 0] == 0  # padding
    for name, tensor in prompts[1].items():
        assert torch.equal(encoded[name].to(tensor.dtype), tensor), name


def test_every_token_of_the_prompts(loaded, encoded, wanted):
    with enabled(loaded[0]) as model:
        found = logits(model, encoded)
        plain = logits(model, {**encoded, "guide_bias": torch.zeros_like(encoded["guide_bias"])})
    mask = encoded["attention_mask"]
    assert_logits_close(found, wanted[:, : found.shape[1]], mask)
    with pytest.raises(AssertionError, match="logits differ"):  # marks have an effect
        assert_logits_close(plain, wanted[:, : found.shape[1]], mask)


def test_every_step_of_a_greedy_answer(answer, wanted):
    assert len(answer.logits) == STEPS
    assert_greedy(answer, wanted)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(document=marked_documents())
def test_marks_cover_exactly_the_marked_characters(loaded, document):
    check_marks(loaded[1], document)
