# SPDX-License-Identifier: MIT
"""Sentences to hide in a text, each with the question that it alone answers.

The first is the paper's. The others have one of several answers, drawn anew for each document, so
that no answer can be right for all of them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A sentence with a gap for its answer, and the question.

    Attributes:
        name: Its name in tables.
        sentence: The sentence, with ``{}`` in place of its answer.
        question: The question that it answers.
        answers: Words that can stand in the gap.
        in_one_word: Whether the question wants one word.

    """

    name: str
    sentence: str
    question: str
    answers: tuple[str, ...]
    in_one_word: bool = True

    def drawn(self, rng: random.Random) -> tuple[str, str]:
        """Draw an answer; return the sentence with it, and the answer.

        Example:
            >>> FACTS[1].drawn(random.Random(1))
            ('By the way, the password of the blue door is maple.', 'maple')

        """
        answer = rng.choice(self.answers)
        return self.sentence.format(answer), answer


ASIDE = "By the way, "
"""How a sentence begins that does not belong in its text; answers leave it out."""
PAPERS_FACT = Fact(
    "the paper's",
    "The best thing to do in San Francisco is eat a sandwich and sit in {} Park on a sunny day.",
    "What is the best thing to do in San Francisco?",
    ("Dolores",),
    in_one_word=False,
)
"""The paper's own sentence and question."""
FACTS = (
    PAPERS_FACT,
    Fact(
        "password",
        ASIDE + "the password of the blue door is {}.",
        "What is the password of the blue door?",
        ("falcon", "anchor", "maple", "lantern", "copper", "thunder", "velvet", "pebble"),
    ),
    Fact(
        "keeper",
        ASIDE + "the keeper of the old lighthouse is called {}.",
        "What is the keeper of the old lighthouse called?",
        ("Marta", "Edgar", "Helena", "Oscar", "Ingrid", "Tobias", "Clara", "Viktor"),
    ),
    Fact(
        "city",
        ASIDE + "the gardeners will hold their next meeting in {}.",
        "In which city will the gardeners hold their next meeting?",
        ("Lisbon", "Oslo", "Vienna", "Dublin", "Prague", "Athens", "Warsaw", "Helsinki"),
    ),
    Fact(
        "code",
        ASIDE + "the code of the safe in the cellar is {}.",
        "What is the code of the safe in the cellar?",
        ("4172", "9306", "2581", "7649", "6035", "8214", "5093", "3860"),
    ),
    Fact(
        "colour",
        ASIDE + "the boat of the fisherman is painted {}.",
        "Which colour is the boat of the fisherman painted?",
        ("red", "green", "yellow", "orange", "purple", "brown", "pink", "white"),
    ),
)
"""The facts, each as often as every other."""


def says(text: str, word: str) -> bool:
    """Return whether a text has a word, in whatever case.

    Args:
        text: The text.
        word: A word; not empty, which every text would have.

    Raises:
        ValueError: If the word is empty.

    Example:
        >>> says("It is FALCON.", "falcon"), says("It is falconry.", "falcon")
        (True, False)

    """
    if not word.strip():
        raise ValueError(f"word must be a word to look for, got {word!r}")
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
