# SPDX-License-Identifier: MIT
"""Models whose attention is code of their own, with the bias in the mask that they add."""

import logging
import pickle
import subprocess
import sys

import models
import pytest
import torch
from models import OWN, assert_logits_close, assert_same_generation, logits, make, prompts
from sweep.compare import Total, adding_to_masks

import guide_ext.integration as guide
from guide_ext.integration.call.frame import current
from guide_ext.integration.model.state import state_of
from guide_ext.steering.steering import Steering

HOW = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "several": {"num_beams": 4, "num_return_sequences": 2},
    "chunks": {"prefill_chunk_size": 4},
}


def steered_logits(model, inputs, bias):
    """Those of transformers alone, whose masks get the bias behind our back."""
    with adding_to_masks(model, bias, Total(inputs["input_ids"].shape[1])):
        return logits(model, inputs)


def steered_generation(model, inputs, bias, **how):
    total = Total()

    def count(module, args, kwargs):
        total.tokens += (args[0] if args else kwargs["input_ids"]).shape[1]

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    with adding_to_masks(model, bias.repeat_interleave(how.get("num_beams", 1), 0), total):
        found = models.generation(model, inputs, **how)
    handle.remove()
    return found


@pytest.mark.parametrize("name", OWN)
def test_forward(name):
    model, inputs, bias = make(name), prompts(tokens=12), models.marks(tokens=12)
    plain, wanted = logits(model, inputs), steered_logits(model, inputs, bias)
    guide.enable(model)
    assert state_of(model).findings.adds_to_mask
    assert torch.equal(logits(model, inputs), plain)
    found = logits(model, inputs, guide_bias=bias)
    assert_logits_close(found, wanted, inputs["attention_mask"])
    assert (wanted - plain).abs().max() > 1e-2 * plain.abs().max()
    assert torch.equal(logits(model, inputs), plain)  # nothing stays
    assert current() is None


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", OWN)
def test_generate(name, how):
    model, inputs, bias = make(name), prompts(), models.marks()
    wanted = steered_generation(model, inputs, bias, **HOW[how])
    guide.enable(model)
    found = models.generation(model, inputs, guide_bias=bias, **HOW[how])
    assert_same_generation(found, wanted)
    assert current() is None


def test_gradients():
    model, inputs, bias = make("bloom"), prompts(padding=0), models.marks()

    def gradient(**steering):
        model.zero_grad()
        model(**inputs, **steering, labels=inputs["input_ids"]).loss.backward()
        return model.transformer.word_embeddings.weight.grad.clone()

    with adding_to_masks(model, bias, Total(9)):
        wanted = gradient()
    guide.enable(model)
    torch.testing.assert_close(gradient(guide_bias=bias), wanted)


def test_hidden_tokens_are_those_of_the_padding():
    """A bias of -inf is a mask, in half precision, too."""
    for dtype in (torch.float32, torch.bfloat16):
        model = guide.enable(make("gpt_neo").to(dtype))
        inputs = prompts(padding=0)
        bias = torch.zeros(2, 9)
        bias[:, 2:4] = float("-inf")
        masked = {**inputs, "attention_mask": inputs["attention_mask"].masked_fill(bias < 0, 0)}
        positions = {"position_ids": torch.arange(9).expand(2, -1)}
        found = logits(model, {**inputs, **positions}, guide_bias=bias)
        wanted = logits(model, {**masked, **positions})
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found[:, 4:], wanted[:, 4:])


def test_rows_of_padding_stay_numbers():
    """In half precision, a mask and a bias can add up to less than the least number."""
    model, inputs = guide.enable(make("gpt_neo").half()), prompts()
    found = logits(model, inputs, guide_bias=models.bias(value=-100.0))
    real = inputs["attention_mask"].bool()
    assert torch.isfinite(found[real]).all()
    # The same bias on all keys changes nothing, but scores near -100 have steps of 1/16 in fp16.
    torch.testing.assert_close(found[real], logits(model, inputs)[real], atol=0.1, rtol=0.1)


def test_a_bias_that_half_precision_cannot_hold_stays_a_number():
    model, inputs = guide.enable(make("gpt_neo").half()), prompts(padding=0)
    bias = torch.zeros(2, 9)
    bias[:, 4] = 7e4
    found = logits(model, inputs, guide_bias=bias)
    assert torch.isfinite(found).all()
    # Queries before the key do not see it, whatever its bias.
    torch.testing.assert_close(found[:, :4], logits(model, inputs)[:, :4])


