# SPDX-License-Identifier: MIT
"""One forward pass of an enabled model against its own eager attention with a modified mask."""

from __future__ import annotations

import copy
import io
import threading

import models
import pytest
import torch
from models import logits, random_strength, snapshot
from transformers import AutoModelForCausalLM, DynamicCache

import guide_ext.integration as guide
from guide_ext.steering.steering import Steering

PADDINGS = {"unpadded": 0, "left": 3}


@pytest.fixture(params=models.ZOO)
def name(request):
    return request.param


@pytest.fixture(params=PADDINGS.values(), ids=PADDINGS.keys())
def inputs(request):
    return models.prompts(padding=request.param)


class TestEqualsEager:
    def test_needs_no_dense_mask(self, name):
        # Dense masks would be right even if the carrier were not, and hide that.
        model = guide.enable(models.make(name))
        assert model.config._attn_implementation == "guide"
        assert guide.table_size(model) == (models.LAYERS, models.HEADS)

    def test_bias(self, name, inputs):
        wanted = models.reference_logits(models.shared(name), inputs, models.marks())
        model = guide.enable(models.make(name))
        found = logits(model, inputs, guide_bias=models.marks())
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_strength_per_layer_and_head(self, name, inputs):
        strength = random_strength()
        wanted = models.reference_logits(models.shared(name), inputs, models.marks(), strength)
        model = guide.enable(models.make(name))
        found = logits(model, inputs, guide_bias=models.marks(), guide_strength=strength)
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_bias_changes_the_output(self, name):
        # Otherwise the tests above would pass on a model that ignores its mask.
        inputs = models.prompts(padding=0)
        model = models.shared(name)
        plain = models.reference_logits(model, inputs, torch.zeros(2, 9))
        steered = models.reference_logits(model, inputs, models.marks())
        with pytest.raises(AssertionError, match="logits differ"):
            models.assert_logits_close(steered, plain)

    def test_right_padding(self):
        inputs = models.prompts(padding=0)
        inputs["attention_mask"][0, 6:] = 0
        wanted = models.reference_logits(models.shared("mistral"), inputs, models.marks())
        model = guide.enable(models.make("mistral"))
        found = logits(model, inputs, guide_bias=models.marks())
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_minus_infinity_hides_a_token_whatever_the_strength(self):
        inputs = models.prompts(padding=0)
        bias = torch.zeros(2, 9)
        bias[:, 4] = float("-inf")
        hidden = {**inputs, "attention_mask": torch.ones(2, 9, dtype=torch.long)}
        hidden["attention_mask"][:, 4] = 0
        model = guide.enable(models.make("llama"))
        others = torch.arange(9) != 4
        wanted = logits(model, hidden)[:, others]
        found = logits(model, inputs, guide_bias=bias, guide_strength=torch.zeros(2, 2, 4))
        assert torch.equal(found[:, others], wanted)

    def test_prompt_in_pieces_with_a_cache(self, name):
        inputs = models.prompts(tokens=13)
        bias = models.marks(tokens=13)
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        wanted = models.reference_logits(
            models.shared(name), {**inputs, "position_ids": positions}, bias
        )
        model = guide.enable(models.make(name))
        cache, pieces, start = DynamicCache(config=model.config), [], 0
        for end in (4, 5, 11, 13):
            with torch.no_grad():
                out = model(
                    input_ids=inputs["input_ids"][:, start:end],
                    attention_mask=inputs["attention_mask"][:, :end],
                    position_ids=positions[:, start:end],
                    **{models.CACHE: cache},
                    guide_bias=bias[:, :end],
                )
            pieces.append(out.logits)
            start = end
        models.assert_logits_close(torch.cat(pieces, 1), wanted, inputs["attention_mask"])


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_is_accepted_and_steered(self, name, dtype):
        inputs = models.prompts()
        model = guide.enable(models.make(name).to(dtype))
        assert model.config._attn_implementation == "guide"
        plain = logits(model, inputs)
        assert torch.equal(logits(model, inputs, guide_bias=torch.zeros(2, 9)), plain)
        assert not torch.equal(logits(model, inputs, guide_bias=models.marks()), plain)


class TestUnsteered:
    def test_same_bits_as_without_enable(self, name, inputs):
        plain = models.make(name)
        plain.set_attn_implementation("guide")
        enabled = guide.enable(models.make(name))
        assert torch.equal(logits(enabled, inputs), logits(plain, inputs))

    def test_zero_bias_has_the_same_bits(self, name, inputs):
        model = guide.enable(models.make(name))
        plain = logits(model, inputs)
        zero = logits(model, inputs, guide_bias=torch.zeros(2, 9))
        assert torch.equal(zero, plain)

    def test_steered_call_leaves_no_trace(self, name, inputs):
        model = guide.enable(models.make(name))
        before = logits(model, inputs)
        steered = logits(model, inputs, guide_bias=models.marks(), guide_strength=random_strength())
        assert not torch.equal(steered, before)
        assert torch.equal(logits(model, inputs), before)

    def test_registered_model_equals_eager(self, name, inputs):
        model = models.make(name)
        wanted = logits(model, inputs)
        model.set_attn_implementation("guide")
        models.assert_logits_close(logits(model, inputs), wanted, inputs["attention_mask"])


