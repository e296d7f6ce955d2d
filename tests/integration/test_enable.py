# SPDX-License-Identifier: MIT
"""Models that are not enabled, and models that are refused and left as they were."""

from __future__ import annotations

import contextlib
import math

import models
import pytest
import torch
import torch.nn.functional as F
from models import bias, logits, snapshot
from transformers import DynamicCache

import guide_ext.integration as guide
from guide_ext.integration.call import attention as call_attention
from guide_ext.integration.call.frame import current
from guide_ext.integration.model import trial


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
        model = models.make("openai-gpt")
        before = snapshot(model)
        with pytest.raises(
            guide.UnsupportedModelError, match="OpenAIGPTLMHeadModel, which computes"
        ):
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
        monkeypatch.setattr(trial, "tiny_batch", lambda model: (torch.ones(1, 1).long(),) * 2)
        message = "never hands a mask to an attention layer"
        with pytest.raises(guide.UnsupportedModelError, match=message):
            guide.enable(models.make("llama"))

    @pytest.mark.parametrize("layer", [0, 1])
    @pytest.mark.parametrize("fused", [False, True])
    def test_a_layer_with_attention_of_its_own(self, layer, fused):
        """The others would be steered, and this one not."""
        model = models.make("llama")
        attention = model.model.layers[layer].self_attn
        heads, width = models.HEADS, attention.head_dim

        def own(hidden_states, *args, **kwargs):
            rows, tokens, _ = hidden_states.shape
            query, key, value = (
                project(hidden_states).view(rows, tokens, -1, width).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
            if fused:
                out = F.scaled_dot_product_attention(
                    query, key, value=value, is_causal=True, scale=1
                )
            else:
                scores = query @ key.transpose(2, 3)
                future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
                out = scores.masked_fill(future, -1e9).softmax(-1) @ value
            return attention.o_proj(out.transpose(1, 2).flatten(2)), None

        attention.forward = own
        before = snapshot(model)
        with pytest.raises(guide.UnsupportedModelError, match="which also computes attention in"):
            guide.enable(model)
        assert snapshot(model) == before

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
