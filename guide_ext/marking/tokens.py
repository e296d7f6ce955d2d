# SPDX-License-Identifier: MIT
"""From marked characters to marked tokens, without touching the tokenization.

The clean text is tokenised once, as it would be without any marks; spans then find their tokens by
the character offsets that fast tokenizers report. Neither torch nor transformers is imported: any
object that can be called like a fast tokenizer of transformers will do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from guide_ext.marking.marked_text import MarkedText, Span, covered, quote
from guide_ext.marking.spans import parse
from guide_ext.marking.token_ranges import split, tokens_of_spans, with_whole_images, without_shared
from guide_ext.support.values import is_int

__all__ = ["Encoding", "FastTokenizer", "encode_text", "mark_tokens"]

# Units in one nat. Every float is a whole number of units, because the smallest one above 0 is
# 2^-1074 (IEEE 754, binary64).
_UNITS = 1 << 1074


class FastTokenizer(Protocol):
    """What :func:`encode_text` needs of a tokenizer; fast tokenizers of transformers have it."""

    @property
    def is_fast(self) -> bool:
        """Whether character offsets are available."""

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Return ``input_ids`` and ``offset_mapping``."""


@dataclass(frozen=True)
class Encoding:
    """A tokenised prompt and the marks on its tokens.

    Attributes:
        input_ids: Token ids, the same as without marks.
        offsets: Characters ``[start, end)`` of ``text`` that each token stands for; zero width for
            tokens that the tokenizer added.
        text: The text that was tokenised, without tags.
        spans: Character spans in ``text``.
        token_spans: The same spans as ranges of tokens. One span of characters may become several,
            because special tokens inside it are not marked.
        images: Tokens ``[start, end)`` of each image, in order; empty for text alone.

    """

    input_ids: list[int]
    offsets: list[tuple[int, int]]
    text: str
    spans: tuple[Span, ...]
    token_spans: tuple[Span, ...]
    images: tuple[tuple[int, int], ...] = ()

    def nats(self, delta_mid: float) -> list[float]:
        """Return the bias of every token.

        Args:
            delta_mid: What level 2 means, in nats.

        Returns:
            Nats, one number per token: the sum over the emphasis spans that hold the token, 0 for
            others.

        Raises:
            ValueError: If ``delta_mid`` is not finite.

        Example:
            >>> from guide_ext.spans import Span
            >>> marks = (Span(0, 2, level=1), Span(1, 2, delta=2.0), Span(2, 3, group="rule"))
            >>> encoding = Encoding([5, 6, 7], [(0, 1), (1, 2), (2, 3)], "abc", (), marks)
            >>> encoding.nats(1.0)
            [0.5, 2.5, 0.0]

        """
        # The nats that begin or end at each token. Sums are exact, so that no rounding error of a
        # span is left after its end.
        changes: dict[int, int] = {}
        for span in self.token_spans:
            units = _in_units(span.nats(delta_mid))
            changes[span.start] = changes.get(span.start, 0) + units
            changes[span.end] = changes.get(span.end, 0) - units
        total: list[float] = []
        units = 0
        for place, change in sorted(changes.items()):
            total += [_from_units(units)] * (place - len(total))
            units += change
        return total + [0.0] * (len(self.input_ids) - len(total))

    def groups(self) -> dict[str, list[bool]]:
        """Return which tokens belong to each Influence group.

        Returns:
            For each group, in order of first appearance, one flag per token. ``<?->`` without a
            name is the group ``"marked"``.

        Example:
            >>> from guide_ext.spans import Span
            >>> Encoding([5, 6], [(0, 1), (1, 2)], "ab", (), (Span(1, 2, group="rule"),)).groups()
            {'rule': [False, True]}

        """
        members: dict[str, list[Span]] = {}
        for span in self.token_spans:
            if span.group is not None:
                members.setdefault(span.group, []).append(span)
        return {group: covered(spans, len(self.input_ids)) for group, spans in members.items()}


