# SPDX-License-Identifier: MIT
"""Hide sentences in a text: where its own sentences end, and what stands around a new one."""

from __future__ import annotations

import random
import re

# The end of a sentence, but not of “e.g.” before a small letter; or the end of a paragraph.
_BORDER = re.compile(r"[.!?](?=\s+[^\sa-z]|\s*\Z)|\S(?=[ \t]*\n[ \t]*\n)")
_PARAGRAPH_END = re.compile(r"[ \t]*\n[ \t]*\n")
_LEAST_APART = 0.1


def borders(text: str) -> list[int]:
    """Return where the sentences and paragraphs of a text end.

    Example:
        >>> borders("One, i.e. the first. Two!" + chr(10) * 2 + "A title" + chr(10) * 2 + "Three")
        [20, 25, 34]

    """
    return [match.end() for match in _BORDER.finditer(text)]


def border_at(text: str, depth: float) -> int:
    """Return the last border at or before a depth; the start of the text if there is none.

    Args:
        text: The text.
        depth: From 0 at its start to 1 at its end; the end is a border even within a sentence.

    Example:
        >>> border_at("One. Two. Three", 0.5), border_at("One. Two. Three", 1.0)
        (4, 15)

    """
    if depth >= 1:
        return len(text)
    wanted = round(depth * len(text))
    return max((end for end in borders(text) if end <= wanted), default=0)


def border_apart(text: str, place: int, rng: random.Random) -> int:
    """Draw a border at least a tenth of the text from a place; without one, the far end.

    Example:
        >>> border_apart("One. Two. Three.", 16, random.Random(0)) < 15
        True
        >>> border_apart("One", 3, random.Random(0))
        0

    """
    every = [0, *borders(text), len(text)]
    far = [end for end in every if abs(end - place) >= _LEAST_APART * len(text) and end != place]
    return rng.choice(far) if far else max(every, key=lambda end: abs(end - place))


def around(text: str, place: int) -> tuple[str, str]:
    """Split a text where a sentence goes in: a paragraph of its own between two paragraphs.

    Returns:
        What stands before the sentence and after it, with the white space in between.

    Example:
        >>> around("One. Two.", 4)
        ('One. ', ' Two.')

    """
    head, tail = text[:place], text[place:]
    if not head:
        return "", tail if tail[:1].isspace() else f" {tail}"
    if _PARAGRAPH_END.match(tail):
        return f"{head}\n\n", tail
    return f"{head} ", tail if not tail or tail[0].isspace() else f" {tail}"


def hidden(text: str, place: int, other: str, other_place: int) -> tuple[str, str]:
    """Split a text around a hidden sentence, with another sentence in it.

    Args:
        text: The text.
        place: Where the hidden sentence goes.
        other: The other sentence.
        other_place: Where that goes, in the text as it is.

    Returns:
        What stands before the hidden sentence and after it.

    Example:
        >>> hidden("One. Two. Three.", 9, "Other!", 4)
        ('One. Other! Two. ', ' Three.')

    """
    before, after = around(text, place)
    if other_place < place:
        start, end = around(before, other_place)
        return f"{start}{other}{end}", after
    start, end = around(after, len(after) - (len(text) - other_place))
    return before, f"{start}{other}{end}"


def beside(before: str, after: str, share: float) -> tuple[str, str]:
    """Return the text on either side of a hidden sentence, in whole sentences.

    Args:
        before: What stands before the sentence.
        after: What stands after it.
        share: How much of all text the two make up, at least; half of it on either side, as far as
            there is text. At 1, all of it.

    Example:
        >>> beside("One. Two. Three. ", " Four. Five. Six.", 0.3)
        ('Three.', 'Four.')

    """
    if share >= 1:
        return before.strip(), after.strip()
    wanted = share / 2 * (len(before) + len(after))
    start = max((end for end in [0, *borders(before)] if len(before) - end >= wanted), default=0)
    stop = min((end for end in borders(after) if end >= wanted), default=len(after))
    return before[start:].strip(), after[:stop].strip()
