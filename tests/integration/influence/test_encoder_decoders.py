# SPDX-License-Identifier: MIT
"""Influence in encoder–decoders: on both texts, in one pass and while they generate."""

import copy
from typing import ClassVar

import encoder_decoders as zoo
import pytest
import torch
from encoder_decoders import SOUND, START, TEXT, marks, positions
from models import CACHE
from tolerance import INFLUENCE
from transformers import DynamicCache, EncoderDecoderCache
from two_texts_reference import reference, reference_heads, seeds, sharp

from guide_ext import integration as guide
from guide_ext.influence.forms import FORMS, form_named
from guide_ext.integration.call.frame import current
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.examples import Example
from guide_ext.integration.influence.hooks import requesting
from guide_ext.integration.influence.measure import influence_in_forms, norm_ratios
from guide_ext.integration.influence.state import Request

EVERY = (*TEXT, *SOUND)
TOKENS = 9
KNOWN = tuple(form for form in FORMS if form != "authors")


def whole(name, tokens=TOKENS):
    """A model, the inputs of both texts, their marks, and their biases."""
    model = sharp(name)
    inputs = {**zoo.source(name), **zoo.target(tokens=tokens)}
    length = positions(model, zoo.source(name))
    return model, inputs, seeds(length, tokens), (marks(length), marks(tokens))