def encode_text(
    tokenizer: FastTokenizer,
    text: str | MarkedText,
    *,
    add_special_tokens: bool = True,
    max_length: int | None = None,
) -> Encoding:
    """Tokenise marked text once and find the tokens of every span.

    A token belongs to a span if it stands for at least one of its characters. Where neighbouring
    spans of the same level, delta or group touch one token, only the first gets it. Special tokens
    are never marked.

    Args:
        tokenizer: A fast tokenizer.
        text: Text with tags, or text that is already marked (its tags, if any, stay literal).
        add_special_tokens: Passed on to the tokenizer; False for a rendered chat.
        max_length: Cut the prompt to this many tokens, on the side that the tokenizer truncates.
            None leaves it whole.

    Returns:
        Ids, offsets, clean text, spans of characters and of tokens.

    Raises:
        TagError: If a tag cannot be read.
        ValueError: If the tokenizer is not fast, its offsets contradict the text, a span
            matches no token, or truncation cuts or loses one.
        TypeError: If ``text`` is neither str nor :class:`MarkedText`.

    Example:
        >>> from transformers import PreTrainedTokenizerFast
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "in": 1, "French": 2}, "[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> encoding = encode_text(tokenizer, "in <!!->French<-!!>")
        >>> encoding.text, encoding.input_ids, encoding.nats(1.0)
        ('in French', [1, 2], [0.0, 1.0])

    """
    marked = text if isinstance(text, MarkedText) else parse(text)
    return encode_spans(
        tokenizer,
        marked.text,
        marked.spans,
        add_special_tokens=add_special_tokens,
        max_length=max_length,
    )


def encode_spans(
    tokenizer: FastTokenizer,
    text: str,
    spans: tuple[Span, ...],
    *,
    images: Sequence[tuple[int, int]] = (),
    add_special_tokens: bool = True,
    max_length: int | None = None,
) -> Encoding:
    """Tokenise clean text and find the tokens of its spans and images; see `encode_text`.

    Args:
        tokenizer: A fast tokenizer.
        text: The clean text.
        spans: Marked characters.
        images: Characters ``[start, end)`` that stand for an image. All their tokens, special ones
            too, can be marked, and none may be cut off.
        add_special_tokens: See `encode_text`.
        max_length: See `encode_text`.

    Raises:
        ValueError: As `encode_text` does; or if an image has no token, or truncation cuts one.

    """
    _require_fast(tokenizer)
    if max_length is not None and not (is_int(max_length) and max_length > 0):
        msg = f"encode: max_length must be a positive int or None, got {max_length!r}"
        raise ValueError(msg)
    special = _special_ids(tokenizer)
    options: dict[str, Any] = {"add_special_tokens": add_special_tokens}
    encoding, counts = _tokenise(tokenizer, text, spans, images, special, **options)
    for span, count in zip(spans, counts, strict=True):
        if not count:
            raise ValueError(_no_token(text, span))
    for number, (start, end) in enumerate(encoding.images, 1):
        if start == end:
            raise ValueError(f"encode: image {number} of the prompt has no token")
    tokens = len(encoding.input_ids)
    if max_length is None or tokens <= max_length:
        return encoding
    options |= {"truncation": True, "max_length": max_length}
    cut, left = _tokenise(tokenizer, text, spans, images, special, **options)
    names = [f"the marked text {quote(text, span)}" for span in spans]
    parts = list(zip(names, counts, left, strict=True))
    for number, (whole, part) in enumerate(zip(encoding.images, cut.images, strict=True), 1):
        parts.append((f"image {number}", whole[1] - whole[0], part[1] - part[0]))
    for name, before, after in parts:
        if after < before:
            msg = (
                f"encode: max_length={max_length} cuts {name}: {after} of its {before} tokens are "
                f"left of a prompt of {tokens}; raise max_length, shorten the rest, or set the "
                "tokenizer's truncation_side to the other side"
            )
            raise ValueError(msg)
    return cut


def mark_tokens(
    encoding: Encoding,
    start: int,
    end: int,
    *,
    level: int | None = None,
    delta: float | None = None,
    group: str | None = None,
) -> Encoding:
    """Mark a range of tokens of an encoded prompt.

    The range says exactly which tokens, so special ones can be marked here.

    Args:
        encoding: The prompt; it is not changed.
        start: First token.
        end: One past the last token.
        level: Emphasis 1, 2 or 3. Exactly one of level, delta and group is needed.
        delta: Bias in nats.
        group: Influence group.

    Returns:
        The same prompt with one more token span.

    Raises:
        ValueError: If the range is empty or leaves the prompt, or the strength is not valid.

    Example:
        >>> plain = Encoding([5, 6, 7], [(0, 1), (1, 2), (2, 3)], "abc", (), ())
        >>> mark_tokens(plain, 1, 3, delta=-0.5).nats(1.0)
        [0.0, -0.5, -0.5]

    """
    span = Span(start, end, level, delta, group)
    if end > len(encoding.input_ids):
        msg = f"mark_tokens: end must be at most {len(encoding.input_ids)} tokens, got {end}"
        raise ValueError(msg)
    return replace(encoding, token_spans=(*encoding.token_spans, span))


