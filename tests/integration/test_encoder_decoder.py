# SPDX-License-Identifier: MIT
"""Encoder–decoders: both texts steered, beside eager attention with the bias in its masks."""

import copy
import inspect
import pickle

import encoder_decoders as zoo
import pytest
import torch
from encoder_decoders import (
    NEW,
    SOUND,
    TEXT,
    assert_close,
    logits,
    make,
    marks,
    positions,
    steered_eager,
)
from sweep.build import build

import guide_ext.integration as guide
from guide_ext.integration.call.frame import current
from guide_ext.integration.model.state import state_of

EVERY = (*TEXT, *SOUND)


def whole(name):
    """A model, the inputs of one forward call, and the biases of both texts."""
    model = make(name)
    inputs = {**zoo.source(name), **zoo.target()}
    both = (
        marks(positions(model, zoo.source(name))),
        marks(inputs["decoder_input_ids"].shape[1]),
    )
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
    names = zoo.attention_names(model)
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
        inputs = zoo.source(name)
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
        inputs = zoo.source("t5")
        source = marks(positions(model, inputs))
        table = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(5))
        strength = {n: table[:, i] for i, n in enumerate(zoo.attention_names(model))}
        with steered_eager(model, source=source, strength=strength):
            wanted = model.generate(**inputs, **NEW)
        guide.enable(model)
        found = model.generate(**inputs, guide_bias=source, guide_strength=table, **NEW)
        assert_close(torch.stack(found.logits, 1), torch.stack(wanted.logits, 1))

    def test_the_first_argument_may_have_no_name(self):
        model = guide.enable(make("t5"))
        inputs = zoo.source("t5")
        source = marks(11)
        by_name = model.generate(**inputs, guide_bias=source, **NEW)
        mask = inputs["attention_mask"]
        bare = model.generate(inputs["input_ids"], attention_mask=mask, guide_bias=source, **NEW)
        assert torch.equal(bare.sequences, by_name.sequences)


def test_gradients_are_those_of_eager_attention():
    model = make("bart")
    inputs = zoo.source("bart") | {"labels": zoo.target()["decoder_input_ids"]}
    source, target = marks(11), marks(9)

    def gradient(**steering):
        model.zero_grad()
        model(**inputs, **steering).loss.backward()
        return model.get_encoder().layers[0].self_attn.q_proj.weight.grad.clone()

    # The model reads each label one token later, behind the token that all texts begin with.
    moved = torch.nn.functional.pad(target, (1, 0))[:, :-1]
    with steered_eager(model, source=source, target=moved):
        wanted = gradient()
    guide.enable(model)
    assert_close(gradient(guide_bias=source, guide_decoder_bias=target), wanted)
    parameters = inspect.signature(model.forward).parameters
    assert {"guide_bias", "guide_decoder_bias"} <= set(parameters)  # Trainer keeps the columns


def test_activation_checkpointing_keeps_the_bias():
    model = guide.enable(make("t5", dropout_rate=0.0))
    inputs = zoo.source("t5") | {"labels": zoo.target()["decoder_input_ids"]}
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
    inputs = {**zoo.source("whisper"), **zoo.target()}
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


def test_the_first_argument_of_forward_may_have_no_name():
    model, inputs, source, target = whole("bart")
    guide.enable(model)
    wanted = logits(model, inputs, guide_bias=source, guide_decoder_bias=target)
    ids = inputs.pop("input_ids")
    with torch.no_grad():
        found = model(ids, **inputs, guide_bias=source, guide_decoder_bias=target).logits
    assert torch.equal(found, wanted)


def test_an_encoder_that_somebody_calls_in_a_steered_generation_is_not_steered():
    model = guide.enable(make("bart"))
    source, seen = zoo.source("bart"), []

    def look(input_ids, scores):
        seen.append(model.get_encoder()(**source)[0])
        return scores

    model.generate(**source, guide_bias=marks(11), logits_processor=[look], **NEW)
    with torch.no_grad():
        plain = model.get_encoder()(**source)[0]
    assert all(torch.equal(states, plain) for states in seen)
    assert len(seen) == NEW["max_new_tokens"]
    assert current() is None


def test_a_decoder_with_other_heads_than_its_encoder():
    model = make("bart", decoder_attention_heads=2)
    inputs = {**zoo.source("bart"), **zoo.target()}
    table = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(5))
    names = zoo.attention_names(model)
    strength = {n: table[:, i, : 4 if i < 2 else 2] for i, n in enumerate(names)}
    with steered_eager(model, source=marks(11), target=marks(9), strength=strength):
        wanted = logits(model, inputs)
    guide.enable(model)
    assert guide.table_size(model) == (6, 4)
    found = logits(
        model, inputs, guide_bias=marks(11), guide_decoder_bias=marks(9), guide_strength=table
    )
    assert_close(found, wanted, inputs["decoder_attention_mask"])


@pytest.mark.parametrize("model_type", ["longt5", "pegasus_x"])
def test_an_encoder_with_attention_of_its_own_is_refused(model_type):
    with pytest.raises(guide.UnsupportedModelError, match="in all its layers, got 0 that do"):
        guide.enable(build(model_type, "seq2seq"))


def test_an_encoder_of_which_one_layer_is_another_is_refused():
    class Own(torch.nn.Module):
        def forward(self, hidden_states, *args, **kwargs):
            return hidden_states.softmax(-1), None

    model = make("bart")
    model.model.encoder.layers[1].self_attn = Own()
    with pytest.raises(guide.UnsupportedModelError, match="in all its layers, got 1 that do"):
        guide.enable(model)


def test_layers_that_get_a_mask_only_from_the_caller():
    model = guide.enable(build("seamless_m4t", "seq2seq")).train()
    assert not state_of(model).findings.carries_all
    model.gradient_checkpointing_enable()
    inputs = {"input_ids": torch.ones(1, 5).long(), "decoder_input_ids": torch.ones(1, 4).long()}
    with pytest.raises(ValueError, match="activation checkpointing must be off"):
        model(**inputs, guide_bias=torch.ones(1, 5))