def marked(both, biases=(None, None)):
    """The arguments of a call."""
    given = {
        "guide_seed": both[0], "guide_decoder_seed": both[1],
        "guide_bias": biases[0], "guide_decoder_bias": biases[1],
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def check(found, wanted, inputs):
    """Compare both texts, and see that padding is 0."""
    masks = inputs.get("attention_mask"), inputs.get("decoder_attention_mask")
    for one, levels, mask in zip((found.source, found), wanted, masks, strict=True):
        assert one.values.shape == levels.shape
        mask = one.mask if mask is None else mask.bool() & one.mask
        there = mask[:, None, None].expand_as(levels)
        assert (one.values.double() - levels)[there].abs().max() <= INFLUENCE
        assert one.values[~one.mask[:, None, None].expand_as(one.values)].eq(0).all()


class TestForward:
    @pytest.mark.parametrize("name", EVERY)
    def test_both_texts(self, name):
        model, inputs, both, biases = whole(name)
        plain = reference(name, inputs, *both)
        guided = reference(name, inputs, *both, source=biases[0], target=biases[1])
        guide.enable(model)
        check(guide.influence(model, {**inputs, **marked(both)}), plain, inputs)
        found = guide.influence(model, {**inputs, **marked(both, biases)})
        check(found, guided, inputs)
        assert (guided[1] - plain[1])[0].abs().max() > 1e-2
        assert found.values[:, -1].max() > 1e-2
        assert (found.groups, found.form, found.prompt_tokens) == (("0", "1"), "paper", TOKENS)
        assert torch.equal(found.token_ids, inputs["decoder_input_ids"])
        assert current() is None

    @pytest.mark.parametrize("form", KNOWN)
    @pytest.mark.parametrize("name", ["t5", "bart", "mbart"])
    def test_forms(self, name, form):
        model, inputs, both, biases = whole(name)
        wanted = reference(name, inputs, *both, form=form, source=biases[0], target=biases[1])
        guide.enable(model)
        found = guide.influence(model, {**inputs, **marked(both, biases)}, form=form)
        check(found, wanted, inputs)
        alone = influence_in_forms(model, {**inputs, **marked(both, biases)}, KNOWN)[form]
        assert torch.equal(alone.values, found.values)
        assert torch.equal(alone.source.values, found.source.values)

    @pytest.mark.parametrize("name", ["t5", "marian", "whisper"])
    def test_texts_of_one_length(self, name):
        """Keys of both texts are as many, so that nothing tells them apart by their number."""
        length = 12 if name == "whisper" else 11
        model, inputs, both, _ = whole(name, tokens=length)
        assert both[0].shape == both[1].shape
        wanted = reference(name, inputs, *both)
        check(guide.influence(guide.enable(model), {**inputs, **marked(both)}), wanted, inputs)

    def test_only_the_source_is_marked(self):
        model, inputs, both, _ = whole("pegasus")
        wanted = reference("pegasus", inputs, both[0], torch.zeros_like(both[1]))
        found = guide.influence(guide.enable(model), {**inputs, "guide_seed": both[0]})
        check(found, wanted, inputs)
        assert found.values[:, :2].eq(0).all()  # the decoder has not looked at the source yet
        assert found.values[0, 2].gt(1e-3).all()

    @pytest.mark.parametrize("form", ["paper", "exact", "rollout"])
    def test_groups_that_divide_both_texts_sum_to_one(self, form):
        model, inputs, _, biases = whole("bart")
        halves = [torch.zeros(2, 2, size) for size in (11, TOKENS)]
        for half in halves:
            half[:, 0, ::2] = 1
            half[:, 1, 1::2] = 1
        given = {**inputs, **marked(halves, biases)}
        found = guide.influence(guide.enable(model), given, form=form)
        for text in (found.source, found):
            total = text.values.sum(2)[text.mask[:, None].expand_as(text.values[:, :, 0])]
            assert (total - 1).abs().max() <= INFLUENCE

    def test_heads(self):
        model, inputs, both, _ = whole("t5")
        wanted = reference_heads("t5", inputs, *both)
        given = {**inputs, **marked(both)}
        found = guide.influence(guide.enable(model), given, form="raw", by_head=True)
        masks = (inputs["attention_mask"], inputs["decoder_attention_mask"])
        for one, right, mask in zip((found.source, found), wanted, masks, strict=True):
            there = mask.bool()[:, None, None, None].expand_as(right)
            assert (one.by_head.double() - right)[there].abs().max() <= INFLUENCE

    def test_a_decoder_with_other_heads_than_its_encoder(self):
        own = {"decoder_attention_heads": 2}
        model, inputs, both, _ = whole("bart")
        model = sharp("bart", **own)
        wanted = reference("bart", inputs, *both, overrides=own)
        check(guide.influence(guide.enable(model), {**inputs, **marked(both)}), wanted, inputs)

    def test_strengths_change_what_is_measured(self):
        model, inputs, both, biases = whole("bart")
        guide.enable(model)
        given = {**inputs, **marked(both, biases)}
        none = guide.influence(model, {**given, "guide_strength": torch.zeros(2, 6, 4)})
        assert torch.equal(none.values, guide.influence(model, {**inputs, **marked(both)}).values)
        assert not torch.allclose(none.values, guide.influence(model, given).values, atol=1e-3)

    def test_without_a_target_it_is_what_the_first_step_of_generate_reads(self):
        model, _, both, _ = whole("bart")
        source = zoo.source("bart")
        guide.enable(model)
        found = guide.influence(model, {**source, "guide_seed": both[0]})
        first = {**source, "decoder_input_ids": torch.full((2, 1), START)}
        assert torch.equal(
            found.values, guide.influence(model, {**first, "guide_seed": both[0]}).values
        )
        assert found.prompt_tokens == 1
        assert found.token_ids.tolist() == [[START]] * 2
        assert found.at_end_of_prompt().shape == (2, 2)

    def test_half_precision(self):
        model, inputs, both, _ = whole("mbart")
        guide.enable(model.bfloat16())
        found = guide.influence(model, {**inputs, **marked(both)})
        wanted = reference("mbart", inputs, *both)[1]
        there = found.mask[:, None, None].expand_as(wanted)
        there = there & inputs["decoder_attention_mask"].bool()[:, None, None]
        assert (found.values - wanted)[there].abs().max() < 0.05


WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True},
}
NEW = 6


