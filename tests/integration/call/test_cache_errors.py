# SPDX-License-Identifier: MIT
"""Bad steering arguments beside a cache: it switches no check off."""

from __future__ import annotations

import math

import models
import pytest
import torch
from models import bias, logits
from transformers import DynamicCache, StaticCache

import guide_ext.integration as guide
from guide_ext.integration.call import arguments, caches

CACHES = {
    "none": lambda model: None,
    "dynamic": lambda model: DynamicCache(config=model.config),
    "static": lambda model: StaticCache(config=model.config, max_cache_len=40),
}


@pytest.mark.parametrize("make_cache", CACHES.values(), ids=CACHES)
class TestCaches:
    """A cache that somebody passes in switches no check off."""

    @pytest.mark.parametrize("tokens", [3, 8, 10, 50])
    def test_length_of_forward(self, model, inputs, make_cache, tokens):
        cache = make_cache(model)
        with pytest.raises(ValueError, match=rf"\[2, 9\], aligned .* got shape \[2, {tokens}\]"):
            model(**inputs, **{models.CACHE: cache}, guide_bias=bias(tokens=tokens))
        assert cache is None or int(cache.get_seq_length()) == 0

    @pytest.mark.parametrize("tokens", [3, 8, 10, 50])
    def test_length_of_generate(self, model, inputs, make_cache, tokens):
        with pytest.raises(ValueError, match=rf"\[2, 9\], aligned .* got shape \[2, {tokens}\]"):
            model.generate(
                **inputs, **{models.CACHE: make_cache(model)}, guide_bias=bias(tokens=tokens)
            )

    @pytest.mark.parametrize("tokens", [2, 8, 10])
    def test_length_of_a_continued_forward(self, model, make_cache, tokens):
        if (cache := make_cache(model)) is None:
            pytest.skip("nothing to continue without a cache")
        ids = models.prompts(padding=0)["input_ids"]
        with torch.no_grad():
            model(input_ids=ids[:, :7], **{models.CACHE: cache}, guide_bias=bias(tokens=7))
            with pytest.raises(ValueError, match=r"\[2, 9\], aligned with the whole text, 7 token"):
                model(input_ids=ids[:, 7:], **{models.CACHE: cache}, guide_bias=bias(tokens=tokens))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_of_one_token(self, model, make_cache, value):
        with pytest.raises(ValueError, match="guide_bias must be finite"):
            model(
                input_ids=torch.ones(1, 1, dtype=torch.long),
                **{models.CACHE: make_cache(model)},
                guide_bias=torch.full((1, 1), value),
            )

    def test_product_of_bias_and_strength(self, model, inputs, make_cache):
        strength = torch.full((2, 2, 4), 10.0)
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="guide_bias times guide_strength must be finite"):
                call(
                    **inputs,
                    **{models.CACHE: make_cache(model)},
                    guide_bias=bias(value=3e38),
                    guide_strength=strength,
                )

    def test_padding_tokens_after_a_token_without_a_mask(self, model, make_cache):
        ids = models.prompts(padding=0)["input_ids"]
        ids[:, -2:] = 0
        model.generation_config.pad_token_id = 0
        with pytest.raises(ValueError, match="left"):
            model.generate(input_ids=ids, **{models.CACHE: make_cache(model)}, guide_bias=bias())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_arguments_by_position(name, inputs):
    # Where the cache stands in a signature differs between models.
    model, ids = guide.enable(models.make(name)), inputs["input_ids"]
    cache = logits_and_cache(model, ids[:, :7], bias(tokens=7))
    before = {"llama": (None, None), "gpt2": ()}[name]
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"\[2, 9\], aligned with the whole text, 7 token"):
            model(ids[:, 7:], *before, cache, guide_bias=bias(tokens=2))
        model(ids[:, 7:], *before, cache, guide_bias=bias())


def test_cache_of_another_kind(model, inputs):
    # Nothing to count: at least the new tokens must have a number.
    assert caches.seen_tokens(object()) is None
    with pytest.raises(ValueError, match=r"at least the 9 new token\(s\) .* got shape \[2, 8\]"):
        arguments.check_tokens(bias(tokens=8), 9, None)
    arguments.check_tokens(bias(tokens=12), 9, None)


def logits_and_cache(model, ids, table):
    cache = DynamicCache(config=model.config)
    logits(model, {"input_ids": ids, models.CACHE: cache}, guide_bias=table)
    return cache