class TestMethods:
    """PASTA and InstABoost as they are defined: probabilities scaled, then renormalised."""

    def reference(self, monkeypatch, scale):
        """Llama with `scale(probabilities, layer)` applied in its own eager attention."""
        from transformers.models.llama import modeling_llama

        model = models.make("llama")

        def attention(module, query, key, value, attention_mask, scaling, **kwargs):
            key = modeling_llama.repeat_kv(key, module.num_key_value_groups)
            value = modeling_llama.repeat_kv(value, module.num_key_value_groups)
            scores = query @ key.transpose(2, 3) * scaling + attention_mask
            prob = scale(torch.softmax(scores, -1), module.layer_idx)
            return (prob / prob.sum(-1, keepdim=True) @ value).transpose(1, 2), prob

        monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
        return logits(model, models.prompts(padding=0))

    def steered(self, steering):
        model = guide.enable(models.make("llama"))
        inputs = models.prompts(padding=0)
        bias = torch.where(torch.arange(9) < 4, steering.on_marked, steering.on_others)
        strength = steering.strength(*guide.table_size(model))
        rows = bias.expand(2, -1)
        tables = None if strength is None else strength.expand(2, -1, -1)
        return logits(model, inputs, guide_bias=rows, guide_strength=tables)

    def test_pasta(self, monkeypatch):
        def scale(prob, layer):
            prob = prob.clone()
            for head in {0: [1, 3], 1: [0]}[layer]:
                prob[:, head, :, 4:] *= 0.01
            return prob

        found = self.steered(Steering.pasta(0.01, heads={0: [1, 3], 1: [0]}))
        models.assert_logits_close(found, self.reference(monkeypatch, scale))

    def test_instaboost(self, monkeypatch):
        def scale(prob, _layer):
            return torch.cat([prob[..., :4] * 5.0, prob[..., 4:]], -1)

        found = self.steered(Steering.instaboost(5.0))
        models.assert_logits_close(found, self.reference(monkeypatch, scale))


class TestOwnMask:
    @pytest.mark.parametrize("kind", ["bool", "float"])
    def test_is_used_exactly_without_a_bias(self, kind):
        inputs = models.prompts(padding=0)
        visible = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.7
        visible |= torch.eye(9, dtype=torch.bool)
        table = torch.where(visible, 0.3, torch.finfo(torch.float32).min)
        model = models.make("llama")
        wanted = logits(model, {"input_ids": inputs["input_ids"], "attention_mask": table - 0.0})
        guide.enable(model)
        own = visible if kind == "bool" else table
        found = logits(model, {"input_ids": inputs["input_ids"], "attention_mask": own})
        models.assert_logits_close(found, wanted)

    def test_packed_sequences_are_steered_through_a_full_table(self):
        input_ids = models.prompts(rows=1)["input_ids"]
        position_ids = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
        bias = models.marks(rows=1)
        inputs = {"input_ids": input_ids, "position_ids": position_ids}
        wanted = models.reference_logits(models.shared("llama"), inputs, bias)
        model = guide.enable(models.make("llama"))
        found = logits(model, inputs, guide_bias=bias, use_cache=False)
        models.assert_logits_close(found, wanted)


class TestDenseModel:
    """Doge tests its mask for zero and keeps the largest entries of a learnt one."""

    def reference(self, monkeypatch, inputs, bias, strength=None):
        from transformers.models.doge import modeling_doge

        original = modeling_doge.eager_attention_forward

        def attention(module, query, key, value, attention_mask, **kwargs):
            nats = bias[:, None, None, :]
            if strength is not None:
                nats = nats * strength[:, module.layer_idx, :, None, None]
            return original(module, query, key, value, attention_mask + nats, **kwargs)

        model = models.make("doge")
        with monkeypatch.context() as patch:
            patch.setattr(modeling_doge, "eager_attention_forward", attention)
            return logits(model, inputs, use_cache=False)

    @pytest.mark.parametrize("strength", [None, random_strength()], ids=["all", "strength"])
    def test_equals_eager(self, monkeypatch, caplog, inputs, strength):
        wanted = self.reference(monkeypatch, inputs, models.marks(), strength)
        with caplog.at_level("WARNING", logger="guide_ext"):
            model = guide.enable(models.make("doge"))
        assert "DogeForCausalLM gets dense masks" in caplog.text
        assert model.config._attn_implementation == "guide_dense"
        found = logits(model, inputs, guide_bias=models.marks(), guide_strength=strength)
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_steered_call_leaves_no_trace(self, inputs):
        model = guide.enable(models.make("doge"))
        before = logits(model, inputs)
        assert not torch.equal(logits(model, inputs, guide_bias=models.marks()), before)
        assert torch.equal(logits(model, inputs), before)