class TestGenerate:
    @staticmethod
    def run(model, given, **how):
        torch.manual_seed(3)
        new = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **how}
        return guide.generate_with_influence(model, given, **new), new

    @staticmethod
    def recomputed(name, sequences, source, both, biases, mask=None, **how):
        """Both texts of whole sequences but their last token, from a model that was not enabled."""
        copies = len(sequences) // len(both[0])

        def several(tensor):
            return None if tensor is None else tensor.repeat_interleave(copies, 0)

        inputs = {key: several(value) for key, value in source.items()}
        inputs["decoder_input_ids"] = ids = sequences[:, :-1]
        mask = torch.ones(len(both[0]), 1) if mask is None else mask
        more = ids.shape[1] - mask.shape[1]
        inputs["decoder_attention_mask"] = torch.nn.functional.pad(
            several(mask).long(), (0, more), value=1
        )
        wanted = reference(
            name, inputs, several(both[0]), several(both[1]), source=several(biases[0]),
            target=several(biases[1]), **how,
        )  # fmt: skip
        return wanted, inputs

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("name", ["t5", "bart", "mbart", "moonshine"])
    def test_equal_to_recomputation(self, name, way):
        model = sharp(name)
        source = zoo.source(name)
        length = positions(model, source)
        seed, bias = seeds(length, TOKENS)[0], marks(length)
        guide.enable(model)
        given = {**source, "guide_seed": seed, "guide_bias": bias}
        (sequences, found), new = self.run(model, given, **WAYS[way])
        both = (seed, torch.zeros(2, 2, 1))
        check(found, *self.recomputed(name, sequences, source, both, (bias, None)))
        assert found.prompt_tokens == 1
        torch.manual_seed(3)
        same = model.generate(**source, guide_bias=bias, **new)
        assert torch.equal(same, sequences)
        assert current() is None

    @pytest.mark.parametrize("way", ["greedy", "beams"])
    @pytest.mark.parametrize("name", ["t5", "marian", "pegasus"])
    def test_marks_in_both_texts(self, name, way):
        model, inputs, both, biases = whole(name)
        guide.enable(model)
        given = {**inputs, **marked(both, biases)}
        (sequences, found), _ = self.run(model, given, **WAYS[way])
        mask = inputs["decoder_attention_mask"]
        source = zoo.source(name)
        check(found, *self.recomputed(name, sequences, source, both, biases, mask))
        assert found.prompt_tokens == TOKENS
        assert found.values[0, -1, 0].gt(1e-3).all()

    @pytest.mark.parametrize("form", KNOWN)
    def test_forms(self, form):
        model, inputs, both, biases = whole("bart")
        guide.enable(model)
        given = {**inputs, **marked(both, biases)}
        (sequences, found), _ = self.run(model, given, form=form)
        mask = inputs["decoder_attention_mask"]
        wanted = self.recomputed(
            "bart", sequences, zoo.source("bart"), both, biases, mask, form=form
        )
        check(found, *wanted)

    def test_sequences_that_end_early(self):
        model = guide.enable(sharp("bart"))
        source, seed = zoo.source("bart", rows=4), seeds(11, TOKENS, rows=4)[0]
        model.generation_config.eos_token_id = list(range(1, 40))
        given = {**source, "guide_seed": seed}
        for how in ({"do_sample": True}, {"num_beams": 4, "num_return_sequences": 4}):
            (sequences, found), _ = self.run(model, given, **how)
            assert found.mask.sum(1).unique().numel() > 1
            both = (seed, torch.zeros(4, 2, 1))
            check(found, *self.recomputed("bart", sequences, source, both, (None, None)))

    def test_marks_that_nobody_asked_for_change_nothing(self):
        model, inputs, both, biases = whole("t5")
        guide.enable(model)
        how = {"max_new_tokens": NEW, "do_sample": False}
        for given in (marked(both), marked(both, biases)):
            steering = {k: v for k, v in given.items() if not k.endswith("seed")}
            plain = model.generate(**inputs, **steering, **how)
            assert torch.equal(model.generate(**inputs, **given, **how), plain)

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("is_padded", [True, False])
    def test_an_encoder_that_somebody_calls_meanwhile(self, is_padded, use_cache):
        model = guide.enable(sharp("bart"))
        source, seed = zoo.source("bart"), seeds(11, TOKENS)[0]
        if not is_padded:  # padding is a bias
            del source["attention_mask"]
        other = {**source, "input_ids": source["input_ids"].flip(1)}

        def look(ids, scores):
            model.get_encoder()(**other)
            model(**other, decoder_input_ids=ids)
            return scores

        given = {**source, "guide_seed": seed}
        how = {"form": "exact", "logits_processor": [look], "use_cache": use_cache}
        (sequences, found), _ = self.run(model, given, **how)
        both = (seed, torch.zeros(2, 2, 1))
        wanted = self.recomputed("bart", sequences, source, both, (None, None), form="exact")
        check(found, *wanted)


