# SPDX-License-Identifier: MIT
"""Bad input of the transformers integration: a clear error, and nothing half-applied."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys

import models
import pytest
import torch
from models import logits, snapshot
from transformers import DynamicCache, StaticCache, T5Config, T5ForConditionalGeneration

import guide_ext.integration as guide
from guide_ext.integration.call import arguments, caches
from guide_ext.integration.call import attention as call_attention
from guide_ext.integration.call.frame import current
from guide_ext.integration.model import verify


@pytest.fixture
def model():
    return guide.enable(models.make("llama"))


@pytest.fixture
def inputs():
    return models.prompts()


def bias(rows=2, tokens=9, value=1.0):
    return torch.full((rows, tokens), value)


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


def logits_and_cache(model, ids, table):
    cache = DynamicCache(config=model.config)
    logits(model, {"input_ids": ids, models.CACHE: cache}, guide_bias=table)
    return cache


class TestNotEnabled:
    def test_generate(self, inputs):
        with pytest.raises(ValueError, match=r"not used by the model: .*guide_bias"):
            models.generation(models.make("llama"), {**inputs, "guide_bias": bias()})

    @pytest.mark.parametrize("name", ["guide_bias", "guide_strength"])
    def test_forward(self, inputs, name):
        model = models.make("llama")
        model.set_attn_implementation("guide")
        with pytest.raises(ValueError, match=f"{name} must go to an enabled model.*enable"):
            logits(model, inputs, **{name: bias()})

    def test_disabled_again(self, inputs):
        model = guide.disable(guide.enable(models.make("llama")))
        with pytest.raises(ValueError, match="guide_bias must go to an enabled model, got a Llama"):
            models.generation(model, {**inputs, "guide_bias": bias()})
        with pytest.raises(ValueError, match=r"not used by the model: .*guide_bais"):
            models.generation(model, {**inputs, "guide_bais": bias()})
        plain = models.generation(models.shared("llama"), inputs)
        models.assert_same_generation(models.generation(model, inputs), plain)

    def test_dropout(self, inputs):
        model = models.make("llama", attention_dropout=0.5).train()
        model.set_attn_implementation("guide")
        with pytest.raises(ValueError, match=r"attention dropout must be 0.*got 0.5"):
            model(**inputs)

    def test_table_size(self):
        with pytest.raises(ValueError, match="model must be enabled, got a LlamaForCausalLM"):
            guide.table_size(models.make("llama"))


class TestRefusal:
    def test_own_attention_code(self):
        model = models.make("bloom")
        before = snapshot(model)
        with pytest.raises(guide.UnsupportedModelError, match="BloomForCausalLM, which computes"):
            guide.enable(model)
        assert snapshot(model) == before

    def test_outputs_that_differ(self, monkeypatch, inputs):
        # A model that shifts its mask, whatever its kind, and only outside eager attention.
        from transformers.models.llama import modeling_llama

        make = modeling_llama.create_causal_mask

        def shifted(config, *args, **kwargs):
            if config._attn_implementation != "eager":
                kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
            return make(config, *args, **kwargs)

        model = models.make("llama").train()
        before, training = snapshot(model), [module.training for module in model.modules()]
        monkeypatch.setattr(modeling_llama, "create_causal_mask", shifted)
        message = "LlamaForCausalLM equal.*'guide' differs by.*'guide_dense' differs by.*left as it"
        with pytest.raises(guide.UnsupportedModelError, match=message):
            guide.enable(model)
        assert snapshot(model) == before
        assert training == [module.training for module in model.modules()]
        assert current() is None

    def test_mask_that_never_arrives(self, monkeypatch):
        from transformers.models.llama import modeling_llama

        monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda *_, **__: None)
        monkeypatch.setattr(verify, "tiny_batch", lambda model: (torch.ones(1, 1).long(),) * 2)
        message = "never hands a mask to an attention layer"
        with pytest.raises(guide.UnsupportedModelError, match=message):
            guide.enable(models.make("llama"))

    @staticmethod
    @contextlib.contextmanager
    def unchanged_by_failure(monkeypatch, method, error):
        """Give a model one of whose methods raises; afterwards it must be as it was."""
        model = models.make("llama")
        before = snapshot(model)

        def fail(*_args, **_kwargs):
            raise error

        monkeypatch.setattr(type(model), method, fail)
        yield model
        monkeypatch.undo()
        assert snapshot(model) == before

    def test_failure_in_eager(self, monkeypatch):
        error = TypeError("pixel_values missing")
        with (
            self.unchanged_by_failure(monkeypatch, "forward", error) as model,
            pytest.raises(guide.UnsupportedModelError, match="token ids alone, got TypeError"),
        ):
            guide.enable(model)

    @pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
    def test_memory_is_no_fault_of_the_model(self, monkeypatch, error):
        with (
            self.unchanged_by_failure(monkeypatch, "forward", error) as model,
            pytest.raises(error),
        ):
            guide.enable(model)

    def test_failure_under_guide_is_chained(self, monkeypatch):
        def fail(*_args, **_kwargs):
            raise IndexError("a mask that is too small")

        monkeypatch.setattr(call_attention, "biased_attention", fail)
        with pytest.raises(guide.UnsupportedModelError, match="'guide' fails with") as caught:
            guide.enable(models.make("llama"))
        assert isinstance(caught.value.__cause__, IndexError)

    def test_failure_half_way(self, monkeypatch):
        with (
            self.unchanged_by_failure(monkeypatch, "register_forward_hook", MemoryError) as model,
            pytest.raises(MemoryError),
        ):
            guide.enable(model)

    def test_encoder_decoder(self):
        config = T5Config(
            vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
            decoder_start_token_id=0,
        )  # fmt: skip
        with pytest.raises(guide.UnsupportedModelError, match=r"must be decoder-only, got .*T5"):
            guide.enable(T5ForConditionalGeneration(config))

    @pytest.mark.parametrize("other", [torch.nn.Linear(1, 1), None, "gpt2"])
    def test_other_objects(self, other):
        message = f"PreTrainedModel, got {type(other).__name__}; for a wrapper"
        with pytest.raises(ValueError, match=message):
            guide.enable(other)

    def test_part_of_an_enabled_model(self, model, inputs):
        wanted = logits(model, inputs, guide_bias=bias())
        with pytest.raises(ValueError, match="share no layer with one that is enabled already"):
            guide.enable(model.model)
        assert torch.equal(logits(model, inputs, guide_bias=bias()), wanted)

    def test_model_with_an_enabled_part(self):
        model = models.make("llama")
        guide.enable(model.model)
        with pytest.raises(ValueError, match=r"share no layer.*disable\(\)"):
            guide.enable(model)

    def test_eager_attention_that_gives_nan(self):
        model = models.make("llama")
        model.model.norm.weight.data.fill_(math.inf)
        before = snapshot(model)
        with pytest.raises(guide.UnsupportedModelError, match=r"eager.*NaN.*torch\.float32"):
            guide.enable(model)
        assert snapshot(model) == before

    def test_float64_is_compared_without_padding(self):
        """There eager attention overflows on the rows of padding; ours does not."""
        model, inputs = models.make("llama").double(), models.prompts(padding=0)
        wanted = models.reference_logits(model, inputs, models.marks().double())
        guide.enable(model)
        models.assert_logits_close(logits(model, inputs, guide_bias=models.marks()), wanted)
        padded = models.prompts()
        found = logits(model, padded, guide_bias=models.marks())
        single = models.reference_logits(models.shared("llama"), padded, models.marks())
        models.assert_logits_close(found, single.double(), padded["attention_mask"])

    def test_activation_checkpointing_of_a_dense_model(self, inputs):
        model = guide.enable(models.make("doge")).train()
        model.activation_checkpointing_enable()
        with pytest.raises(ValueError, match=r"checkpointing must be off to train a steered Doge"):
            model(**inputs, guide_bias=bias(), use_cache=False)
        with torch.no_grad():
            model(**inputs, guide_bias=bias(), use_cache=False)

    def test_static_cache_of_a_dense_model(self):
        model = guide.enable(models.make("doge"))
        with pytest.raises(ValueError, match="cache_implementation must be dynamic to steer Doge"):
            models.generation(
                model, {**models.prompts(), "guide_bias": bias()}, cache_implementation="static"
            )

    def test_mask_of_another_call(self, model, inputs):
        # A mask for 9 keys cannot serve 12.
        cache = DynamicCache(config=model.config)
        logits(model, {"input_ids": inputs["input_ids"][:, :3], models.CACHE: cache})
        made = []
        handle = model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: made.append(kwargs["attention_mask"]), with_kwargs=True
        )
        logits(model, inputs)
        handle.remove()
        with pytest.raises(ValueError, match="must describe all 12 keys of the layer, got one"):
            logits(model, {**inputs, "attention_mask": made[0], models.CACHE: cache})


@pytest.mark.parametrize("version", ["5.22.1", "5.25.0"])
def test_other_versions_of_transformers_are_refused(version):
    program = (
        f"import transformers; transformers.__version__ = {version!r}; import guide_ext.integration"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f">= 5.23 and < 5.25, got {version}" in done.stderr
