# SPDX-License-Identifier: MIT
"""The tokenizer of the embedded model: made again, and there and back."""

import json
import random

import pytest
from embedded_cases import PROPERTY, SEEDS
from hypothesis import given
from hypothesis import strategies as st

from guide_ext.embedded import model_path, world
from guide_ext.embedded.training import curriculum
from guide_ext.embedded.training.tokenizer import VOCAB_SIZE, chat, train_tokenizer
from guide_ext.embedded.world import Style


class TestTokenizer:
    def test_the_script_makes_the_shipped_tokenizer(self, tokenizer):
        assert json.loads(train_tokenizer().to_str()) == json.loads(tokenizer.to_str())

    @PROPERTY
    @given(SEEDS, st.sampled_from(curriculum.KINDS), st.integers(1, 30))
    def test_round_trip(self, tokenizer, seed, kind, length):
        example = curriculum.make_example(random.Random(seed), kind, length)
        for text in (example.prompt, f" {example.answer}"):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text
            assert len(ids) < len(text.encode()) / 2

    @PROPERTY
    @given(st.text())
    def test_any_text_round_trips(self, tokenizer, text):
        special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]")
        if not any(token in text for token in special):
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text

    def test_upper_case_instructions_are_as_short(self, tokenizer):
        for instruction in (world.FRENCH_INSTRUCTION, world.JSON_INSTRUCTION):
            plain, upper = (
                len(tokenizer.encode(style.apply(instruction)).ids)
                for style in (Style.PLAIN, Style.UPPER)
            )
            assert upper <= plain + 1

    def test_transformers_reads_it(self, tokenizer):
        transformers = pytest.importorskip("transformers")
        loaded = transformers.AutoTokenizer.from_pretrained(model_path())
        assert loaded.is_fast
        assert loaded.padding_side == "left"
        assert len(loaded) == VOCAB_SIZE
        prompt = "Summarize in French\nThe queen sees the dog."
        messages = [{"role": "user", "content": prompt}]
        assert loaded.apply_chat_template(messages, tokenize=False) == chat(prompt)
        ids = tokenizer.encode(chat(prompt), add_special_tokens=False).ids
        assert loaded(chat(prompt), add_special_tokens=False)["input_ids"] == ids
        assert loaded("The queen")["input_ids"][0] == loaded.bos_token_id
        messages.append({"role": "assistant", "content": "Oui."})
        assert loaded.apply_chat_template(messages, tokenize=False) == f"{chat(prompt)} Oui.</s>"
