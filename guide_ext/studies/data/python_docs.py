# SPDX-License-Identifier: MIT
"""Texts that every machine has: the documentation inside Python, as documents of any length.

CPython brings the language reference along as plain text, for ``help()``: `pydoc_data.topics`. Its
prose is a text that people wrote and that models have read, not one that was constructed.

A document is a run of whole paragraphs in their order, of one topic and then of another, so that it
reads as a text does: what comes next mostly follows from what came before, as in a book. Paragraphs
in random order would be easier to cut but have no thread, and a sentence that does not belong there
would not stand out.

The source is small: some 30,000 words, about 40,000 tokens. The documents of one range of lengths
share no paragraph until all have been used. Beyond that, and between ranges, documents share
paragraphs; they are never equal.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.studies.data.documents import PYTHON_DOCS, Document
from guide_ext.studies.data.prose import paragraphs_of
from guide_ext.support.extras import MissingPackageError

SHORTEST_DOCUMENT = 60
"""In tokens; less is no text."""

_BREAK = "\n\n"
_AHEAD = 24  # paragraphs that are looked at for one that ends a document at its length
_TRIES = 100


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of prose.

    Attributes:
        topic: The topic that it is from, as ``help()`` names it, more or less.
        text: The paragraph, on one line.

    """

    topic: str
    text: str


def paragraphs(topics: Mapping[str, str] | None = None) -> tuple[Paragraph, ...]:
    r"""Return the prose of Python's documentation, each paragraph once.

    Args:
        topics: Texts by topic; None for those of this Python.

    Returns:
        Paragraphs, by topic and in the order of the text. A paragraph that several topics have
        is listed with the first of them.

    Raises:
        MissingPackageError: If this Python lacks its documentation.

    Example:
        >>> found = paragraphs()
        >>> len(found) > 500
        True
        >>> next(p.text for p in found if p.topic == "objects").partition(". ")[0]
        'Objects are Python’s abstraction for data'

        As a text to hide a sentence in:

        >>> text = "\n\n".join(p.text for p in found if p.topic == "objects")

    """
    if topics is None:
        return _of_this_python()
    found: dict[str, Paragraph] = {}
    for topic in sorted(topics):
        for text in paragraphs_of(topics[topic]):
            found.setdefault(text, Paragraph(topic, text))
    return tuple(found.values())


@functools.cache
def _of_this_python() -> tuple[Paragraph, ...]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise MissingPackageError(
            f"pydoc_data must be in Python's standard library for the texts {PYTHON_DOCS!r}, got a "
            f"Python {version} without it; install the whole library (on Debian: apt install "
            f"libpython{version}-stdlib), or name other texts"
        ) from None
    return paragraphs(topics)


def digest() -> str:
    """Return the SHA-256 of all paragraphs, which tells the documentation of versions apart.

    Raises:
        MissingPackageError: If this Python lacks its documentation.

    Example:
        >>> len(digest())
        64

    """
    whole = hashlib.sha256()
    for paragraph in paragraphs():
        whole.update(f"{paragraph.topic}\n{paragraph.text}\n".encode())
    return whole.hexdigest()


def origin() -> str:
    """Say in words which documentation the texts are from.

    Example:
        >>> origin().startswith("documentation in Python 3.")
        True

    """
    return f"documentation in Python {platform.python_version()}"


def documents(
    lengths: Sequence[tuple[int, int]],
    per_length: int,
    seed: int,
    *,
    tokenizer: Any,
    source: Sequence[Paragraph] | None = None,
) -> list[Document]:
    r"""Make documents of wanted lengths.

    Each has a length that is drawn evenly from its range, and met to a few tokens by whole
    paragraphs with an empty line between. The same arguments give the same documents, and more
    documents or other ranges do not change those that there are. Another tokenizer or another
    version of Python does. How much they share: see the text at the top of this file.

    Args:
        lengths: Ranges ``(from, to]`` in tokens. No document has less than `SHORTEST_DOCUMENT`.
        per_length: Number of documents in each range.
        seed: Seed of their lengths and paragraphs.
        tokenizer: Counts tokens, without special ones.
        source: Paragraphs; None for those of this Python.

    Returns:
        Documents without a reference, range by range. Their ids have seed, end of the range, and
        number.

    Raises:
        ValueError: If a range cannot be met.
        MissingPackageError: If this Python lacks its documentation.

    Example:
        >>> class Words:
        ...     def encode(self, text, *, add_special_tokens):
        ...         return text.split()
        >>> short, long = documents([(0, 100), (400, 500)], 1, 42, tokenizer=Words())
        >>> short.id, long.id
        ('python-docs:seed42:100:1', 'python-docs:seed42:500:1')
        >>> 60 <= len(short.text.split()) <= 100, 400 < len(long.text.split()) <= 500
        (True, True)

    """
    source = paragraphs() if source is None else source
    if not source:
        raise ValueError("source must have paragraphs, got none")
    measured = _Measured(source, tokenizer)
    made = []
    for low, high in lengths:
        measured.check_range(low, high)
        rng = random.Random(f"{PYTHON_DOCS} {seed} {low} {high}")
        deck = _Deck(measured, rng)
        known: set[str] = set()
        for number in range(1, per_length + 1):
            text = _new_text(deck, low, high, rng, known)
            if text is None:
                raise ValueError(
                    f"documents of ({low}, {high}] tokens must be at most {len(known)}, as many as "
                    f"{PYTHON_DOCS!r} was seen to have, got {per_length}; ask for fewer, or for a "
                    "wider range"
                )
            known.add(text)
            made.append(Document(f"{PYTHON_DOCS}:seed{seed}:{high}:{number}", text))
    return made


