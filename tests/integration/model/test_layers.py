# SPDX-License-Identifier: MIT
"""A steered call reaches every attention layer that was promised a bias, or raises."""

import models
import pytest
import torch
from sweep import compare
from sweep.build import build
from torch import nn

import guide_ext.integration as guide
from guide_ext.integration.model import trial


class TestKeysThatAreNotTokens:
    """DeepSeek V4: its compressed layers attend to tokens and to entries that stand for several."""

    def test_refused_where_it_shows_at_once(self):
        model = build("deepseek_v4")
        before = models.snapshot(model)
        with pytest.raises(guide.UnsupportedModelError, match="its keys are not the tokens"):
            guide.enable(model)
        assert models.snapshot(model) == before

    @pytest.mark.parametrize("tokens", [compare.TOKENS, 90])
    def test_raises_where_it_shows_late(self, monkeypatch, tokens):
        """Compression that the tiny input of enable() is too short for."""
        monkeypatch.setattr(trial, "_LONGEST_LIMIT", 0)
        rates = {"compressed_sparse_attention": 16, "heavily_compressed_attention": 64}
        model = guide.enable(build("deepseek_v4", compress_rates=rates))
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 90, (1, tokens), generator=generator)
        bias = torch.zeros(1, tokens)
        bias[0, 2] = 1.0
        with torch.no_grad():
            model(ids[:, :8], guide_bias=bias[:, :8])
            with pytest.raises(RuntimeError, match=r"guide_bias must reach every .* keys"):
                model(ids, guide_bias=bias)
            with pytest.raises(RuntimeError, match="guide_bias must reach every"):
                model.generate(ids, guide_bias=bias, max_new_tokens=2)
            model(ids)  # unsteered calls go on


@pytest.mark.parametrize(
    ("name", "limit"),
    [("deepseek_v32", "index_topk"), ("mistral", "sliding_window"), ("doge", "keep_window_size")],
)
def test_what_enable_looks_at_is_longer_than_short_limits(name, limit):
    for tokens in (8, 20):
        input_ids, _ = trial.tiny_batch(build(name, **{limit: tokens}))
        assert input_ids.shape[1] > tokens
    assert trial.tiny_batch(build(name, **{limit: 500}))[0].shape[1] < 20


class TestLayersThatAreLeftOut:
    @pytest.fixture
    def model(self):
        return guide.enable(models.make("llama"))

    def test_replaced_attention(self, model):
        """One layer of two: the other one had the bias, which is not enough."""

        class Own(nn.Module):
            def forward(self, hidden_states, **kwargs):
                return hidden_states, None

        model.model.layers[1].self_attn = Own()
        with pytest.raises(RuntimeError, match="ran without 1 of them, the first being layer 1"):
            model(**models.prompts(), guide_bias=models.marks())
        model(**models.prompts())

    @pytest.mark.parametrize("cache", [None, "static"])
    def test_layer_without_the_mask(self, model, cache):
        """A layer that throws the mask away loses the bias with it."""
        own = model.model.layers[1].self_attn.forward

        def forward(*args, **kwargs):
            return own(*args, **{**kwargs, "attention_mask": None})

        model.model.layers[1].self_attn.forward = forward
        settings = {"max_new_tokens": 2, "cache_implementation": cache, "pad_token_id": 0}
        with pytest.raises(RuntimeError, match=r"got layer 1, a LlamaAttention of \d+ keys"):
            model.generate(**models.prompts(), guide_bias=models.marks(), **settings)
        model.generate(**models.prompts(), **settings)

    def test_layer_that_is_skipped(self, model):
        class Skipped(nn.Module):
            def forward(self, hidden_states, *args, **kwargs):
                return hidden_states

        model.model.layers[0] = Skipped()
        with pytest.raises(RuntimeError, match="ran without 1 of them, the first being layer 0"):
            model(**models.prompts(), guide_bias=models.marks())

    def test_drafts_of_an_early_exit(self, model):
        inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
        plain = models.generation(model, {**inputs, "guide_bias": bias})
        drafted = models.generation(model, {**inputs, "guide_bias": bias}, assistant_early_exit=1)
        models.assert_same_generation(drafted, plain)

    def test_layerdrop(self):
        model = models.make("bart", decoder_layerdrop=0.9)
        guide.enable(model).train()
        model(**models.prompts(), guide_bias=models.marks())
        model.eval()
        model(**models.prompts(), guide_bias=models.marks())

    def test_every_layer_of_every_step_is_counted(self, model, monkeypatch):
        """The second step of generation, not the prompt alone."""
        own = model.model.layers[1].self_attn.forward
        calls = []

        def forward(*args, **kwargs):
            calls.append(None)
            mask = kwargs["attention_mask"] if len(calls) < 3 else None
            return own(*args, **{**kwargs, "attention_mask": mask})

        monkeypatch.setattr(model.model.layers[1].self_attn, "forward", forward)
        with pytest.raises(RuntimeError, match="guide_bias must reach every attention layer"):
            models.generation(model, {**models.prompts(), "guide_bias": models.marks()})
        assert len(calls) == 3


class TestLayersThatRunAgain:
    @pytest.mark.parametrize("name", ["hrm_text", "diffllama"])
    def test_influence_is_refused_and_steering_is_exact(self, name):
        verdict = compare.compare(build(name))
        assert verdict.kind == "exact", verdict
        assert "runs every attention layer once" in verdict.influence

    @pytest.mark.parametrize("name", ["hrm_text", "diffllama"])
    def test_influence_is_refused_before_it_is_measured(self, name):
        model = guide.enable(build(name))
        before = models.snapshot(model)
        inputs = {**compare.prompts(), "guide_seed": (compare.marks() > 0)[:, None]}
        with pytest.raises(guide.UnsupportedModelError, match="runs every attention layer once"):
            guide.influence(model, inputs)
        assert models.snapshot(model) == before  # not even watched

    def test_loop_that_begins_later(self):
        """Observed in the call that measures, too."""
        model = guide.enable(models.make("llama"))
        inputs = {**models.prompts(), "guide_seed": (models.marks() > 0)[:, None]}
        guide.influence(model, inputs)
        layer = model.model.layers[1]
        own = layer.self_attn.forward

        def twice(*args, **kwargs):
            own(*args, **kwargs)
            return own(*args, **kwargs)

        layer.self_attn.forward = twice
        with pytest.raises(ValueError, match="LlamaAttention that calls attention again"):
            guide.influence(model, inputs)
        del layer.self_attn.forward
        guide.influence(model, inputs)


class TestModelsWithoutAttentionThatCanBeSteered:
    def test_no_attention_layers(self):
        with pytest.raises(guide.UnsupportedModelError, match="must have attention layers"):
            guide.enable(build("mamba"))

    def test_no_attention_layers_by_its_config(self):
        with pytest.raises(guide.UnsupportedModelError, match="must have attention layers"):
            guide.enable(build("jamba", attn_layer_period=99, attn_layer_offset=98))

    def test_no_text(self):
        from transformers import ViTConfig, ViTModel

        config = ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            image_size=16, patch_size=8,
        )  # fmt: skip
        with pytest.raises(guide.UnsupportedModelError, match="must read token ids, got ViTModel"):
            guide.enable(ViTModel(config))

    def test_own_code_beside_a_text_model_of_the_interface(self):
        """GOT-OCR 2: the attention of its images is its own, that of its text is not."""
        assert compare.compare(build("got_ocr2")).kind == "exact"
