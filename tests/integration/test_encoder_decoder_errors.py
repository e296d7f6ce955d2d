# SPDX-License-Identifier: MIT
"""Encoder–decoders: what would leave a part unsteered, or shift a mark, is a sentence."""

from typing import ClassVar

import encoder_decoders as zoo
import models
import pytest
import torch
from encoder_decoders import NEW, START, assert_close, logits, make, marks, steered_eager
from models import CACHE
from transformers import GenerationConfig

import guide_ext.integration as guide
from guide_ext.integration.call.frame import current

WRONG_CALLS = {
    "guide_bias must be .* 2 row": {"guide_bias": torch.zeros(3, 11)},
    "each of the 11 positions": {"guide_bias": torch.zeros(2, 10)},
    "guide_decoder_bias must be .*= .2, 9.": {"guide_decoder_bias": torch.zeros(2, 8)},
    "guide_share must be left out": {"guide_share": torch.zeros(2, 11)},
    "guide_decoder_seed must come with": {"guide_decoder_seed": torch.zeros(2, 1, 9)},
    "guide_strength must come with": {"guide_strength": torch.ones(2, 6, 4)},
    r"guide_strength must be .*2, 6, 4": {
        "guide_bias": torch.zeros(2, 11), "guide_strength": torch.ones(2, 4, 4)
    },
    "steering arguments must be": {"guide_other": 1},
    "guide_bias must be finite": {"guide_bias": torch.full((2, 11), float("nan"))},
}  # fmt: skip


WRONG_GENERATIONS = {
    "must come with decoder_input_ids": {"guide_decoder_bias": marks(9)},
    "cache_implementation must be None or 'dynamic'": {
        "guide_bias": marks(11), "cache_implementation": "static"
    },
    "each of the 11 positions": {"guide_bias": marks(12)},
    "guide_share must be left out": {"guide_share": torch.zeros(2, 11)},
}  # fmt: skip


class TestLayersThatAreNotReached:
    """A module that was replaced after `enable` runs without the bias."""

    REPLACED: ClassVar = {"encoder": "model.encoder.layers.1.self_attn",
                "cross": "model.decoder.layers.0.encoder_attn",
                "decoder": "model.decoder.layers.1.self_attn"}  # fmt: skip

    @pytest.fixture(params=REPLACED)
    def kind_and_model(self, request):
        model = guide.enable(make("bart"))
        layer = model.get_submodule(self.REPLACED[request.param])
        layer.forward = lambda hidden_states, *args, **kwargs: (hidden_states, None)
        return request.param, model

    def test_forward(self, kind_and_model):
        kind, model = kind_and_model
        inputs = {**zoo.source("bart"), **zoo.target()}
        both = {"guide_bias": marks(11), "guide_decoder_bias": marks(9)}
        with pytest.raises(RuntimeError, match="must reach all 6 attention layers"):
            model(**inputs, **both)
        # What is not steered need not be reached.
        other = "guide_bias" if kind == "decoder" else "guide_decoder_bias"
        model(**inputs, **{other: both[other]})

    def test_generate(self, kind_and_model):
        _, model = kind_and_model
        inputs = {**zoo.source("bart"), **zoo.target()}
        both = {"guide_bias": marks(11), "guide_decoder_bias": marks(9)}
        with pytest.raises(RuntimeError, match="must reach all 6 attention layers"):
            model.generate(**inputs, **both, **NEW)


def test_a_model_that_loses_the_padding_of_its_source_is_refused(monkeypatch):
    from transformers.models.bart import modeling_bart

    make_mask = modeling_bart.create_bidirectional_mask

    def without_padding(config, *args, **kwargs):
        if config._attn_implementation != "eager":
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return make_mask(config, *args, **kwargs)

    monkeypatch.setattr(modeling_bart, "create_bidirectional_mask", without_padding)
    with pytest.raises(guide.UnsupportedModelError, match="'guide' differs by"):
        guide.enable(make("bart"))


