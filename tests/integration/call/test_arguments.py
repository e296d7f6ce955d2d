# SPDX-License-Identifier: MIT
"""Bad steering arguments: a clear error, and nothing half-applied."""

from __future__ import annotations

import math

import models
import pytest
import torch
from models import bias, logits
from transformers import DynamicCache

from guide_ext.integration.call import arguments
from guide_ext.integration.call.frame import current


def with_value(value):
    table = torch.zeros(2, 9)
    table[1, 4] = value
    return table


BAD_BIAS = {
    "a list": ([[0.0] * 9] * 2, "guide_bias must be a floating-point tensor .* got list"),
    "whole numbers": (
        torch.ones(2, 9, dtype=torch.long),
        "guide_bias must be a floating-point tensor .* got dtype torch.int64",
    ),
    "a table of bools": (torch.ones(2, 9) > 0, "floating-point tensor .* got dtype torch.bool"),
    "one row": (bias(rows=1), r"guide_bias must be .* with 2 row\(s\).* got shape \[1, 9\]"),
    "one dimension": (torch.zeros(9), r"guide_bias must be .* got shape \[9\]"),
    "NaN": (with_value(math.nan), "guide_bias must be finite.* got NaN or \\+inf"),
    "+inf": (with_value(math.inf), "guide_bias must be finite.* got NaN or \\+inf"),
}
BAD_STRENGTH = {
    "a number": (1.0, "guide_strength must be a floating-point tensor .* got float"),
    "whole numbers": (
        torch.ones(2, 2, 4, dtype=torch.int32),
        "guide_strength must be a floating-point tensor .* got dtype torch.int32",
    ),
    "one layer": (torch.ones(2, 1, 4), r"\[batch, layers, heads\] = \[2, 2, 4\], got .*2, 1, 4"),
    "no rows": (torch.ones(2, 4), r"guide_strength must be .* got shape \[2, 4\]"),
    "NaN": (torch.full((2, 2, 4), math.nan), "guide_strength must be finite, got NaN or inf"),
    "inf": (torch.full((2, 2, 4), math.inf), "guide_strength must be finite, got NaN or inf"),
}

STATIC = {"cache_implementation": "static"}


