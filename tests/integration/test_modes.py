# SPDX-License-Identifier: MIT
"""Other ways into generation: steering arguments are followed or refused, never dropped."""

import models
import pytest
import torch
from transformers import GenerationConfig

import guide_ext.integration as guide


@pytest.fixture
def model():
    return guide.enable(models.make("llama"))


@pytest.fixture
def inputs():
    return {**models.prompts(padding=0), "guide_bias": models.marks()}


SEED = {"guide_seed": torch.ones(2, 1, 9)}
STEERED = {"guide_bias": models.marks()}


class TestTokenHealing:
    @pytest.mark.parametrize("extra", [STEERED, SEED])
    @pytest.mark.parametrize("place", ["argument", "config", "model"])
    def test_refused(self, model, extra, place):
        given = {"argument": {"token_healing": True}, "model": {}}.get(
            place, {"generation_config": GenerationConfig(token_healing=True)}
        )
        if place == "model":
            model.generation_config.token_healing = True
        with pytest.raises(ValueError, match=r"^token_healing must be off with guide_"):
            model.generate(**models.prompts(padding=0), **extra, **given)

    def test_influence(self, model, inputs):
        with pytest.raises(ValueError, match=r"^token_healing must be off with .*guide_seed"):
            guide.generate_with_influence(model, {**inputs, **SEED}, token_healing=True)


class TestContinuousBatching:
    """transformers drops arguments that it does not know; see `batching` for what is steered."""

    @pytest.mark.parametrize("name", ["guide_bias", "guide_strength", "guide_share", "guide_seed"])
    @pytest.mark.parametrize(
        "entry", ["init_continuous_batching", "continuous_batching_context_manager"]
    )
    @pytest.mark.parametrize("was", ["enabled", "disabled", "never enabled"])
    def test_makers_of_managers(self, was, entry, name):
        """They take no requests, so they take no steering."""
        self.refuses(self.made(was), entry, name)

    @pytest.mark.parametrize("name", ["guide_bias", "guide_strength", "guide_share", "guide_seed"])
    @pytest.mark.parametrize("was", ["disabled", "never enabled"])
    def test_models_that_are_not_enabled(self, was, name):
        self.refuses(self.made(was), "generate_batch", name)

    def made(self, was):
        model = models.make("llama")
        if was != "never enabled":
            guide.enable(model)
        if was == "disabled":
            guide.disable(model)
        return model

    def refuses(self, model, entry, name):
        before = model.config._attn_implementation
        with pytest.raises(ValueError, match=rf"^{entry}\(\) must be called without {name}"):
            getattr(model, entry)([[1, 2, 3]], **{name: torch.ones(1, 3)})
        assert model.config._attn_implementation == before  # before auto_switch_to_flash

    def test_paged_cache(self, model, inputs):
        with pytest.raises(
            ValueError, match="must be called without guide_bias, which it does not"
        ):
            model.generate(**inputs, cache_implementation="paged")

    def test_unsteered_as_ever(self):
        model = models.make("llama")
        model.set_attn_implementation("paged|eager")
        config = GenerationConfig(max_new_tokens=2, eos_token_id=None, pad_token_id=0)
        assert "guide_bias" not in config.to_dict()
        assert model.generate_batch([], generation_config=config, guide_bias=None) == {}


class TestCodeFromElsewhere:
    @pytest.mark.parametrize(
        "extra", [{"custom_generate": "somebody/loop"}, {"trust_remote_code": True}]
    )
    def test_refused(self, model, inputs, extra):
        with pytest.raises(ValueError, match=r"^custom_generate and trust_remote_code must be"):
            model.generate(**inputs, **extra)

    def test_loop_that_takes_no_steps_of_the_model(self, model, inputs):
        def loop(model, input_ids, **kwargs):
            return input_ids

        with pytest.raises(RuntimeError, match="got a generation that took none of"):
            model.generate(**inputs, custom_generate=loop)

    def test_loop_that_does(self, model, inputs):
        """A loop of the caller's own, through the steps of the model."""

        def loop(
            model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs
        ):
            return model._sample(
                input_ids, logits_processor, stopping_criteria, generation_config, **kwargs
            )

        settings = {"max_new_tokens": 3, "pad_token_id": 0, "do_sample": False}
        wanted = model.generate(**inputs, **settings)
        assert torch.equal(model.generate(**inputs, **settings, custom_generate=loop), wanted)

    @pytest.mark.parametrize("place", ["argument", "config", "model"])
    @pytest.mark.parametrize(
        "mode",
        [
            {"penalty_alpha": 0.6, "top_k": 4},
            {"dola_layers": "high"},
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
            {"num_beams": 2, "force_words_ids": [[5]]},
            {"num_beams": 2, "constraints": ["any"]},
        ],
        ids=["contrastive", "dola", "group beams", "constrained", "constraints"],
    )
    def test_modes_that_transformers_moved_to_the_hub(self, model, inputs, mode, place):
        """It asks for trust_remote_code=True, and we refuse that: say at once what to do."""
        given = mode if place == "argument" else {}
        if place == "config":
            config = GenerationConfig()
            given = {"generation_config": config}
        if place != "argument":
            target = model.generation_config if place == "model" else config
            for name, value in mode.items():
                setattr(target, name, value)
        with pytest.raises(
            ValueError, match=r"must be left out with guide_bias, .* no longer a part"
        ):
            model.generate(**inputs, **given)

    def test_generate_of_the_class(self):
        class Own(type(models.shared("llama"))):
            def generate(self, *args, **kwargs):
                return super().generate(*args, **kwargs)

        model = models.make("llama")
        model.__class__ = Own
        guide.enable(model)
        with pytest.raises(ValueError, match=r"^guide_bias must go to a model with the generate"):
            model.generate(**models.prompts(), **STEERED)
        assert model(**models.prompts(), **STEERED).logits.shape[0] == 2


def test_assistant_with_another_tokenizer(model, inputs):
    assistant = guide.enable(models.make("llama", seed=1))
    with pytest.raises(ValueError, match=r"^assistant_tokenizer must be None with guide_bias"):
        model.generate(
            **inputs, assistant_model=assistant, tokenizer=object(), assistant_tokenizer=object()
        )