def test_a_mask_function_of_the_user_s_own_is_kept():
    program = """
import torch
from transformers import AttentionMaskInterface, LlamaConfig, LlamaForCausalLM, masking_utils
calls = []
def mine(*args, **kwargs):
    calls.append(1)
    return masking_utils.eager_mask(*args, **kwargs)
AttentionMaskInterface.register("eager", mine)
import guide_ext.integration
config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=2)
model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
model(torch.tensor([[1, 2]]))
assert calls
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_warning_says_what_is_missing(caplog):
    with caplog.at_level(logging.WARNING):
        model = guide.enable(make("bloom"))
    assert "gets the bias in its mask" in caplog.text
    layers, heads = guide.table_size(model)
    assert (layers, heads) == (models.LAYERS, models.HEADS)
    inputs, bias = prompts(), models.marks()
    cases = {
        "guide_strength": {"guide_bias": bias, "guide_strength": torch.ones(2, layers, heads)},
        "guide_share": {"guide_share": 0.3 * (bias > 0)},
    }
    for name, steering in cases.items():
        message = f"{name} must go to a model that uses transformers' attention interface"
        with pytest.raises(ValueError, match=message):
            model(**inputs, **steering)
        with pytest.raises(ValueError, match=message):
            model.generate(**inputs, **steering, max_new_tokens=2)
    with pytest.raises(ValueError, match="Influence must go to"):
        guide.influence(model, {**inputs, "guide_seed": torch.ones(2, 1, 9)})
    tokenizer = guide.load_embedded()[1]
    with pytest.raises(ValueError, match="guide_strength must go to"):
        guide.encode(model, tokenizer, "<!!->a<-!!>", steering=Steering.guide(1.0, layers=[0]))
    assert current() is None


def test_a_call_that_makes_no_mask_is_an_error(monkeypatch):
    from transformers.models.bloom import modeling_bloom

    model = guide.enable(make("bloom"))
    mask = torch.zeros(2, 1, 9, 9)
    monkeypatch.setattr(modeling_bloom, "create_causal_mask", lambda *_, **__: mask)
    with pytest.raises(RuntimeError, match="must reach the mask of BloomForCausalLM"):
        model(**prompts(), guide_bias=models.marks())
    assert current() is None


def test_copies_pickles_and_disabled_models():
    model, inputs, bias = guide.enable(make("falcon")), prompts(), models.marks()
    wanted = logits(model, inputs, guide_bias=bias)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(again, inputs, guide_bias=bias), wanted)
    guide.disable(model)
    with pytest.raises(ValueError, match="must go to an enabled model"):
        model(**inputs, guide_bias=bias)
    assert torch.equal(logits(model, inputs), logits(make("falcon"), inputs))


def test_load_reads_it_under_eager_attention(tmp_path):
    tokenizer = guide.load_embedded()[1]
    model = make("falcon", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, own = guide.load(str(tmp_path), device="cpu")
    assert state_of(loaded).findings.adds_to_mask
    how = {"delta": 3.0, "max_new_tokens": 5}
    text = "<!!->Summarize in French<-!!>: The cat sleeps."
    guide.enable(model)
    assert guide.complete(loaded, own, [text], **how) == guide.complete(
        model, tokenizer, [text], **how
    )


class TestRefusals:
    """Whatever does not just add its mask."""

    @staticmethod
    def refusal(model):
        with pytest.raises(guide.UnsupportedModelError) as found:
            guide.enable(model)
        assert current() is None
        return str(found.value)

    def test_another_attention_than_eager(self):
        model = make("falcon")
        model.config._attn_implementation_internal = "sdpa"
        assert "load it with attn_implementation='eager'" in self.refusal(model)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda mask: 0.5 * mask, "differ by something else than the bias"),
            (lambda mask: (mask < -1e4) * -1e9, "do not have the bias"),
            (
                lambda mask: torch.where((mask < -1e4) & (mask.amax() > 0), 0.0, mask),
                "shows keys that its mask hides",
            ),
        ],
    )
    def test_a_mask_that_is_reworked(self, monkeypatch, change, reason):
        from transformers.models.bloom import modeling_bloom

        original = modeling_bloom.BloomAttention.forward

        def forward(self, hidden, residual, alibi, attention_mask, *args, **kwargs):
            return original(self, hidden, residual, alibi, change(attention_mask), *args, **kwargs)

        monkeypatch.setattr(modeling_bloom.BloomAttention, "forward", forward)
        assert reason in self.refusal(make("bloom"))

    def test_a_layer_without_the_mask(self, monkeypatch):
        model = make("bloom")
        layer = model.transformer.h[1]
        forward = layer.forward

        def without(hidden, *args, attention_mask, **kwargs):
            return forward(hidden, *args, attention_mask=0 * attention_mask, **kwargs)

        monkeypatch.setattr(layer, "forward", without)
        assert "do not have the bias" in self.refusal(model)

    def test_a_layer_without_softmax(self, monkeypatch):
        model = make("bloom")
        monkeypatch.setattr(
            model.transformer.h[1].self_attention,
            "forward",
            lambda hidden, residual, *args, **kwargs: (hidden + residual, None),
        )
        assert "1 of its 2 layers take a softmax over their keys" in self.refusal(model)

    def test_something_else_that_reads_the_mask(self, monkeypatch):
        model = make("bloom")
        layer = model.transformer.h[0]
        forward = layer.forward

        def routed(hidden, *args, attention_mask, **kwargs):
            gate = torch.softmax(attention_mask[:, 0, -1, -4:], -1)
            return forward(
                hidden * gate.sum(-1)[:, None, None], *args, attention_mask=attention_mask, **kwargs
            )

        monkeypatch.setattr(layer, "forward", routed)
        assert "something else than attention reads its mask" in self.refusal(model)
