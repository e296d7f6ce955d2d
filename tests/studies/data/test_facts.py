# SPDX-License-Identifier: MIT
"""Facts that are hidden in texts."""

import itertools
import random

import pytest

from guide_ext.studies.data.facts import FACTS, PAPERS_FACT, says


def test_the_papers_own_sentence():
    sentence, answer = PAPERS_FACT.drawn(random.Random(0))
    assert sentence == (
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
        "sunny day."
    )
    assert answer == "Dolores"


def test_only_the_own_sentence_answers_a_question():
    for fact, other in itertools.permutations(FACTS, 2):
        said = [other.sentence.format(answer) for answer in other.answers]
        for answer in fact.answers:
            assert says(fact.sentence.format(answer), answer)
            assert not any(says(sentence, answer) for sentence in said)
            assert not says(fact.sentence.format("") + fact.question, answer)
            assert sum(says(one, answer) for one in fact.answers) == 1
    assert all(len(set(fact.answers)) >= 8 for fact in FACTS[1:])
    assert len({fact.name for fact in FACTS}) == len(FACTS) == 6


@pytest.mark.parametrize("word", ["", " "])
def test_an_empty_word_is_refused(word):
    with pytest.raises(ValueError, match="word must be a word to look for"):
        says("anything", word)
