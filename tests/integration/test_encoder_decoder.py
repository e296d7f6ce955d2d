# SPDX-License-Identifier: MIT
"""Encoder–decoders: both texts steered, beside eager attention with the bias in its masks."""

import copy
import inspect
import pickle
from typing import ClassVar

import pairs
import pytest
import torch
from pairs import SOUND, START, TEXT, make, marks, positions, steered_eager
from tolerance import MODEL_LOGITS

import guide_ext.integration as guide
from guide_ext.integration.call.frame import current
from guide_ext.integration.model.state import state_of

EVERY = (*TEXT, *SOUND)
NEW = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True,
       "output_logits": True, "pad_token_id": 0}  # fmt: skip


def logits(model, inputs, **steering):
    with torch.no_grad():
        return model(**inputs, **steering, use_cache=False).logits


def assert_close(found, wanted, mask=None):
    if mask is not None:
        found, wanted = found[mask.bool()], wanted[mask.bool()]
    torch.testing.assert_close(found, wanted, rtol=0, atol=MODEL_LOGITS * float(wanted.abs().max()))


def whole(name):
    """A model, the inputs of one forward call, and the biases of both texts."""
    model = make(name)
    inputs = {**pairs.source(name), **pairs.target()}
    both = marks(positions(model, pairs.source(name))), marks(inputs["decoder_input_ids"].shape[1])
    return model, inputs, *both


@pytest.mark.parametrize("name", EVERY)
def test_each_text_and_both(name):
    model, inputs, source, target = whole(name)
    wanted = {}
    for which in ((None, None), (source, None), (None, target), (source, target)):
        with steered_eager(model, source=which[0], target=which[1]):
            wanted[which] = logits(model, inputs)
    guide.enable(model)
    kinds = state_of(model).findings.kinds
    assert kinds == ("encoder",) * 2 + ("decoder", "cross") * 2
    plain = wanted[None, None]
    for which, right in wanted.items():
        found = logits(model, inputs, guide_bias=which[0], guide_decoder_bias=which[1])
        assert_close(found, right, inputs["decoder_attention_mask"])
        moved = (right - plain).abs().max() / plain.abs().max()
        assert which == (None, None) or moved > 1e-2
    assert current() is None


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_each_kind_of_layer_can_be_left_out(name):
    """Strengths switch the encoder's attention and the decoder's look at it, each by itself."""
    model, inputs, source, target = whole(name)
    names = pairs.attention_names(model)
    kinds = ("encoder",) * 2 + ("decoder", "cross") * 2
    generator = torch.Generator().manual_seed(5)
    tables = [torch.rand(2, 6, 4, generator=generator) * 2 - 0.5]
    for chosen in ("encoder", "cross", "decoder"):
        on = torch.tensor([float(kind == chosen) for kind in kinds])
        tables.append(on[None, :, None].expand(2, -1, 4))
    wanted = []
    for table in tables:
        strength = {n: table[:, i] for i, n in enumerate(names)}
        with steered_eager(model, source=source, target=target, strength=strength):
            wanted.append(logits(model, inputs))
    guide.enable(model)
    assert guide.table_size(model) == (6, 4)
    steering = {"guide_bias": source, "guide_decoder_bias": target}
    for table, right in zip(tables, wanted, strict=True):
        found = logits(model, inputs, guide_strength=table, **steering)
        assert_close(found, right, inputs["decoder_attention_mask"])
    for one, other in ((1, 2), (1, 3), (2, 3)):
        assert not torch.allclose(wanted[one], wanted[other], atol=1e-3)


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "several": {"num_beams": 4, "num_return_sequences": 2},
}