class TestTraining:
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_activation_checkpointing_keeps_the_gradients(self, reentrant):
        def gradients(checkpointed):
            model = guide.enable(models.make("llama")).train()
            if checkpointed:
                model.activation_checkpointing_enable({"use_reentrant": reentrant})
            out = model(**models.prompts(), guide_bias=models.marks(), use_cache=False)
            out.logits.square().sum().backward()
            return [parameter.grad for parameter in model.parameters()]

        for found, wanted in zip(gradients(True), gradients(False), strict=True):
            assert torch.equal(found, wanted)


class TestLifeCycle:
    def test_enable_twice_is_enable_once(self):
        model = guide.enable(models.make("llama"))
        hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
        assert guide.enable(model) is model
        assert hooks == (len(model._forward_pre_hooks), len(model._forward_hooks))

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_disable_restores_the_model(self, implementation):
        model = models.make("gemma2" if implementation == "eager" else "llama")
        model.set_attn_implementation(implementation)
        before = snapshot(model)
        wanted = logits(model, models.prompts())
        guide.enable(model)
        logits(model, models.prompts(), guide_bias=models.marks())
        assert guide.disable(model) is model
        assert snapshot(model) == before
        assert torch.equal(logits(model, models.prompts()), wanted)

    def test_disable_of_a_plain_model_does_nothing(self):
        model = models.make("llama")
        before = snapshot(model)
        guide.disable(model)
        assert snapshot(model) == before

    def test_enable_keeps_training_mode_and_random_state(self):
        model = models.make("llama", attention_dropout=0.5).train()
        model.lm_head.eval()
        state = torch.get_rng_state()
        guide.enable(model)
        assert torch.equal(torch.get_rng_state(), state)
        assert model.model.training
        assert not model.lm_head.training

    def test_deepcopy_is_independent(self):
        model = guide.enable(models.make("mistral"))
        inputs = models.prompts()
        wanted = logits(model, inputs, guide_bias=models.marks())
        double = copy.deepcopy(model)
        guide.disable(model)
        assert torch.equal(logits(double, inputs, guide_bias=models.marks()), wanted)
        tokens = double.generate(**inputs, guide_bias=models.marks(), max_new_tokens=2)
        assert tokens.shape == (2, 11)
        guide.disable(double)
        assert snapshot(double) == snapshot(models.make("mistral"))

    def test_save_and_load(self, tmp_path):
        model = guide.enable(models.make("llama"))
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="guide")
        inputs = models.prompts()
        assert torch.equal(logits(again, inputs), logits(model, inputs))
        wanted = logits(model, inputs, guide_bias=models.marks())
        assert torch.equal(logits(guide.enable(again), inputs, guide_bias=models.marks()), wanted)

    def test_pickle(self):
        model = guide.enable(models.make("llama"))
        inputs = models.prompts()
        wanted = logits(model, inputs, guide_bias=models.marks())
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert torch.equal(logits(again, inputs, guide_bias=models.marks()), wanted)
        assert again.generate(**inputs, guide_bias=models.marks(), max_new_tokens=1).shape[1] == 10


class TestConcurrency:
    def test_threads_with_different_marks(self):
        model = guide.enable(models.make("llama"))
        inputs = models.prompts()
        biases = [models.marks(delta=delta) for delta in (0.0, 1.0, 2.0, 3.0)]
        wanted = [logits(model, inputs, guide_bias=bias) for bias in biases]
        found: list[list[torch.Tensor]] = [[] for _ in biases]

        def work(index):
            for _ in range(8):
                found[index].append(logits(model, inputs, guide_bias=biases[index]))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(biases))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for results, one in zip(found, wanted, strict=True):
            assert len(results) == 8
            assert all(torch.equal(result, one) for result in results)

    def test_nested_calls_keep_their_own_marks(self):
        model = guide.enable(models.make("llama"))
        inputs = models.prompts()
        plain = logits(model, inputs)
        wanted = logits(model, inputs, guide_bias=models.marks())
        inner = []

        def call_again(_module, _args):
            handle.remove()
            inner.append(logits(model, inputs))

        # Before the masks are made, so that a lost frame shows.
        handle = model.model.embed_tokens.register_forward_pre_hook(call_again)
        assert torch.equal(logits(model, inputs, guide_bias=models.marks()), wanted)
        assert torch.equal(inner[0], plain)

    def test_another_model_inside_a_steered_call_is_not_steered(self):
        model, other = guide.enable(models.make("llama")), models.make("qwen2")
        other.set_attn_implementation("guide")
        inputs = models.prompts()
        plain = logits(other, inputs)
        inner = []
        handle = model.model.embed_tokens.register_forward_pre_hook(
            lambda _module, _args: inner.append(logits(other, inputs))
        )
        logits(model, inputs, guide_bias=models.marks())
        handle.remove()
        assert torch.equal(inner[0], plain)