class TestCaches:
    def test_a_loop_of_one_s_own(self):
        """Steps from a cache, and from a copy of it, write what one pass writes."""
        model, inputs, both, biases = whole("bart")
        both[1][:, :, 6:] = 0
        inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_attention_mask"])
        ids = inputs.pop("decoder_input_ids")
        mask = inputs.pop("decoder_attention_mask")
        whole_text = {**inputs, "decoder_input_ids": ids, "decoder_attention_mask": mask}
        wanted = reference("bart", whole_text, *both, source=biases[0])
        guide.enable(model)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        request = Request(model, form_named("paper"))
        with requesting(request), torch.no_grad():
            model(
                **inputs, decoder_input_ids=ids[:, :6], guide_bias=biases[0],
                guide_seed=both[0], guide_decoder_seed=both[1][:, :, :6], **{CACHE: cache},
                use_cache=True,
            )  # fmt: skip
            other = copy.deepcopy(cache)
            for here in (cache, other):
                for at in range(6, TOKENS):
                    model(
                        **inputs, decoder_input_ids=ids[:, at : at + 1], guide_bias=biases[0],
                        **{CACHE: here}, use_cache=True,
                    )  # fmt: skip
                levels = request.state.stacked(TOKENS).double()
                assert (levels - wanted[1]).abs().max() <= INFLUENCE

    def test_one_whose_rows_change_places(self):
        """Rows of other sources: those of beams have the same."""
        model, inputs, both, _ = whole("bart")
        del inputs["decoder_attention_mask"]
        both[1][:, :, 6:] = 0
        guide.enable(model)
        ids = inputs.pop("decoder_input_ids")
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        request = Request(model, form_named("exact"))
        turned = {name: tensor.flip(0) for name, tensor in inputs.items()}
        with requesting(request), torch.no_grad():
            model(
                **inputs, decoder_input_ids=ids[:, :6], guide_seed=both[0],
                guide_decoder_seed=both[1][:, :, :6], **{CACHE: cache}, use_cache=True,
            )  # fmt: skip
            cache.reorder_cache(torch.tensor([1, 0]))
            model(**turned, decoder_input_ids=ids[:, 6:].flip(0), **{CACHE: cache}, use_cache=True)
        levels = request.state.stacked(TOKENS).double().flip(0)
        wanted = reference("bart", {**inputs, "decoder_input_ids": ids}, *both, form="exact")
        assert (levels - wanted[1]).abs().max() <= INFLUENCE

    def test_one_that_was_filled_without_measuring(self):
        model, inputs, both, _ = whole("bart")
        guide.enable(model)
        with torch.no_grad():
            begun = model(**inputs, use_cache=True)
        request = Request(model, form_named("paper"))
        with requesting(request), pytest.raises(ValueError, match="must be empty when measuring"):
            model(**inputs, **{CACHE: begun[CACHE]}, guide_seed=both[0], use_cache=True)


@pytest.fixture(scope="module")
def tokenizer():
    return guide.load_embedded()[1]


