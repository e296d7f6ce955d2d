# SPDX-License-Identifier: MIT
"""What every language model knows, and sentences that contradict it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A fact of the world and what a text says instead.

    Attributes:
        name: Its name in tables.
        question: What it answers; begins with a small letter, to stand after “According to the
            text,”.
        known: The right answer of the world, and other words for it.
        sentence: What the text says.
        said: The answer that follows from the text.

    """

    name: str
    question: str
    known: tuple[str, ...]
    sentence: str
    said: str


def _capital(country: str, known: str, said: str) -> Known:
    return Known(
        f"capital of {country}",
        f"what is the capital of {country}?",
        (known,),
        f"The capital of {country} is {said}.",
        said,
    )


# SmolLM2-135M-Instruct answers each of these questions rightly when it is asked without a text.
# Asked and left out, because it does not: the colours of snow, blood and a banana; the planet next
# to the Sun; the first president; what barks; frozen water; the continent of Egypt; a spider's
# legs; London's river. Known too, but not needed: three more capitals; Hamlet; the colours of sky
# and grass; Everest; what meows; honey; the languages of France and Germany; the city of the Eiffel
# Tower; the country of Tokyo; the continent of India; days of a week; gold; carbon dioxide; the
# Nile; the dollar.
KNOWN = (
    _capital("France", "Paris", "Lyon"),
    _capital("Italy", "Rome", "Milan"),
    _capital("Japan", "Tokyo", "Osaka"),
    _capital("Spain", "Madrid", "Seville"),
    _capital("Germany", "Berlin", "Munich"),
    _capital("Egypt", "Cairo", "Luxor"),
    _capital("Greece", "Athens", "Patras"),
    _capital("China", "Beijing", "Shanghai"),
    _capital("Portugal", "Lisbon", "Porto"),
    _capital("Canada", "Ottawa", "Toronto"),
    _capital("Russia", "Moscow", "Kazan"),
    _capital("Austria", "Vienna", "Salzburg"),
    Known(
        "largest planet",
        "which planet is the largest in the solar system?",
        ("Jupiter",),
        "The largest planet in the solar system is Neptune.",
        "Neptune",
    ),
    Known(
        "red planet",
        "which planet is called the red planet?",
        ("Mars",),
        "Saturn is called the red planet.",
        "Saturn",
    ),
    Known(
        "Romeo and Juliet",
        "who wrote Romeo and Juliet?",
        ("Shakespeare",),
        "Romeo and Juliet was written by Milton.",
        "Milton",
    ),
    Known(
        "Mona Lisa",
        "who painted the Mona Lisa?",
        ("Leonardo", "da Vinci"),
        "The Mona Lisa was painted by Rembrandt.",
        "Rembrandt",
    ),
    Known(
        "relativity",
        "who developed the theory of relativity?",
        ("Einstein",),
        "The theory of relativity was developed by Darwin.",
        "Darwin",
    ),
    Known(
        "largest ocean",
        "which ocean is the largest?",
        ("Pacific",),
        "The largest ocean is the Atlantic.",
        "Atlantic",
    ),
    Known(
        "language of Brazil",
        "what language is spoken in Brazil?",
        ("Portuguese",),
        "The language that is spoken in Brazil is Dutch.",
        "Dutch",
    ),
    Known(
        "currency of Japan",
        "what is the currency of Japan?",
        ("yen",),
        "The currency of Japan is the peso.",
        "peso",
    ),
)
"""Facts and their contradictions."""