class _Measured:
    """Paragraphs and their lengths."""

    def __init__(self, source: Sequence[Paragraph], tokenizer: Any) -> None:
        self.texts = [paragraph.text for paragraph in source]
        self.tokenizer = tokenizer
        self.sizes = [self.count(text) for text in self.texts]
        topics: dict[str, list[int]] = {}
        for index, paragraph in enumerate(source):
            topics.setdefault(paragraph.topic, []).append(index)
        self.topics = list(topics.values())
        # Of an empty line; what a tokenizer merges across it, or not, is a token or two.
        pair = self.texts[:2]
        self.between = self.count(_BREAK.join(pair)) - sum(map(self.count, pair))

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def check_range(self, low: int, high: int) -> None:
        shortest = max(SHORTEST_DOCUMENT, min(self.sizes))
        longest = sum(self.sizes) + self.between * (len(self.sizes) - 1)
        if not (shortest <= high <= longest and 0 <= low < high):
            raise ValueError(
                f"lengths must be ranges of tokens that end between {shortest} and {longest}, a "
                f"paragraph and all of {PYTHON_DOCS!r}, got ({low}, {high}]"
            )


class _Deck:
    """All paragraphs again and again: topics in a new random order each time, each as it is.

    Paragraphs are dealt in this order. One that is passed over stays on top, so that all are used
    about equally often.
    """

    def __init__(self, measured: _Measured, rng: random.Random) -> None:
        self.measured = measured
        self.rng = rng
        self.waiting: list[int] = []

    def ahead(self, chosen: list[int], count: int | None) -> list[int]:
        """Return the next paragraphs that a document does not have yet; None for all."""
        left = len(self.measured.texts) - len(chosen)
        wanted = left if count is None else min(count, left)
        while True:
            found = dict.fromkeys(index for index in self.waiting if index not in chosen)
            if len(found) >= wanted:
                return list(found)[:wanted]
            topics = list(self.measured.topics)
            self.rng.shuffle(topics)
            self.waiting += [index for topic in topics for index in topic]

    def deal(self, chosen: list[int]) -> None:
        """Take the paragraphs of a document away."""
        for index in chosen:
            self.waiting.remove(index)


def _new_text(deck: _Deck, low: int, high: int, rng: random.Random, known: set[str]) -> str | None:
    """Return a text of a length in the range that is not known yet; None if none is found."""
    measured = deck.measured
    for attempt in range(_TRIES):
        wanted = rng.randint(min(max(low + 1, SHORTEST_DOCUMENT), high), high)
        # If those that come next do not do, look at all.
        chosen = _chosen(deck, wanted, None if attempt else _AHEAD)
        text = _BREAK.join(measured.texts[index] for index in chosen)
        if max(low + 1, SHORTEST_DOCUMENT) <= measured.count(text) <= high and text not in known:
            deck.deal(chosen)
            return text
    return None


def _chosen(deck: _Deck, wanted: int, count: int | None) -> list[int]:
    """Choose paragraphs of about so many tokens together.

    They are taken in order while they fit. The last is the one that comes closest to the length.
    """
    sizes, between = deck.measured.sizes, deck.measured.between
    chosen: list[int] = []
    room = wanted
    while True:
        near = deck.ahead(chosen, count)
        if not near:
            return chosen
        room -= between * bool(chosen)
        if sizes[near[0]] <= room:
            chosen.append(near[0])
            room -= sizes[near[0]]
            continue
        last = min(near, key=lambda index: abs(sizes[index] - room))
        if not chosen or abs(sizes[last] - room) < room:
            chosen.append(last)
        return chosen