def _require_fast(tokenizer: FastTokenizer) -> None:
    if getattr(tokenizer, "is_fast", False):
        return
    inner = getattr(tokenizer, "tokenizer", None)
    hint = (
        "pass the tokenizer of the processor, processor.tokenizer"
        if getattr(inner, "is_fast", False)
        else "load it with AutoTokenizer from a folder that has a tokenizer.json; tokenizers that "
        "are written in Python alone have no offsets"
    )
    msg = (
        f"tokenizer must be a fast tokenizer, got {type(tokenizer).__name__}: marks become tokens "
        f"by character offsets, which only fast tokenizers report; {hint}"
    )
    raise ValueError(msg)


def _special_ids(tokenizer: FastTokenizer) -> set[int]:
    """Return the ids that stand for no text.

    The unknown token does stand for text, unless the tokenizer uses it as a boundary too, as GPT-2
    does with <|endoftext|>.
    """
    special = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special |= {index for index, token in added.items() if getattr(token, "special", False)}
    boundaries = ("bos", "eos", "sep", "cls", "mask")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if any(getattr(tokenizer, f"{name}_token_id", None) == unknown for name in boundaries):
        return special
    return special - {unknown}


def _tokenise(
    tokenizer: FastTokenizer,
    text: str,
    spans: tuple[Span, ...],
    images: Sequence[tuple[int, int]],
    special: set[int],
    **options: Any,
) -> tuple[Encoding, list[int]]:
    """Return the encoding and, for every span, how many tokens it touches."""
    output = tokenizer(text, return_offsets_mapping=True, **options)
    input_ids = list(output["input_ids"])
    offsets = [(int(start), int(end)) for start, end in output["offset_mapping"]]
    _check_offsets(tokenizer, text, input_ids, offsets)
    touched, image_tokens = with_whole_images(offsets, images)
    of_images = {index for start, end in image_tokens for index in range(start, end)}
    textual = [
        index
        for index, (start, end) in enumerate(touched)
        if start < end and (input_ids[index] not in special or index in of_images)
    ]
    found = tokens_of_spans(spans, [touched[index] for index in textual])
    own = without_shared(spans, found)
    # Places where special tokens interrupt the tokens of text.
    gaps = [place for place in range(1, len(textual)) if textual[place] != textual[place - 1] + 1]
    token_spans = [
        span.at(textual[first], textual[last - 1] + 1)
        for span, ranges in zip(spans, own, strict=True)
        for first, last in split(ranges, gaps)
    ]
    encoding = Encoding(input_ids, offsets, text, spans, tuple(token_spans), tuple(image_tokens))
    return encoding, [sum(last - first for first, last in ranges) for ranges in found]


def _check_offsets(
    tokenizer: FastTokenizer,
    text: str,
    input_ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
) -> None:
    problem = ""
    if len(offsets) != len(input_ids):
        problem = f"{len(offsets)} offsets for {len(input_ids)} tokens"
    latest = 0
    for index, (start, end) in enumerate(offsets):
        if not 0 <= start <= end <= len(text):
            problem = f"token {index} at ({start}, {end}) in a text of {len(text)} characters"
        elif start < end and start < latest:
            problem = f"token {index} at ({start}, {end}), before the token that precedes it"
        if problem:
            break
        if start < end:  # an empty range may lie after the next token: a trimmed prefix space
            latest = max(latest, start)
    if problem:
        msg = (
            f"tokenizer {type(tokenizer).__name__} reports offsets that contradict the text: "
            f"{problem}; marks cannot be followed, update tokenizers or use another tokenizer"
        )
        raise ValueError(msg)


def _in_units(nats: float) -> int:
    """Return a float exactly, as a whole number of units.

    A level of a huge delta_mid can be infinite. It becomes a number that is larger than any sum of
    finite ones; infinite levels all have the same sign.
    """
    if math.isinf(nats):
        return (_UNITS << 1100) * (1 if nats > 0 else -1)
    numerator, denominator = nats.as_integer_ratio()
    return numerator * (_UNITS // denominator)


def _from_units(units: int) -> float:
    """Return the float closest to a number of units; infinity where it is too large."""
    try:
        return units / _UNITS
    except OverflowError:
        return math.inf if units > 0 else -math.inf


def _no_token(text: str, span: Span) -> str:
    return (
        f"encode: the marked text {quote(text, span)} at characters [{span.start}, {span.end}) "
        "matches no token: this tokenizer drops it, or turns it into special tokens only, or "
        "reports no offsets for it; mark more text around it"
    )
