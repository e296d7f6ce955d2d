# SPDX-License-Identifier: MIT
"""JSON of answers where tokens have no text of their own."""

import json

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from guide_ext.integration.answer_rows import Likely
from guide_ext.serve.wire import Answer, ChatWire, TextWire, event

BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}


def tokenizer():
    found = Tokenizer(models.BPE(BYTES, [], byte_fallback=True))
    found.decoder = decoders.ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=found)


def test_likely_tokens_of_one_text_are_all_there():
    """The first bytes of characters all look alike."""
    likely = Likely(0xE4, -1.0, ((0xE4, -1.0), (0xE5, -2.0), (0x41, -3.0), (0xE6, -4.0)))
    (found,) = TextWire("m", tokenizer()).choice(Answer(0, "", [likely]))["logprobs"][
        "top_logprobs"
    ]
    assert found == {"\ufffd": -1.0, "token_id:229": -2.0, "A": -3.0, "token_id:230": -4.0}


def test_a_part_of_a_character_has_no_known_bytes():
    likely = [Likely(0xE4, float("-inf")), Likely(0x41, -1.0)]
    found = ChatWire("m", tokenizer()).choice(Answer(0, "", likely))["logprobs"]["content"]
    assert [one["bytes"] for one in found] == [None, [0x41]]
    assert found[0]["logprob"] == -9999.0


def test_an_event_is_one_line_whatever_is_in_it():
    text = "a\u2028b\u2029c\u0085d\n\U0001f600"
    shown = event({"text": text})
    assert len(shown.splitlines()) == 2
    assert json.loads(shown.removeprefix("data: ")) == {"text": text}


def test_tokens_of_a_stream_begin_where_the_last_ended():
    wire = TextWire("m", tokenizer())
    likely = Likely(0x41, -1.0)

    def places(index, *pieces):
        choices = [wire.piece(Answer(index, "", [likely] * count)) for count in pieces]
        return [choice["logprobs"]["text_offset"] for choice in choices]

    assert places(0, 2, 1) == [[0, 1], [2]]
    assert places(1, 1) == [[0]]  # each answer of a request counts for itself
