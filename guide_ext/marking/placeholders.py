# SPDX-License-Identifier: MIT
"""Placeholders of images in marked text, and what a processor puts in their place.

A processor replaces each placeholder by the tokens of its image, before it tokenises the text. So
marks move with the text behind a placeholder, and a mark around one marks all that replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from guide_ext.marking.marked_text import MarkedText, quote
from guide_ext.marking.tokens import Encoding, FastTokenizer, encode_spans


@dataclass(frozen=True)
class Expansion:
    """One placeholder and what replaces it.

    Attributes:
        start: First character of the placeholder.
        end: One past its last.
        text: What the processor writes instead.

    """

    start: int
    end: int
    text: str


def encode_expanded(
    tokenizer: FastTokenizer,
    marked: MarkedText,
    expansions: Sequence[Expansion],
    *,
    add_special_tokens: bool = True,
    max_length: int | None = None,
) -> Encoding:
    """Replace placeholders in marked text, tokenise it, and find the tokens of spans and images.

    Args:
        tokenizer: A fast tokenizer.
        marked: The text with its placeholders.
        expansions: One for each placeholder, in order.
        add_special_tokens: See `guide_ext.tokens.encode`.
        max_length: See `guide_ext.tokens.encode`; no image may be cut.

    Returns:
        The tokens of the expanded text; `images` has the tokens of each expansion.

    Raises:
        ValueError: If expansions overlap or leave the text, one is empty, a mark begins or ends
            inside a placeholder; or as `guide_ext.tokens.encode` does.

    Example:
        >>> from transformers import PreTrainedTokenizerFast
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from guide_ext.spans import parse
        >>> words = Tokenizer(models.WordLevel({"?": 0, "see": 1, "now": 2}, "?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> tokenizer.add_tokens(["<image>"])
        1
        >>> marked = parse("see <!!-><image><-!!> now")
        >>> encoding = encode_expanded(tokenizer, marked, [Expansion(4, 11, "<image>" * 3)])
        >>> encoding.nats(1.0), encoding.images
        ([0.0, 1.0, 1.0, 1.0, 0.0], ((1, 4),))

    """
    text = marked.text
    edges = [0, *(place for one in expansions for place in (one.start, one.end)), len(text)]
    if edges != sorted(edges) or any(one.start == one.end for one in expansions):
        raise ValueError(f"expansions must be in order and inside the text, got {list(expansions)}")
    for number, one in enumerate(expansions, 1):
        if not one.text:
            raise ValueError(f"encode: the processor puts nothing in the place of image {number}")
    refuse_cut_placeholders(marked, [(one.start, one.end) for one in expansions])
    pieces: list[str] = []
    images: list[tuple[int, int]] = []
    cursor = length = 0
    for one in expansions:
        begins = length + one.start - cursor
        length = begins + len(one.text)
        pieces += [text[cursor : one.start], one.text]
        images.append((begins, length))
        cursor = one.end

    def moved(edge: int) -> int:
        return edge + sum(
            len(one.text) - (one.end - one.start) for one in expansions if one.end <= edge
        )

    return encode_spans(
        tokenizer,
        "".join([*pieces, text[cursor:]]),
        tuple(span.at(moved(span.start), moved(span.end)) for span in marked.spans),
        images=images,
        add_special_tokens=add_special_tokens,
        max_length=max_length,
    )


def places_of(text: str, placeholder: str) -> list[tuple[int, int]]:
    """Return the characters ``[start, end)`` of every placeholder in a text.

    Example:
        >>> places_of("<image>, <image>", "<image>")
        [(0, 7), (9, 16)]

    """
    return [match.span() for match in re.finditer(re.escape(placeholder), text)]


def refuse_cut_placeholders(marked: MarkedText, places: Sequence[tuple[int, int]]) -> None:
    """Refuse a mark that begins or ends inside a placeholder.

    Raises:
        ValueError: If there is one.

    """
    text = marked.text
    for number, (start, end) in enumerate(places, 1):
        for span in marked.spans:
            for name, edge in (("begins", span.start), ("ends", span.end)):
                if start < edge < end:
                    raise ValueError(
                        f"encode: the marked text {quote(text, span)} {name} inside the "
                        f"placeholder {text[start:end]!r} of image {number}; an image is marked as "
                        "a whole: put the tags around the placeholder"
                    )
