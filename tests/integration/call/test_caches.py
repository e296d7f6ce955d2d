# SPDX-License-Identifier: MIT
"""A bias keeps its tokens whatever a call names its cache, or the call fails."""

from __future__ import annotations

import dataclasses

import models
import pytest
import torch
from models import CACHE, snapshot
from transformers import DynamicCache, LlamaForCausalLM, StaticCache

import guide_ext.integration as guide
from guide_ext.integration.call import caches, masks
from guide_ext.integration.call.caches import CACHE_ARGUMENTS
from guide_ext.integration.model.state import MODEL_STATE, state_of

TOKENS, SEEN = 9, 7
ACCEPTED = CACHE_ARGUMENTS[: CACHE_ARGUMENTS.index(CACHE) + 1]
REAL_FORWARD = LlamaForCausalLM.forward


@pytest.fixture
def model():
    return guide.enable(models.make("llama"))


@pytest.fixture
def ids():
    return models.prompts(padding=0)["input_ids"]


def filled(model, ids, kind=DynamicCache):
    """A cache of all tokens but the last two, read under the bias of `marks`."""
    options = {"max_cache_len": 20} if kind is StaticCache else {}
    cache = kind(config=model.config, **options)
    with torch.no_grad():
        model(ids[:, :SEEN], guide_bias=models.marks()[:, :SEEN], **{CACHE: cache})
    return cache


def test_name_of_this_version(model):
    assert state_of(model).findings.cache_argument == CACHE
    assert CACHE in CACHE_ARGUMENTS


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@pytest.mark.parametrize("name", ACCEPTED)
def test_names_that_the_model_takes(model, ids, name, kind):
    wanted = models.reference_logits(
        models.shared("llama"), {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        models.marks(),
    )  # fmt: skip
    with torch.no_grad():
        found = model(
            ids[:, SEEN:], guide_bias=models.marks(), **{name: filled(model, ids, kind)}
        ).logits
    models.assert_logits_close(found, wanted[:, SEEN:])
    sequences = model.generate(
        ids, guide_bias=models.marks(), max_new_tokens=4, **{name: filled(model, ids, kind)}
    )
    same = model.generate(ids, guide_bias=models.marks(), max_new_tokens=4, use_cache=False)
    assert sequences.tolist() == same.tolist()


@pytest.mark.parametrize("name", [*CACHE_ARGUMENTS[len(ACCEPTED) :], "kv"])
class TestOtherNames:
    """The model would drop the cache, and the bias would be that of other tokens."""

    @pytest.fixture
    def message(self, name):
        return f"the cache must be given as {CACHE}, .*, got a DynamicCache as {name}"

    @pytest.mark.parametrize("steering", ["guide_bias", "guide_share", "guide_seed"])
    def test_forward(self, model, ids, name, message, steering):
        value = models.marks().clamp(min=0) / 4
        value = value[:, None] if steering == "guide_seed" else value
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            model(ids[:, SEEN:], **{name: filled(model, ids), steering: value})

    def test_generate(self, model, ids, name, message):
        with pytest.raises(ValueError, match=message):
            model.generate(ids, guide_bias=models.marks(), **{name: filled(model, ids)})

    def test_a_loop_of_ones_own(self, model, ids, name, message):
        for steering in ({"guide_bias": models.marks()}, {"guide_seed": models.marks()[:, None]}):
            with pytest.raises(ValueError, match=message):
                model.prepare_inputs_for_generation(
                    ids, next_sequence_length=2, **steering, **{name: filled(model, ids)}
                )

    def test_unsteered_calls(self, model, ids, name):
        """Attention is handed what the model does not know, and refuses it."""
        plain = models.make("llama")
        plain.set_attn_implementation("guide")
        given = {name: DynamicCache(config=model.config)}
        for one in (plain, model):
            with pytest.raises(ValueError, match=f"^{name} must be None under"):
                one(ids, **given)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 2}])
@pytest.mark.parametrize("name", models.DECODERS)
def test_decoder_that_makes_another_mask_too(name, options):
    """That one begins at the first token, whatever the cache holds."""
    inputs = models.prompts(padding=0)
    beams = {key: value for key, value in options.items() if key == "num_beams"}
    wanted = models.reference_generation(models.make(name), inputs, models.marks(), **beams)
    model = guide.enable(models.make(name))
    found = models.generation(model, {**inputs, "guide_bias": models.marks()}, **options)
    models.assert_same_generation(found, wanted)


def test_two_names():
    """transformers takes the newer one, even if it holds None."""
    cache = DynamicCache()
    caches.check_cache("cache", {"past_key_values": None, "cache": cache})
    for newer in (None, DynamicCache()):
        with pytest.raises(ValueError, match="given as cache alone, got past_key_values and cache"):
            caches.check_cache("cache", {"past_key_values": cache, "cache": newer})


def test_generate_of_a_model_whose_name_is_not_found(model, ids):
    """transformers makes the cache, and names it in a way that nobody knew at enable()."""
    state = state_of(model)
    setattr(
        model, MODEL_STATE,
        dataclasses.replace(
            state, findings=dataclasses.replace(state.findings, cache_argument=None)
        ),
    )  # fmt: skip
    message = f"the cache must be left out, .* got a DynamicCache as {CACHE}"
    with pytest.raises(ValueError, match=message):
        model.generate(ids, guide_bias=models.marks(), max_new_tokens=4)


