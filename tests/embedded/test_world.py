# SPDX-License-Identifier: MIT
"""The world of the embedded model: its words, documents and grammar."""

import json
import random

import pytest
from embedded_cases import PROPERTY, SEEDS
from hypothesis import given
from hypothesis import strategies as st

from guide_ext.embedded import world
from guide_ext.embedded.world import Field


class TestWorld:
    def test_every_word_is_unique_in_its_slot_and_language(self):
        for words in (world.ROLES, world.VERBS, world.THINGS, world.PLACES):
            assert len({word.english for word in words}) == len(words)
            assert len({word.french for word in words}) == len(words)

    @PROPERTY
    @given(SEEDS)
    def test_right_answers_are_grammatical_and_in_their_language(self, seed):
        event = world.random_event(random.Random(seed))
        assert world.is_summary(event.english())
        assert world.is_summary(event.french())
        assert world.language(event.english()) == "english"
        assert world.language(event.french()) == "french"

    @PROPERTY
    @given(SEEDS, st.integers(1, 40))
    def test_documents_tell_their_event_and_hold_no_french(self, seed, length):
        rng = random.Random(seed)
        event = world.random_event(rng)
        sentences = world.document(rng, event, length)
        assert len(sentences) == length
        assert all(word.english in sentences[0] for word in event.slots)
        words = set(" ".join(sentences).replace(".", "").replace(",", "").split())
        assert not words & {"le", "la", "Le", "La", "dans"}
        assert "<" not in " ".join(sentences)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Le boulanger cache la clé dans la grange",
            "le boulanger cache la clé dans la grange.",
            "La boulanger cache la clé dans la grange.",
            "Le boulanger cache la clé dans la clé.",
            "Le boulanger cache la clé dans la grange. Le",
            "Le baker cache la clé dans la grange.",
            "The baker hides the key in the barn. ",
            "The baker cache the key in the barn.",
            "The baker hides the key in the barn.\n",
        ],
    )
    def test_near_misses_are_no_summaries(self, text):
        assert not world.is_summary(text)

    def test_language_of_salad_and_of_neither(self):
        assert world.language("le le dans le pain la") == "french"
        assert world.language("the the in bread") == "english"
        assert world.language("qwerty uiop the") == "other"
        assert world.language("") == "other"

    def test_hidden_sentence_can_be_anywhere(self):
        found = {world.hide(random.Random(seed), ["a", "b"], "x").index("x") for seed in range(30)}
        assert found == {0, 1, 2}

    @pytest.mark.parametrize(
        "text", ['{"a": 1', '["a"]', "x", "", '{"a": 1, "a": 2}', '{"a": 1} .']
    )
    def test_text_that_is_not_one_object(self, text):
        assert world.parse_object(text) is None


def test_field_and_schema_name_the_same_keys():
    event = world.random_event(random.Random(0))
    fields = (Field(3, "place"), Field(0, "hero"))
    assert world.schema(fields) == '<schema> {"place": string, "hero": string} </schema>'
    assert json.loads(world.json_answer(fields, event)) == {
        "place": event.place.english,
        "hero": event.role.english,
    }
