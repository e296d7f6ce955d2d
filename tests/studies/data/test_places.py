# SPDX-License-Identifier: MIT
"""Where a sentence is hidden in a text."""

import random

import pytest

from guide_ext.studies.data.places import around, border_apart, border_at, borders, hidden

PARAGRAPHS = "One is first. Two, e.g. a pair!\n\nA title\n \nThree? Yes."


def test_borders_are_ends_of_sentences_and_paragraphs():
    ends = [PARAGRAPHS[:end] for end in borders(PARAGRAPHS)]
    assert [end.split()[-1] for end in ends] == ["first.", "pair!", "title", "Three?", "Yes."]
    assert borders("") == borders("no end") == []
    assert borders("Version 3.14 of it. 2 more.") == [19, 27]


def test_a_depth_moves_up_to_a_border():
    text = " ".join(f"This is sentence {n}." for n in range(100))
    for step in range(1, 11):
        place = border_at(text, step / 10)
        assert place in borders(text)
        assert step / 10 - 0.02 <= place / len(text) <= step / 10
    assert border_at("no end at all", 0.9) == 0
    assert border_at("no end at all", 1.0) == 13


@pytest.mark.parametrize("place", [0, 13, 31, len(PARAGRAPHS)])
def test_another_place_is_a_border_far_away(place):
    found = {border_apart(PARAGRAPHS, place, random.Random(seed)) for seed in range(50)}
    assert len(found) > 2
    assert found <= {0, *borders(PARAGRAPHS)}
    assert all(abs(one - place) >= 0.1 * len(PARAGRAPHS) for one in found)


def test_paragraphs_stay_paragraphs():
    first = PARAGRAPHS.index("\n")
    assert around(PARAGRAPHS, first) == (PARAGRAPHS[:first] + "\n\n", PARAGRAPHS[first:])
    assert around(PARAGRAPHS, 13) == (PARAGRAPHS[:13] + " ", PARAGRAPHS[13:])
    assert around("One.", 0) == ("", " One.")
    assert around("One.", 4) == ("One. ", "")


def test_the_text_is_whole_wherever_the_two_sentences_stand():
    every = [0, *borders(PARAGRAPHS)]
    for place in every:
        for other in every:
            if place == other:
                continue
            before, after = hidden(PARAGRAPHS, place, "Other.", other)
            whole = f"{before}@{after}"
            assert whole.count("Other.") == 1
            without = whole.replace("Other.", " ").replace("@", " ")
            assert without.split() == PARAGRAPHS.split()
            assert (whole.index("Other.") < len(before)) == (other < place)
            start = before.replace("Other.", " ")
            assert start.split() == PARAGRAPHS[:place].split()
            up_to_other = whole[: whole.index("Other.")].replace("@", " ")
            assert up_to_other.split() == PARAGRAPHS[:other].split()