@pytest.mark.parametrize("name", ["llama", *models.DENSE])
def test_model_that_drops_the_cache(monkeypatch, ids, name):
    """It takes the newer name and lets the older one vanish among its other arguments."""
    kind = type(models.shared(name))
    real = kind.forward

    def forward(self, input_ids=None, cache=None, **others):
        others.pop("past_key_values", None)
        return real(self, input_ids, **{CACHE: cache}, **others)

    monkeypatch.setattr(kind, "forward", forward)
    model = guide.enable(models.make(name))
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :SEEN], cache=cache, guide_bias=models.marks()[:, :SEEN])
        message = "a cache of 7 token.* a mask that the model makes behind 0"
        with pytest.raises(RuntimeError, match=message):
            model(ids[:, SEEN:], past_key_values=cache, guide_bias=models.marks())
        model(ids[:, SEEN:], cache=cache, guide_bias=models.marks())


class TestEnable:
    """A cached step is tried, so that the next change of a name is found there."""

    def refused(self, model, message):
        before = snapshot(model)
        with pytest.raises(guide.UnsupportedModelError, match=message):
            guide.enable(model)
        assert snapshot(model) == before

    @pytest.mark.parametrize("name", [*models.ZOO, *models.DENSE])
    def test_no_name_is_known(self, monkeypatch, name):
        monkeypatch.setattr(caches, "CACHE_ARGUMENTS", ("kv",))
        self.refused(models.make(name), "must know what .* calls its cache.*got a model that ret")

    def test_model_that_names_it_otherwise(self, monkeypatch):
        def forward(self, input_ids=None, kv=None, **others):
            return REAL_FORWARD(self, input_ids, **{CACHE: kv}, **others)

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        self.refused(models.make("llama"), "or cache, got .* returns a DynamicCache")

    @pytest.mark.parametrize("name", [*models.ZOO, *models.DENSE])
    def test_cache_that_is_not_found(self, monkeypatch, name):
        monkeypatch.setattr(caches, "cache_of", lambda own, given: None)
        self.refused(models.make(name), r"able to steer .* with a cache, got ValueError\('guide_bi")

    @pytest.mark.parametrize("name", [*models.ZOO, *models.DENSE])
    @pytest.mark.parametrize("loss", ["all", "all in the cache", "moved"])
    def test_bias_that_loses_its_tokens(self, monkeypatch, name, loss):
        """Without any other check: the numbers alone tell."""
        real = masks._bias_of_keys

        def lossy(frame, call):
            found = real(frame, call)
            if found is None or call.q_offset == 0:
                return found
            if loss == "moved":
                return found.roll(-1, 1)
            lost = found.shape[1] - (loss == "all in the cache")
            return torch.nn.functional.pad(found[:, lost:], (lost, 0))

        monkeypatch.setattr(masks, "_bias_of_keys", lossy)
        self.refused(models.make(name), "a steered .* with a cache equal to those without")

    @pytest.mark.parametrize(
        ("rows", "difference", "is_refused"),
        [
            (slice(0, 2), 0.05, False),  # the model's own, as of experts that rounding chooses
            (slice(0, 1), 1e-4, False),  # rounding
            (slice(0, 1), 0.05, True),
        ],
    )
    def test_model_that_computes_otherwise_from_a_cache(
        self, monkeypatch, rows, difference, is_refused
    ):
        def forward(self, input_ids=None, **others):
            output = REAL_FORWARD(self, input_ids, **others)
            if input_ids.shape[1] == 1:
                output.logits[rows] += difference * output.logits.abs().max()
            return output

        forward.__wrapped__ = REAL_FORWARD
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        if is_refused:
            self.refused(models.make("llama"), "a steered .* with a cache equal to those without")
        else:
            guide.enable(models.make("llama"))

    def test_model_that_fails_with_a_cache_itself(self, monkeypatch, ids):
        """Nothing is lost in silence, so it may be steered without one."""

        def forward(self, input_ids=None, **others):
            if others.get(CACHE) is not None:
                raise IndexError("a cache with too few layers")
            return REAL_FORWARD(self, input_ids, **others)

        forward.__wrapped__ = REAL_FORWARD
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        model = guide.enable(models.make("llama"))
        with torch.no_grad():
            model(ids, guide_bias=models.marks(), use_cache=False)
        with pytest.raises(IndexError, match="too few layers"):
            model.generate(ids, guide_bias=models.marks(), max_new_tokens=3)

    def test_model_without_a_cache(self, monkeypatch, ids):
        def forward(self, input_ids=None, attention_mask=None, use_cache=None, **others):
            return REAL_FORWARD(self, input_ids, attention_mask, use_cache=False, **others)

        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        wanted = models.reference_logits(models.shared("llama"), inputs, models.marks())
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        model = guide.enable(models.make("llama"))
        assert state_of(model).findings.cache_argument is None
        models.assert_logits_close(models.logits(model, inputs, guide_bias=models.marks()), wanted)
        with pytest.raises(ValueError, match=f"must be left out, .* got a DynamicCache as {CACHE}"):
            model(ids, guide_bias=models.marks(), **{CACHE: DynamicCache(config=model.config)})

    def test_costs_three_calls_more(self, monkeypatch):
        sizes = []

        def forward(self, input_ids=None, **others):
            sizes.append(tuple(input_ids.shape))
            return REAL_FORWARD(self, input_ids, **others)

        forward.__wrapped__ = REAL_FORWARD
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        guide.enable(models.make("llama"))
        assert sizes == [(2, 8), (2, 8), (2, 7), (2, 1), (2, 8)]