class TestArguments:
    """Each also checks that the next call runs as if nothing had happened."""

    @pytest.fixture(autouse=True)
    def clean(self, model, inputs):
        wanted = logits(model, inputs)
        hooks = list(model._forward_pre_hooks), list(model._forward_hooks)
        yield
        assert current() is None
        assert hooks == (list(model._forward_pre_hooks), list(model._forward_hooks))
        assert torch.equal(logits(model, inputs), wanted)

    @pytest.mark.parametrize(("value", "message"), BAD_BIAS.values(), ids=BAD_BIAS.keys())
    def test_bias_of_forward(self, model, inputs, value, message):
        with pytest.raises(ValueError, match=message):
            logits(model, inputs, guide_bias=value)

    @pytest.mark.parametrize(("value", "message"), BAD_BIAS.values(), ids=BAD_BIAS.keys())
    @pytest.mark.parametrize("cache", ["dynamic", "static"])
    def test_bias_of_generate(self, model, inputs, value, message, cache):
        with pytest.raises(ValueError, match=message):
            models.generation(model, {**inputs, "guide_bias": value}, cache_implementation=cache)

    @pytest.mark.parametrize(("value", "message"), BAD_STRENGTH.values(), ids=BAD_STRENGTH.keys())
    def test_strength_of_forward(self, model, inputs, value, message):
        with pytest.raises(ValueError, match=message):
            logits(model, inputs, guide_bias=bias(), guide_strength=value)

    @pytest.mark.parametrize(("value", "message"), BAD_STRENGTH.values(), ids=BAD_STRENGTH.keys())
    def test_strength_of_generate(self, model, inputs, value, message):
        with pytest.raises(ValueError, match=message):
            models.generation(model, {**inputs, "guide_bias": bias(), "guide_strength": value})

    @pytest.mark.parametrize("tokens", [8, 10])
    def test_length_of_forward(self, model, inputs, tokens):
        with pytest.raises(ValueError, match=r"= \[2, 9\], aligned with the input .* got shape"):
            logits(model, inputs, guide_bias=bias(tokens=tokens))

    @pytest.mark.parametrize("options", [{}, {"use_cache": False}, STATIC])
    @pytest.mark.parametrize("tokens", [8, 10])
    def test_length_of_generate(self, model, inputs, tokens, options):
        with pytest.raises(ValueError, match=r"= \[2, 9\], aligned with the input .* got shape"):
            models.generation(model, {**inputs, "guide_bias": bias(tokens=tokens)}, **options)

    def test_longer_than_a_continued_text(self, model, inputs):
        cache = DynamicCache(config=model.config)
        arguments = {**inputs, "guide_bias": bias(tokens=10), models.CACHE: cache}
        with pytest.raises(ValueError, match=r"= \[2, 9\], aligned with the input"):
            models.generation(model, arguments)

    def test_strength_alone(self, model, inputs):
        with pytest.raises(ValueError, match="guide_strength must come with guide_bias"):
            logits(model, inputs, guide_strength=torch.ones(2, 2, 4))
        with pytest.raises(ValueError, match="guide_strength must come with guide_bias"):
            models.generation(model, {**inputs, "guide_strength": torch.ones(2, 2, 4)})

    def test_unknown_name(self, model, inputs):
        with pytest.raises(ValueError, match="guide_share or guide_seed, got guide_sed"):
            logits(model, inputs, guide_sed=bias())
        with pytest.raises(ValueError, match=r"not used by the model: .*guide_sed"):
            models.generation(model, {**inputs, "guide_sed": bias()})

    def test_gradient(self, model, inputs):
        wanted = bias().requires_grad_()
        with pytest.raises(ValueError, match="guide_bias must not require a gradient"):
            model(**inputs, guide_bias=wanted)

    def test_input_without_a_batch(self, model, inputs):
        row = inputs["input_ids"][0]
        with pytest.raises(ValueError, match=r"input_ids must be \[batch, tokens\] .* shape \[9\]"):
            model(row, guide_bias=bias())
        with pytest.raises(ValueError, match=r"inputs_embeds must be .* got shape \[9, 32\]"):
            model(inputs_embeds=model.get_input_embeddings()(row), guide_bias=bias())

    def test_part_of_the_model(self, model, inputs):
        with pytest.raises(ValueError, match="guide_bias must go to the model that was enabled"):
            model.model(inputs["input_ids"], guide_bias=bias())

    def test_no_input(self, model):
        with pytest.raises(ValueError, match="input_ids or inputs_embeds must be given"):
            model(guide_bias=bias())

    @pytest.mark.parametrize("padding", [[6, 7, 8], [4]], ids=["right", "hole"])
    def test_padding_after_a_token_in_generate(self, model, inputs, padding):
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[0, padding] = 0
        arguments = {**inputs, "attention_mask": mask, "guide_bias": bias()}
        with pytest.raises(ValueError, match=r"must get left-padded prompts.*padding_side"):
            models.generation(model, arguments)

    @pytest.mark.parametrize("options", [{}, STATIC])
    def test_padding_tokens_after_a_token_without_a_mask(self, model, inputs, options):
        tokens = inputs["input_ids"].clone()
        tokens[0, 6:] = model.generation_config.pad_token_id
        with pytest.raises(ValueError, match="must get left-padded prompts"):
            models.generation(model, {"input_ids": tokens, "guide_bias": bias()}, **options)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_of_one_token(self, model, value):
        with pytest.raises(ValueError, match="guide_bias must be finite"):
            logits(model, {"input_ids": torch.tensor([[5]])}, guide_bias=torch.tensor([[value]]))

    def test_attention_switched_after_enable(self, model, inputs):
        message = "attn_implementation must still be 'guide'.*got 'sdpa'.*set_attn_implementation"
        model.set_attn_implementation("sdpa")
        with pytest.raises(ValueError, match=message):
            logits(model, inputs, guide_bias=bias())
        with pytest.raises(ValueError, match=message):
            models.generation(model, {**inputs, "guide_bias": bias()}, **STATIC)
        model.set_attn_implementation("guide")

    def test_assistant_that_is_not_enabled(self, model):
        arguments = {**models.prompts(rows=1, padding=0), "guide_bias": bias(rows=1)}
        with pytest.raises(ValueError, match=r"assistant_model must be enabled too.*enable\("):
            models.generation(model, arguments, assistant_model=models.make("llama", seed=9))

    def test_interrupted_generation_leaves_no_frame(self, model, inputs):
        def interrupt(*_):
            raise KeyboardInterrupt

        handle = model.model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            models.generation(model, {**inputs, "guide_bias": bias()})
        handle.remove()
        assert current() is None

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
    def test_own_mask(self, model, inputs, dtype):
        table = torch.ones(2, 1, 9, 9, dtype=dtype)
        with pytest.raises(ValueError, match=r"attention_mask must be \[batch, tokens\].*4-D"):
            logits(model, {**inputs, "attention_mask": table}, guide_bias=bias())
        with pytest.raises(ValueError, match=r"attention_mask must be \[batch, tokens\].*4-D"):
            model(inputs["input_ids"], table, guide_bias=bias())

    def test_own_mask_in_generate(self, model, inputs):
        table = torch.ones(2, 1, 9, 9, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"attention_mask must be \[batch, tokens\].*4-D"):
            models.generation(model, {**inputs, "attention_mask": table, "guide_bias": bias()})

    def test_own_mask_without_heads(self, model, inputs):
        table = torch.ones(2, 9, 9, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"attention_mask must be \[batch, tokens\].*3-D"):
            logits(model, {**inputs, "attention_mask": table}, guide_bias=bias())

    def test_own_mask_by_layer_type(self, model, inputs):
        tables = {"full_attention": torch.ones(2, 1, 9, 9, dtype=torch.bool)}
        with pytest.raises(ValueError, match=r"attention_mask must be \[batch, tokens\].*4-D"):
            logits(model, {**inputs, "attention_mask": tables}, guide_bias=bias())

    def test_own_mask_of_whole_numbers(self, model, inputs):
        table = torch.ones(2, 1, 9, 9, dtype=torch.int32)
        with pytest.raises(ValueError, match=r"must be bool .* or floating .*got torch\.int32"):
            logits(model, {**inputs, "attention_mask": table})

    def test_attention_weights(self, model, inputs):
        with pytest.raises(ValueError, match="output_attentions must be False"):
            logits(model, inputs, output_attentions=True)

    def test_strength_with_a_packed_mask(self, model, inputs):
        arguments = {
            "input_ids": inputs["input_ids"],
            "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2),
            "use_cache": False,
        }
        with pytest.raises(ValueError, match="guide_strength must go with a causal"):
            logits(model, arguments, guide_bias=bias(), guide_strength=torch.ones(2, 2, 4))

    def test_failure_inside_the_model(self, model, inputs):
        def fail(*_):
            raise KeyError("inside")

        handle = model.model.layers[1].register_forward_pre_hook(fail)
        with pytest.raises(KeyError, match="inside"):
            logits(model, inputs, guide_bias=bias())
        assert current() is None
        handle.remove()

    def test_failure_before_the_first_layer_of_a_nested_call(self, model, inputs):
        # The failing inner call must not take the frame of the outer one with it.
        wanted = logits(model, inputs, guide_bias=with_value(2.0))

        def call_badly(_module, _args):
            handle.remove()
            with pytest.raises(ValueError, match="guide_bias must be"):
                logits(model, inputs, guide_bias=bias(rows=1))

        handle = model.model.embed_tokens.register_forward_pre_hook(call_badly)
        assert torch.equal(logits(model, inputs, guide_bias=with_value(2.0)), wanted)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_values_are_looked_at_once_per_generation(model, inputs, monkeypatch, cache):
    looked = []
    check = arguments.check_values
    monkeypatch.setattr(arguments, "check_values", lambda *given: looked.append(check(*given)))
    models.generation(model, {**inputs, "guide_bias": bias()}, cache_implementation=cache)
    assert len(looked) == 1
    with torch.no_grad():
        model(**inputs, guide_bias=bias())
    assert len(looked) == 2


def test_generation_inside_another_one_is_checked(model, inputs):
    # Such as the contrast of a logits processor; only an assistant may get its prompt's bias.
    found = []

    def contrast(_ids, scores):
        with pytest.raises(ValueError, match="aligned with the input") as caught:
            models.generation(model, {**inputs, "guide_bias": bias(tokens=3)})
        found.append(caught)
        return scores

    models.generation(model, inputs, logits_processor=[contrast], max_new_tokens=1)
    assert len(found) == 1