class TestGenerate:
    """Everything from a cache, beside eager attention, of which nothing is ours."""

    @staticmethod
    def compare(model, inputs, source, target, **how):
        how = {**NEW, **how}
        with steered_eager(model, source=source, target=target):
            wanted = model.generate(**inputs, **how)
        guide.enable(model)
        steering = {"guide_bias": source, "guide_decoder_bias": target}
        found = model.generate(**inputs, **steering, **how)
        plain = model.generate(**inputs, **how)
        assert torch.equal(found.sequences, wanted.sequences)
        assert_close(torch.stack(found.logits, 1), torch.stack(wanted.logits, 1))
        assert not torch.allclose(found.logits[0], plain.logits[0], atol=1e-3)
        assert current() is None

    @pytest.mark.parametrize("how", WAYS)
    @pytest.mark.parametrize("name", ["t5", "bart", "marian", "moonshine"])
    def test_source(self, name, how):
        model = make(name)
        inputs = pairs.source(name)
        source = marks(positions(model, inputs))
        self.compare(model, inputs, source, None, **WAYS[how])

    @pytest.mark.parametrize("name", ["t5", "mbart", "moonshine"])
    def test_both_texts(self, name):
        model, inputs, source, target = whole(name)
        self.compare(model, inputs, source, target)

    def test_target_alone(self):
        model, inputs, _, target = whole("bart")
        self.compare(model, inputs, None, target)

    def test_sampling(self):
        model, inputs, source, target = whole("pegasus")
        how = {**NEW, "do_sample": True}
        torch.manual_seed(3)
        with steered_eager(model, source=source, target=target):
            wanted = model.generate(**inputs, **how)
        guide.enable(model)
        torch.manual_seed(3)
        found = model.generate(**inputs, guide_bias=source, guide_decoder_bias=target, **how)
        assert torch.equal(found.sequences, wanted.sequences)

    def test_strengths(self):
        model = make("t5")
        inputs = pairs.source("t5")
        source = marks(positions(model, inputs))
        table = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(5))
        strength = {n: table[:, i] for i, n in enumerate(pairs.attention_names(model))}
        with steered_eager(model, source=source, strength=strength):
            wanted = model.generate(**inputs, **NEW)
        guide.enable(model)
        found = model.generate(**inputs, guide_bias=source, guide_strength=table, **NEW)
        assert_close(torch.stack(found.logits, 1), torch.stack(wanted.logits, 1))

    def test_the_first_argument_may_have_no_name(self):
        model = guide.enable(make("t5"))
        inputs = pairs.source("t5")
        source = marks(11)
        by_name = model.generate(**inputs, guide_bias=source, **NEW)
        mask = inputs["attention_mask"]
        bare = model.generate(inputs["input_ids"], attention_mask=mask, guide_bias=source, **NEW)
        assert torch.equal(bare.sequences, by_name.sequences)


def test_gradients_are_those_of_eager_attention():
    model = make("bart")
    inputs = pairs.source("bart") | {"labels": pairs.target()["decoder_input_ids"]}
    source, target = marks(11), marks(9)

    def gradient(**steering):
        model.zero_grad()
        model(**inputs, **steering).loss.backward()
        return model.get_encoder().layers[0].self_attn.q_proj.weight.grad.clone()

    with steered_eager(model, source=source, target=target):
        wanted = gradient()
    guide.enable(model)
    assert_close(gradient(guide_bias=source, guide_decoder_bias=target), wanted)
    parameters = inspect.signature(model.forward).parameters
    assert {"guide_bias", "guide_decoder_bias"} <= set(parameters)  # Trainer keeps the columns


def test_activation_checkpointing_keeps_the_bias():
    model = guide.enable(make("t5", dropout_rate=0.0))
    inputs = pairs.source("t5") | {"labels": pairs.target()["decoder_input_ids"]}
    steering = {"guide_bias": marks(11), "guide_decoder_bias": marks(9)}

    def gradient():
        model.zero_grad()
        model(**inputs, **steering, use_cache=False).loss.backward()
        return model.shared.weight.grad.clone()

    wanted = gradient()
    model.train()
    model.gradient_checkpointing_enable()
    assert_close(gradient(), wanted)


def test_activation_checkpointing_without_masks_is_refused():
    model = guide.enable(make("whisper", dropout=0.0)).train()
    model.gradient_checkpointing_enable()
    inputs = {**pairs.source("whisper"), **pairs.target()}
    with pytest.raises(ValueError, match="activation checkpointing must be off"):
        model(**inputs, guide_bias=marks(12))


def test_copies_and_pickles_are_steered():
    model, inputs, source, target = whole("bart")
    guide.enable(model)
    steering = {"guide_bias": source, "guide_decoder_bias": target}
    wanted = logits(model, inputs, **steering)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, inputs, **steering), wanted)
    guide.disable(model)
    with pytest.raises(ValueError, match="must go to an enabled model"):
        model(**inputs, **steering)
    model.set_attn_implementation("eager")
    assert torch.equal(logits(model, inputs), logits(make("bart"), inputs))


