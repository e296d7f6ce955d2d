# SPDX-License-Identifier: MIT
"""Sentinels: unique characters at the edges of spans that show what a chat template did to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter

from guide_ext.marking.marked_text import MarkedText, Span, quote

_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_CONTEXT = 20  # characters around a difference that an error message quotes


@dataclass(frozen=True)
class Mark:
    """One span of one message: which message, its clean text, the span in it."""

    where: str
    text: str
    span: Span

    def error(self, problem: str, advice: str) -> ValueError:
        """Return an error about this span."""
        quoted = quote(self.text, self.span)
        return ValueError(f"{self.where}: {problem} the marked text {quoted}; {advice}")


def unused(used: Collection[str], pairs: int) -> list[str]:
    """Return two private-use characters for every pair, none of them in use.

    Raises:
        ValueError: If there are not enough of them.

    """
    free = (char for char in map(chr, chain(*_PRIVATE_USE)) if char not in used)
    sentinels = list(islice(free, 2 * pairs))
    if len(sentinels) < 2 * pairs:
        msg = (
            f"the chat has {pairs} marked spans, more than there are unused private-use characters"
        )
        raise ValueError(msg)
    return sentinels


def with_edges(text: MarkedText, edges: Iterator[str]) -> str:
    """Return the text with two sentinels from `edges` around each of its spans."""
    inserts = [(place, next(edges)) for span in text.spans for place in (span.start, span.end)]
    inserts.sort(key=itemgetter(0))
    pieces = []
    cursor = 0
    for place, edge in inserts:
        pieces += [text.text[cursor:place], edge]
        cursor = place
    return "".join([*pieces, text.text[cursor:]])


def located(
    clean: str,
    rendered: str,
    marks: Sequence[Mark],
    sentinels: Sequence[str],
    writer: str = "the chat template",
) -> MarkedText:
    """Return the clean rendering with a span wherever the other one has a pair of sentinels.

    Args:
        clean: The chat, rendered without sentinels.
        rendered: The same chat, rendered with them.
        marks: The spans that were asked for.
        sentinels: Two for each mark, in the order of the marks.
        writer: What rendered it, for the errors.

    Raises:
        ValueError: If the template changes its output because of the sentinels, or drops, cuts or
            reorders a marked text.

    """
    places: dict[str, list[int]] = {sentinel: [] for sentinel in sentinels}
    kept: list[str] = []
    for char in rendered:
        if char in places:
            places[char].append(len(kept))
        else:
            kept.append(char)
    stripped = "".join(kept)
    if stripped != clean:
        raise ValueError(_difference(clean, stripped, writer))
    spans = [
        mark.span.at(start, end)
        for index, mark in enumerate(marks)
        for start, end in _copies(
            mark, places[sentinels[2 * index]], places[sentinels[2 * index + 1]], writer
        )
    ]
    return MarkedText(clean, tuple(spans))


def _copies(mark: Mark, starts: list[int], ends: list[int], writer: str) -> list[tuple[int, int]]:
    """Return every range that one span has in the rendered text; templates may repeat a text."""
    if not starts and not ends:
        raise mark.error(
            f"{writer} leaves out",
            "remove the mark, or use a template that keeps this text",
        )
    edges = list(chain.from_iterable(zip(starts, ends, strict=False)))
    if len(starts) != len(ends) or edges != sorted(edges):
        raise mark.error(
            f"{writer} cuts or reorders",
            "mark a part that it keeps whole, or mark the rendered text yourself",
        )
    return list(zip(starts, ends, strict=True))


def _difference(clean: str, stripped: str, writer: str) -> str:
    pairs = enumerate(zip(clean, stripped, strict=False))
    shorter = min(len(clean), len(stripped))
    place = next((index for index, (one, other) in pairs if one != other), shorter)
    before, after = (
        text[max(0, place - _CONTEXT) : place + _CONTEXT] for text in (clean, stripped)
    )
    return (
        f"{writer} changes text depending on the characters in it, so marks cannot be "
        f"followed: at character {place} it renders {before!r} without and {after!r} with markers; "
        "mark whole words or whole messages, or render the chat yourself with "
        "apply_chat_template(..., tokenize=False), mark the result with mark(..., substring=...) "
        "and encode it with add_special_tokens=False"
    )
