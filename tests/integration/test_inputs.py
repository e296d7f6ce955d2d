# SPDX-License-Identifier: MIT
"""From prompts with tags to the arguments of `generate()`; loading the embedded model."""

from __future__ import annotations

import math
import re

import models
import pytest
import torch
from models import logits
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

import guide_ext.integration as guide
from guide_ext.marking.spans import TagError, mark
from guide_ext.marking.tokens import encode_text
from guide_ext.steering.steering import Steering

WORDS = ("?", "say", "it", "twice", "user", "assistant", ":")


@pytest.fixture
def model():
    return guide.enable(models.make("llama"))


@pytest.fixture
def tokenizer():
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(tokenizer_models.WordLevel(vocabulary, "?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        chat_template="{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}",
    )


class TestEncode:
    def test_one_text(self, model, tokenizer):
        found = guide.encode(model, tokenizer, "say it <!!->twice<-!!>", delta=2.0)
        assert found["input_ids"].tolist() == [[1, 2, 3]]
        assert found["guide_bias"].tolist() == [[0, 0, 2]]
        assert "guide_strength" not in found

    def test_default_is_one_nat(self, model, tokenizer):
        found = guide.encode(model, tokenizer, "say <!!->it<-!!>")
        assert found["guide_bias"].tolist() == [[0, 1]]

    def test_batch_of_all_kinds(self, model, tokenizer):
        chat = [{"role": "user", "content": "say <!!->it<-!!>"}]
        ready = encode_text(tokenizer, "<!!->say<-!!>")
        kinds = ["say <!->it<-!> twice", mark("say it", level=3, substring="say"), chat, ready]
        found = guide.encode(model, tokenizer, kinds, delta=1.0)
        assert found["input_ids"].shape == (4, 4)
        assert found["attention_mask"].sum(1).tolist() == [3, 2, 4, 1]
        assert found["guide_bias"].tolist() == [
            [0, 0, 0.5, 0],
            [0, 0, 2, 0],
            [0, 0, 0, 1],
            [0, 0, 0, 1],
        ]
        one = guide.encode(model, tokenizer, chat, delta=1.0)
        assert one["input_ids"].tolist() == [found["input_ids"][2].tolist()]

    def test_selection(self, model, tokenizer):
        steering = Steering.pasta(0.5, heads={1: [0]})
        found = guide.encode(model, tokenizer, "say <!!->it<-!!>", steering=steering)
        assert found["guide_strength"].tolist() == [[[0] * 4, [1, 0, 0, 0]]]
        assert torch.equal(found["guide_bias"], torch.tensor([[math.log(0.5), 0]]))

    def test_batched_equals_alone(self, model, tokenizer):
        texts = ["say <!!->it<-!!>", "<!!!->it<-!!!> twice say say"]
        both = models.generation(model, guide.encode(model, tokenizer, texts))
        for row, text in enumerate(texts):
            alone = models.generation(model, guide.encode(model, tokenizer, text))
            assert alone.sequences[0, -6:].tolist() == both.sequences[row, -6:].tolist()

    def test_model_that_is_not_enabled(self, tokenizer):
        with pytest.raises(ValueError, match="model must be enabled"):
            guide.encode(models.make("llama"), tokenizer, "say it")

    def test_delta_and_steering(self, model, tokenizer):
        with pytest.raises(ValueError, match="delta must be None when steering is given"):
            guide.encode(model, tokenizer, "say", delta=1.0, steering=Steering.guide(1.0))

    @pytest.mark.parametrize(
        ("steering", "message"),
        [
            ("x", "steering must be a Steering or a list of them, got 'x'"),
            (Steering, "steering must be a Steering or a list of them, got <class"),
            ([Steering], "steering must be Steering objects, got <class"),
            (2.0, "steering must be a Steering or a list of them, got 2.0"),
        ],
    )
    def test_steering(self, model, tokenizer, steering, message):
        with pytest.raises(ValueError, match=message):
            guide.encode(model, tokenizer, "say", steering=steering)

    @pytest.mark.parametrize("delta", [math.nan, math.inf])
    def test_delta(self, model, tokenizer, delta):
        with pytest.raises(ValueError, match="delta must be a finite number of nats"):
            guide.encode(model, tokenizer, "say", delta=delta)

    @pytest.mark.parametrize("layers", [[2], [0, 5]])
    def test_layers(self, model, tokenizer, layers):
        with pytest.raises(ValueError, match="layers must be below 2"):
            guide.encode(model, tokenizer, "say", steering=Steering.guide(1.0, layers=layers))

    def test_no_prompts(self, model, tokenizer):
        with pytest.raises(ValueError, match="prompts must be at least one, got none"):
            guide.encode(model, tokenizer, [])

    @pytest.mark.parametrize("prompts", [7, [3.5], None])
    def test_not_a_prompt(self, model, tokenizer, prompts):
        with pytest.raises(ValueError, match="prompts must be text, chats"):
            guide.encode(model, tokenizer, prompts)

    def test_template_arguments_without_a_chat(self, model, tokenizer):
        with pytest.raises(ValueError, match="tools must go with a chat"):
            guide.encode(model, tokenizer, "say", tools=[])
        with pytest.raises(ValueError, match=r"tools must go with a chat, .* got tokens"):
            guide.encode(model, tokenizer, encode_text(tokenizer, "say"), tools=[])

    def test_tokens_are_never_cut(self, model, tokenizer):
        encoding = encode_text(tokenizer, "say it <!!->twice<-!!>")
        tokens = len(encoding.input_ids)
        assert guide.encode(model, tokenizer, encoding, max_length=tokens)["input_ids"].any()
        with pytest.raises(ValueError, match=f"at least the {tokens} tokens of an Encoding"):
            guide.encode(model, tokenizer, encoding, max_length=tokens - 1)

    def test_tags(self, model, tokenizer):
        with pytest.raises(TagError):
            guide.encode(model, tokenizer, "say <!!->it")
        chat = [{"role": "assistant", "content": "<!!->it<-!!>"}]
        with pytest.raises(TagError):
            guide.encode(model, tokenizer, chat)

    def test_slow_tokenizer(self, model):
        class Slow:
            is_fast = False

        with pytest.raises(ValueError, match="fast"):
            guide.encode(model, Slow(), "say")

    def test_marked_token_cut_off(self, model, tokenizer):
        tokenizer.truncation_side = "right"
        with pytest.raises(ValueError, match="max_length=2 cuts the marked text"):
            guide.encode(model, tokenizer, "say it <!!->twice<-!!>", max_length=2)


class TestComplete:
    @pytest.mark.parametrize("temperature", [-1.0, 1e-40, math.nan, math.inf])
    def test_temperature(self, model, tokenizer, temperature):
        with pytest.raises(ValueError, match=r"temperature must be 0 \(greedy\) or a finite"):
            guide.complete(model, tokenizer, ["say it"], temperature=temperature)

    @pytest.mark.parametrize("seed", [1.5, True, None, 1 << 64, -(1 << 64)])
    def test_seed(self, model, tokenizer, seed):
        with pytest.raises(ValueError, match="seed must be a whole number of 64 bits, got"):
            guide.complete(model, tokenizer, ["say it"], seed=seed)

    def test_writes_no_further_than_the_model_knows_positions(self, tokenizer):
        model = guide.enable(models.make("gpt2", max_position_embeddings=8))
        asked = []
        handle = model.register_forward_pre_hook(lambda *_: asked.append(1))
        guide.complete(model, tokenizer, ["say it twice"], max_new_tokens=50)
        assert len(asked) == 8 - 3
        with pytest.raises(ValueError, match=r"fewer tokens than the 8 .* got 9; shorten"):
            guide.complete(model, tokenizer, ["say it twice " * 3])
        handle.remove()

    @pytest.mark.parametrize("prompts", ["say it", [{"role": "user", "content": "say it"}]])
    def test_single_prompt(self, model, tokenizer, prompts):
        with pytest.raises(ValueError, match=r"prompts must be a list .* write \[prompt\]"):
            guide.complete(model, tokenizer, prompts)


class TestLoad:
    @pytest.mark.parametrize("dtype", [None, torch.float32, "float7", "float8_e4m3fn", "int8"])
    def test_dtype(self, dtype):
        with pytest.raises(ValueError, match="dtype must be one of 'auto', 'float32'"):
            guide.load("no such folder", dtype=dtype)

    def test_device_without_numbers(self):
        with pytest.raises(ValueError, match="got 'meta', which holds no numbers"):
            guide.load("no such folder", device="meta")


class TestLoadEmbedded:
    def test_no_model_there(self, tmp_path):
        message = re.escape(f"the embedded model must be in {tmp_path}, got no config.json there")
        with pytest.raises(FileNotFoundError, match=message):
            guide.load_embedded(tmp_path)

    def test_another_folder(self, tmp_path, tokenizer):
        model = models.make("mistral")
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded, words = guide.load_embedded(tmp_path)
        assert guide.is_enabled(loaded)
        assert not loaded.training
        assert words("say it").input_ids == [1, 2]
        wanted = models.reference_logits(model, models.prompts(), models.marks())
        found = logits(loaded, models.prompts(), guide_bias=models.marks())
        models.assert_logits_close(found, wanted, models.prompts()["attention_mask"])