class TestFromTexts:
    @pytest.fixture
    def model(self, tokenizer):
        return guide.enable(sharp("bart", vocab_size=len(tokenizer)))

    def test_groups_of_both_texts(self, model, tokenizer):
        texts = ["<?a->The cat<-?a> sleeps.", "The dog eats in the <?b->old house<-?b>."]
        begins = ["The <?c->cat<-?c>", "<?b->The<-?b> dog"]
        inputs = guide.encode(model, tokenizer, texts, decoder_prompts=begins)
        assert inputs.groups == ("a", "b", "c")
        assert inputs["guide_seed"].sum(2).tolist() == [[2, 0, 0], [0, 2, 0]]
        assert inputs["guide_decoder_seed"].tolist() == [
            [[0, 0, 0], [0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
        ]  # fmt: skip
        found = guide.influence(model, inputs)
        assert found.groups == ("a", "b", "c")
        assert found.values[0, -1, 2, 2] > 1e-2
        sequences, measured = guide.generate_with_influence(
            model, inputs, max_new_tokens=4, do_sample=False
        )
        assert (measured.values[:, :, :, :3] - found.values).abs().max() <= INFLUENCE
        assert torch.equal(sequences[:, :3], inputs["decoder_input_ids"])

    def test_marks_in_one_of_the_texts(self, model, tokenizer):
        inputs = guide.encode(model, tokenizer, "The cat.", decoder_prompts="<?->Le<-?> chat")
        assert inputs.groups == ("marked",)
        assert not inputs["guide_seed"].any()
        found = guide.influence(model, inputs)
        assert not found.source.values.any()
        assert found.values[0, -1, 0, -1] > 1e-3
        inputs = guide.encode(model, tokenizer, "<?->The<-?> cat.", decoder_prompts="Le chat")
        assert not inputs["guide_decoder_seed"].any()
        assert guide.influence(model, inputs).values[0, -1, 0, 0] > 1e-3

    def test_calibration(self, model, tokenizer):
        """Influence at the end of what the decoder begins with: the token of every text."""
        text = "<!!->The cat<-!!> sleeps in the old house."
        found = guide.calibrate(model, tokenizer, text, target=1.3)
        at = {}
        for delta in (0.0, found.delta):
            inputs = guide.encode(model, tokenizer, text, delta=delta)
            inputs["guide_seed"] = (guide.encode(model, tokenizer, text)["guide_bias"] > 0)[
                :, None
            ].float()
            at[delta] = float(guide.influence(model, inputs).values[0, -1, 0, 0])
        assert found.delta > 0.1
        assert at[found.delta] == pytest.approx(1.3 * at[0.0], rel=1e-2)


class TestRefusals:
    @pytest.fixture
    def model(self):
        return guide.enable(sharp("bart"))

    WRONG: ClassVar = {
        "form must not be 'authors' in an encoder–decoder": ({}, {"form": "authors"}),
        "labels must be left out": ({"labels": torch.ones(2, 4).long()}, {}),
        "guide_seed must be .* with 11 tokens": ({"guide_seed": torch.ones(2, 1, 10)}, {}),
        "guide_seed must be .* with 2 row": ({"guide_seed": torch.ones(3, 1, 11)}, {}),
        "guide_decoder_seed must be .* with 9 tokens": (
            {"guide_decoder_seed": torch.ones(2, 1, 8)}, {}),
        "guide_decoder_seed must have the 1 group": (
            {"guide_decoder_seed": torch.ones(2, 2, 9)}, {}),
        "guide_decoder_seed must be a tensor": ({"guide_decoder_seed": [[1]]}, {}),
    }  # fmt: skip

    @pytest.mark.parametrize("message", WRONG)
    def test_forward(self, model, message):
        more, how = self.WRONG[message]
        given = {**zoo.source("bart"), **zoo.target(), "guide_seed": torch.ones(2, 1, 11), **more}
        with pytest.raises(ValueError, match=message):
            guide.influence(model, given, **how)
        assert current() is None

    def test_marks_of_a_target_that_is_not_given(self, model):
        given = {**zoo.source("bart"), "guide_seed": torch.ones(2, 1, 11)}
        given["guide_decoder_seed"] = torch.ones(2, 1, 1)
        for measure in (guide.influence, guide.generate_with_influence):
            with pytest.raises(ValueError, match="must come with decoder_input_ids"):
                measure(model, given)

    def test_marks_of_the_target_alone(self, model):
        given = {**zoo.source("bart"), **zoo.target()}
        with pytest.raises(ValueError, match="guide_decoder_seed must come with guide_seed"):
            model(**given, guide_decoder_seed=torch.ones(2, 1, 9))
        with pytest.raises(ValueError, match="guide_decoder_seed must come with guide_seed"):
            model.generate(**given, guide_decoder_seed=torch.ones(2, 1, 9))

    def test_output_of_an_encoder_that_ran_before(self, model):
        source, seed = zoo.source("bart"), torch.ones(2, 1, 11)
        given = {
            "encoder_outputs": model.get_encoder()(**source), **zoo.target(), "guide_seed": seed,
            "attention_mask": source["attention_mask"],
        }  # fmt: skip
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            guide.influence(model, given)
        with pytest.raises(ValueError, match="encoder_outputs must be left out"):
            guide.generate_with_influence(model, given)

    def test_sound_of_another_length(self):
        model = guide.enable(sharp("whisper"))
        given = {**zoo.source("whisper"), **zoo.target(), "guide_seed": torch.ones(2, 1, 24)}
        with pytest.raises(ValueError, match="guide_seed must have one number for each of the 12"):
            guide.influence(model, given)

    def test_generate(self, model):
        given = {**zoo.source("bart"), "guide_seed": torch.ones(2, 1, 11)}
        wrong = {
            "cache_implementation must be": {"cache_implementation": "static"},
            "use_cache must be True to measure": {"use_cache": False, "num_beams": 2},
            "token_healing must be off": {"token_healing": True},
        }
        for message, how in wrong.items():
            with pytest.raises(ValueError, match=message):
                guide.generate_with_influence(model, given, max_new_tokens=3, **how)
        assert current() is None

    def test_a_target_that_generate_would_shift(self, model):
        target = {"decoder_input_ids": torch.full((2, 3), START + 1)}
        given = {**zoo.source("bart"), **target, "guide_seed": torch.ones(2, 1, 11)}
        with pytest.raises(ValueError, match="must begin with the token"):
            guide.generate_with_influence(model, given)

    def test_own_masks(self, model):
        given = {**zoo.source("bart"), **zoo.target(), "guide_seed": torch.ones(2, 1, 11)}
        given["decoder_attention_mask"] = torch.ones(2, 1, 9, 9).bool()
        with pytest.raises(ValueError, match=r"attention_mask must be .batch, tokens."):
            guide.influence(model, given)

    @pytest.mark.parametrize(
        "path", ["encoder.layers.1.self_attn", "decoder.layers.0.encoder_attn"]
    )
    def test_a_layer_that_does_not_run(self, model, path):
        given = {**zoo.source("bart"), **zoo.target(), "guide_seed": torch.ones(2, 1, 11)}
        guide.influence(model, given)
        parent, _, name = path.rpartition(".")
        layer = model.model.get_submodule(parent)

        class Other(torch.nn.Module):
            def forward(self, hidden_states, *args, **kwargs):
                return hidden_states, None

        setattr(layer, name, Other())
        for measure in (guide.influence, guide.generate_with_influence):
            with pytest.raises(RuntimeError, match="must be measured in all 6 attention layers"):
                measure(model, given)

    def test_what_is_of_models_with_one_text(self, model, tokenizer):
        one = "must go to a model with one text"
        with pytest.raises(ValueError, match=one):
            norm_ratios(model, zoo.source("bart"))
        with pytest.raises(ValueError, match=one):
            measure_prompt(model, tokenizer, "<?->The cat<-?> sleeps.")
        example = Example("<!!->The cat<-!!> sleeps.", ("Le chat",))
        with pytest.raises(ValueError, match=one):
            guide.profile_heads(model, tokenizer, [example], by="attention")
