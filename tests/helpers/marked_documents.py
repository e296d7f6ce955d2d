# SPDX-License-Identifier: MIT
"""Texts full of tag fragments, documents with known marks, and which tokens those must be."""

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from guide_ext.tokens import Encoding, encode

FRAGMENTS = [
    *("<!->", "<-!>", "<!!->", "<-!!>", "<!!!->", "<-!!!>", "<!2.5->", "<!-1->", "<!nan->"),
    *("<?->", "<-?>", "<?a->", "<-?a>", "<!!!!->", "<-!2>", "<!--", "-->", "<!-->", "<?php $a->b"),
    *("<", ">", "!", "-", "?", "\\", "\\\\", "a", "é", " ", "\n", "👨‍👩‍👧", "1", "."),
]
TAG_SOUP = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)

# Pieces that tokenizers treat differently; none can be part of a tag or an escape.
WORDS = [
    *("French", "Summarize", "in", "un", "believ", "able", "x", "3.14", "{", '"key":', ", ", "-"),
    *(
        "é",
        "e\u0301",
        "naïve",
        "Œuvre",
        "ß",
        "Москва",
        "ё",
        "总结",
        "日",
        "नि",
        "שלום",
        "مرحبا",
        "ﬁ",
    ),
    *("😀", "👋🏽", "👨‍👩‍👧‍👦", "🇫🇷", "\u200d", "\ufeff", "\u0301", "\ue000", "\U000f0000", "\x00"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000"),
]


def outcome(function, *arguments, **options):
    """Return what a call returns, or the ValueError that it raises."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        return error


@dataclass(frozen=True)
class Document:
    """A tagged text and what parsing and tokenising it must give.

    Attributes:
        source: The text with tags.
        text: The text without.
        marks: Per span, in order of the opening tags: its delta (all different powers of two, so
            that sums tell which spans were added) and its non-space characters, as indices in text.

    """

    source: str
    text: str
    marks: tuple[tuple[float, frozenset[int]], ...]


@st.composite
def marked_documents(draw, words=WORDS, max_depth=3):
    """Draw a document with nested and neighbouring spans of every stated strength."""
    source: list[str] = []
    text: list[str] = []
    marks: list[tuple[float, list[int]]] = []
    word_lists = st.lists(st.sampled_from(words), max_size=4).map("".join)

    def write(piece):
        source.append(piece)
        text.extend(piece)

    def write_span(depth):
        delta = 2.0 ** (len(marks) - 8)
        entry = (delta, start := len(text))
        index = len(marks)
        marks.append(entry)
        source.append(f"<!{delta!r}->")
        write(draw(word_lists))
        if depth < max_depth and draw(st.booleans()):
            write_span(depth + 1)
        if all(char.isspace() for char in text[start:]):
            write("w")
        write(draw(word_lists))
        source.append("<-!>")
        marks[index] = (
            delta,
            frozenset(place for place in range(start, len(text)) if not text[place].isspace()),
        )

    for _ in range(draw(st.integers(0, 3))):
        write(draw(word_lists))
        write_span(1)
    write(draw(word_lists))
    return Document("".join(source), "".join(text), tuple(marks))


def expected_tokens(encoding, inked, special):
    """The overlap rule, character by character: tokens that stand for a character of the span."""
    covered = set(range(min(inked), max(inked) + 1))
    return {
        index
        for index, (start, end) in enumerate(encoding.offsets)
        if encoding.input_ids[index] not in special and covered & set(range(start, end))
    }


def check_marks(tokenizer, document):
    """Check what is encoded of a document: the ids of its clean text, and each mark's tokens."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = tokenizer(document.text, return_offsets_mapping=True)
    offsets = [tuple(pair) for pair in plain["offset_mapping"]]
    reference = Encoding(plain["input_ids"], offsets, document.text, (), ())
    tokens = [expected_tokens(reference, inked, special) for _, inked in document.marks]
    if not all(tokens):
        with pytest.raises(ValueError, match="matches no token"):
            encode(tokenizer, document.source)
        return
    encoding = encode(tokenizer, document.source)
    assert encoding.input_ids == plain["input_ids"]
    assert encoding.offsets == offsets
    assert encoding.text == document.text
    nats = [0.0] * len(offsets)
    for (delta, _), members in zip(document.marks, tokens, strict=True):
        for index in members:
            nats[index] += delta
    assert encoding.nats(1.0) == nats