def test_without_bias_it_computes_the_same_bits():
    model, inputs, _, _ = whole("t5")
    guide.enable(model)
    plain = logits(model, inputs)
    zero = {"guide_bias": torch.zeros(2, 11), "guide_decoder_bias": torch.zeros(2, 9)}
    assert torch.equal(logits(model, inputs, **zero), plain)


WRONG_CALLS = {
    "guide_bias must be .* 2 row": {"guide_bias": torch.zeros(3, 11)},
    "each of the 11 positions": {"guide_bias": torch.zeros(2, 10)},
    "guide_decoder_bias must be .*= .2, 9.": {"guide_decoder_bias": torch.zeros(2, 8)},
    "guide_share must be left out": {"guide_share": torch.zeros(2, 11)},
    "guide_seed must be left out": {"guide_seed": torch.zeros(2, 1, 11)},
    "guide_strength must come with": {"guide_strength": torch.ones(2, 6, 4)},
    r"guide_strength must be .*2, 6, 4": {
        "guide_bias": torch.zeros(2, 11), "guide_strength": torch.ones(2, 4, 4)
    },
    "steering arguments must be": {"guide_other": 1},
    "guide_bias must be finite": {"guide_bias": torch.full((2, 11), float("nan"))},
}  # fmt: skip


WRONG_GENERATIONS = {
    "must come with decoder_input_ids": {"guide_decoder_bias": marks(9)},
    "cache_implementation must be dynamic": {
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
        inputs = {**pairs.source("bart"), **pairs.target()}
        both = {"guide_bias": marks(11), "guide_decoder_bias": marks(9)}
        with pytest.raises(RuntimeError, match="must reach all 6 attention layers"):
            model(**inputs, **both)
        # What is not steered need not be reached.
        other = "guide_bias" if kind == "decoder" else "guide_decoder_bias"
        model(**inputs, **{other: both[other]})

    def test_generate(self, kind_and_model):
        _, model = kind_and_model
        inputs = {**pairs.source("bart"), **pairs.target()}
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


class TestRefusals:
    """What would leave a part unsteered, or shift a mark, is a sentence."""

    @pytest.mark.parametrize("message", WRONG_CALLS)
    def test_forward(self, message):
        model = guide.enable(make("bart"))
        inputs = {**pairs.source("bart"), **pairs.target()}
        with pytest.raises(ValueError, match=message):
            model(**inputs, **WRONG_CALLS[message])
        assert current() is None

    def test_output_of_an_encoder_that_ran_before(self):
        model = guide.enable(make("bart"))
        source = pairs.source("bart")
        outputs = model.get_encoder()(**source)
        inputs = {"encoder_outputs": outputs, "attention_mask": source["attention_mask"]}
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            model(**inputs, **pairs.target(), guide_bias=marks(11))
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            model.generate(**inputs, guide_bias=marks(11))
        # The target may be steered behind it: nothing of the encoder depends on that.
        with torch.no_grad():
            model(**inputs, **pairs.target(), guide_decoder_bias=marks(9))

    def test_an_encoder_alone(self):
        model = guide.enable(make("t5"))
        with pytest.raises(ValueError, match="must go to the whole encoder–decoder"):
            model.get_encoder()(**pairs.source("t5"), guide_bias=marks(11))

    @pytest.mark.parametrize("message", WRONG_GENERATIONS)
    def test_generate(self, message):
        model = guide.enable(make("bart"))
        with pytest.raises(ValueError, match=message):
            model.generate(**pairs.source("bart"), **WRONG_GENERATIONS[message], **NEW)
        assert current() is None

    def test_a_target_that_generate_would_shift(self):
        model = guide.enable(make("bart"))
        target = pairs.target()
        target["decoder_input_ids"] = target["decoder_input_ids"].clone()
        target["decoder_input_ids"][:, 0] = START + 1
        with pytest.raises(ValueError, match=f"must begin with the token {START}"):
            model.generate(**pairs.source("bart"), **target, guide_decoder_bias=marks(9), **NEW)

    def test_influence(self):
        model = guide.enable(make("bart"))
        with pytest.raises(guide.UnsupportedModelError, match="a model with one text"):
            guide.influence(model, {**pairs.source("bart"), "guide_seed": torch.ones(2, 1, 11)})

    def test_decoders_have_no_second_bias(self):
        import models

        model = guide.enable(models.make("llama"))
        with pytest.raises(ValueError, match="steering arguments must be"):
            model(**models.prompts(), guide_decoder_bias=models.bias())