class TestCaches:
    """A cache holds what the encoder made of the source, under the bias of an earlier call."""

    @staticmethod
    def step(model, cache, ids, **steering):
        with torch.no_grad():
            return model(
                **zoo.source("bart"), decoder_input_ids=ids, **{CACHE: cache}, use_cache=True,
                **steering,
            )  # fmt: skip

    def test_a_loop_of_one_s_own(self):
        model = make("bart")
        ids = zoo.target()["decoder_input_ids"]
        steering = {"guide_bias": marks(11), "guide_decoder_bias": marks(9)}
        with steered_eager(model, source=marks(11), target=marks(9)):
            wanted = logits(model, {**zoo.source("bart"), "decoder_input_ids": ids})
        guide.enable(model)
        begun = self.step(model, None, ids[:, :6], guide_bias=marks(11),
                          guide_decoder_bias=marks(9)[:, :6])  # fmt: skip
        found = self.step(model, begun[CACHE], ids[:, 6:], **steering)
        assert_close(found.logits, wanted[:, 6:])

    @pytest.mark.parametrize("before", [None, -marks(11)])
    def test_one_of_another_bias_is_refused(self, before):
        model = guide.enable(make("bart"))
        ids = zoo.target()["decoder_input_ids"]
        begun = self.step(model, None, ids[:, :6], guide_bias=before)
        with pytest.raises(ValueError, match="the cache must hold a source that was read under"):
            self.step(model, begun[CACHE], ids[:, 6:], guide_bias=marks(11))

    def test_one_of_other_strengths_is_refused(self):
        model = guide.enable(make("bart"))
        ids, table = zoo.target()["decoder_input_ids"], torch.ones(2, 6, 4)
        begun = self.step(model, None, ids[:, :6], guide_bias=marks(11), guide_strength=table)
        with pytest.raises(ValueError, match="the cache must hold a source that was read under"):
            self.step(model, begun[CACHE], ids[:, 6:], guide_bias=marks(11))


class TestRefusals:
    """What would leave a part unsteered, or shift a mark, is a sentence."""

    @pytest.mark.parametrize("message", WRONG_CALLS)
    def test_forward(self, message):
        model = guide.enable(make("bart"))
        inputs = {**zoo.source("bart"), **zoo.target()}
        with pytest.raises(ValueError, match=message):
            model(**inputs, **WRONG_CALLS[message])
        assert current() is None

    def test_output_of_an_encoder_that_ran_before(self):
        model = guide.enable(make("bart"))
        source = zoo.source("bart")
        outputs = model.get_encoder()(**source)
        inputs = {"encoder_outputs": outputs, "attention_mask": source["attention_mask"]}
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            model(**inputs, **zoo.target(), guide_bias=marks(11))
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            model.generate(**inputs, guide_bias=marks(11))
        # The target may be steered behind it: nothing of the encoder depends on that.
        with torch.no_grad():
            model(**inputs, **zoo.target(), guide_decoder_bias=marks(9))

    def test_an_encoder_alone(self):
        model = guide.enable(make("t5"))
        with pytest.raises(ValueError, match="must go to the whole encoder–decoder"):
            model.get_encoder()(**zoo.source("t5"), guide_bias=marks(11))

    @pytest.mark.parametrize("message", WRONG_GENERATIONS)
    def test_generate(self, message):
        model = guide.enable(make("bart"))
        with pytest.raises(ValueError, match=message):
            model.generate(**zoo.source("bart"), **WRONG_GENERATIONS[message], **NEW)
        assert current() is None

    def test_a_target_that_generate_would_shift(self):
        model = guide.enable(make("bart"))
        target = zoo.target()
        target["decoder_input_ids"] = target["decoder_input_ids"].clone()
        target["decoder_input_ids"][:, 0] = START + 1
        with pytest.raises(ValueError, match=rf"must begin with the token \[{START}\]"):
            model.generate(**zoo.source("bart"), **target, guide_decoder_bias=marks(9), **NEW)

    @pytest.mark.parametrize("start", [torch.tensor(7), [7, 7], torch.tensor([START, 7])])
    def test_a_start_that_is_no_plain_number(self, start):
        model = guide.enable(make("bart"))
        inputs = {**zoo.source("bart"), **zoo.target()}
        with pytest.raises(ValueError, match="must begin with the token"):
            model.generate(
                **inputs, guide_decoder_bias=marks(9), decoder_start_token_id=start, **NEW
            )

    def test_settings_by_their_place(self):
        model = guide.enable(make("bart"))
        inputs = {**zoo.source("bart"), **zoo.target()}
        ids = inputs.pop("input_ids")
        config = GenerationConfig(decoder_start_token_id=7, max_new_tokens=3, pad_token_id=0)
        with pytest.raises(ValueError, match="must begin with the token"):
            model.generate(ids, config, **inputs, guide_decoder_bias=marks(9))
        config = GenerationConfig(token_healing=True, max_new_tokens=3, pad_token_id=0)
        decoder = guide.enable(models.make("llama"))
        with pytest.raises(ValueError, match="token_healing must be off with guide_bias"):
            decoder.generate(models.prompts()["input_ids"], config, guide_bias=models.bias())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("cache_implementation", "static"),
            ("assistant_early_exit", 1),
            ("prefill_chunk_size", 4),
        ],
    )
    def test_settings_of_the_checkpoint(self, name, value):
        model = guide.enable(make("bart"))
        setattr(model.generation_config, name, value)
        with pytest.raises(ValueError, match=f"{name} must be None"):
            model.generate(**zoo.source("bart"), guide_bias=marks(11), **NEW)

    def test_decoders_have_no_second_bias(self):
        model = guide.enable(models.make("llama"))
        with pytest.raises(ValueError, match="steering arguments must be"):
            model(**models.prompts(), guide_decoder_bias=models.bias())
