# SPDX-License-Identifier: MIT
"""`Span` and `MarkedText`, the data classes of marked text; import them from `guide_ext.spans`."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, itemgetter

from guide_ext.marking.tags import MAX_LEVEL, is_group_name
from guide_ext.support.values import finite, is_int, require_str

_SHOWN = 60  # characters of a span that an error message quotes
_LEVEL_FACTORS = {1: 0.5, 2: 1.0, 3: 2.0}


@dataclass(frozen=True)
class Span:
    """A half-open range of characters or tokens, and its mark.

    Exactly one of ``level``, ``delta`` and ``group`` is set.

    Attributes:
        start: First character or token.
        end: One past the last.
        level: Emphasis 1, 2 or 3, relative to the ``delta_mid`` of the call.
        delta: Bias in nats, stated outright; negative plays the text down.
        group: Name of an Influence group; the text is measured, not steered.

    Raises:
        ValueError: If the range is empty or negative, not exactly one of the three is set, the
            level is not 1 to 3, delta is not finite, or group is not a name that a tag can hold.
        TypeError: If a value has the wrong type.

    Example:
        >>> Span(3, 9, level=2)
        Span(start=3, end=9, level=2, delta=None, group=None)
        >>> Span(3, 9, delta=float("nan"))
        Traceback (most recent call last):
        ...
        ValueError: Span: delta must be a finite number of nats, got nan

    """

    start: int
    end: int
    level: int | None = None
    delta: float | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("start", "end"):
            if not is_int(getattr(self, name)):
                msg = f"Span: {name} must be an int, got {getattr(self, name)!r}"
                raise TypeError(msg)
        if not 0 <= self.start < self.end:
            msg = f"Span: must satisfy 0 <= start < end, got [{self.start}, {self.end})"
            raise ValueError(msg)
        if sum(value is not None for value in (self.level, self.delta, self.group)) != 1:
            msg = (
                "Span: exactly one of level, delta and group must be given, got "
                f"level={self.level!r}, delta={self.delta!r}, group={self.group!r}"
            )
            raise ValueError(msg)
        if self.level is not None and (not is_int(self.level) or not 1 <= self.level <= MAX_LEVEL):
            msg = f"Span: level must be 1, 2 or 3, got {self.level!r}; delta is for others"
            raise ValueError(msg)
        if self.delta is not None:
            object.__setattr__(self, "delta", finite("Span: delta", self.delta))
        if self.group is not None and not (
            isinstance(self.group, str) and is_group_name(self.group)
        ):
            msg = (
                "Span: group must be a name of letters, digits and _, with - and . inside only, "
                f"got {self.group!r}"
            )
            raise ValueError(msg)

    @property
    def kind(self) -> tuple[int | None, float | None, str | None]:
        """The mark without its range: ``(level, delta, group)``."""
        return self.level, self.delta, self.group

    def nats(self, delta_mid: float) -> float:
        """Return the bias of this span.

        Args:
            delta_mid: What level 2 means, in nats; level 1 is half of it and level 3 twice.

        Returns:
            Nats: for a level half, once or twice ``delta_mid``; for a stated ``delta`` that number;
            for an Influence group 0.

        Raises:
            ValueError: If ``delta_mid`` is not finite.

        Source:
            Levels: GUIDE, the authors' package (δ/2, δ, 2δ).

        Example:
            >>> [Span(0, 1, level=level).nats(1.0) for level in (1, 2, 3)]
            [0.5, 1.0, 2.0]
            >>> Span(0, 1, delta=-1.5).nats(1.0), Span(0, 1, group="rules").nats(1.0)
            (-1.5, 0.0)

        """
        delta_mid = finite("delta_mid", delta_mid)
        if self.level is not None:
            return _LEVEL_FACTORS[self.level] * delta_mid
        return self.delta if self.delta is not None else 0.0

    def at(self, start: int, end: int) -> Span:
        """Return a span with the same mark on another range.

        Example:
            >>> Span(0, 4, delta=2.5).at(7, 11)
            Span(start=7, end=11, level=None, delta=2.5, group=None)

        """
        return Span(start, end, *self.kind)


@dataclass(frozen=True)
class MarkedText:
    """Clean text and the spans marked in it.

    White space at the edges of a span is left out of it, because in most tokenizers a space belongs
    to the word that follows. Spans are kept in order of start, outer before inner. Texts can
    be joined with ``+``, to each other and to plain strings, which stay literal.

    Attributes:
        text: The text that the model sees.
        spans: Character spans in ``text``; they may nest and overlap.

    Raises:
        ValueError: If a span leaves the text or marks nothing but white space.
        TypeError: If ``text`` is not a string or a span not a :class:`Span`.

    Example:
        >>> MarkedText("Answer in French. ", (Span(9, 18, level=2),)).spans
        (Span(start=10, end=17, level=2, delta=None, group=None),)
        >>> from guide_ext.spans import parse
        >>> joined = parse("<!!-> Summarize: <-!!>") + " a text with <!-> in it"
        >>> joined.text
        ' Summarize:  a text with <!-> in it'
        >>> [joined.text[span.start : span.end] for span in joined.spans]
        ['Summarize:']

    """

    text: str
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        """Check the spans, tighten them to their non-space characters and sort them."""
        require_str("MarkedText: text", self.text)
        tightened = _tightened(self.text, self.spans)
        tightened.sort(key=lambda span: (span.start, -span.end))
        object.__setattr__(self, "spans", tuple(tightened))

    def __add__(self, other: MarkedText | str) -> MarkedText:
        """Return this text followed by another one; a plain string is taken literally."""
        return _join(self, other)

    def __radd__(self, other: str) -> MarkedText:
        """Return a plain string, taken literally, followed by this text."""
        return _join(other, self)


def quote(text: str, span: Span) -> str:
    """Return the text of a span for an error message, shortened."""
    covered = text[span.start : span.end]
    return repr(covered if len(covered) <= _SHOWN else f"{covered[: _SHOWN - 1]}…")


def covered(spans: Iterable[Span], length: int) -> list[bool]:
    """Return, for each of `length` characters or tokens, whether any span covers it.

    Example:
        >>> covered([Span(1, 3, level=1), Span(2, 3, level=2)], 4)
        [False, True, True, False]

    """
    flags: list[bool] = []
    for span in sorted(spans, key=attrgetter("start")):
        if span.end > len(flags):
            flags += [False] * (span.start - len(flags))
            flags += [True] * (span.end - len(flags))
    return flags + [False] * (length - len(flags))


def _tightened(text: str, spans: Iterable[Span]) -> list[Span]:
    """Shrink spans until they begin and end with a character that is not white space."""
    tightened = []
    # Words are found once: stripping each span by itself takes quadratic time where spans nest.
    words = [match.span() for match in re.finditer(r"\S+", text)] if spans else []
    for span in spans:
        if not isinstance(span, Span):
            msg = f"MarkedText: spans must be Span objects, got {span!r}"
            raise TypeError(msg)
        if span.end > len(text):
            msg = f"span [{span.start}, {span.end}) leaves the text of {len(text)} characters"
            raise ValueError(msg)
        first = bisect_right(words, span.start, key=itemgetter(1))
        last = bisect_left(words, span.end, key=itemgetter(0)) - 1
        if first > last:
            msg = (
                f"span [{span.start}, {span.end}) marks nothing but white space: "
                f"{quote(text, span)}"
            )
            raise ValueError(msg)
        start, end = max(span.start, words[first][0]), min(span.end, words[last][1])
        tightened.append(span if (start, end) == (span.start, span.end) else span.at(start, end))
    return tightened


def _join(left: MarkedText | str, right: MarkedText | str) -> MarkedText:
    for text in (left, right):
        if not isinstance(text, MarkedText | str):
            return NotImplemented
    first = left if isinstance(left, MarkedText) else MarkedText(left)
    second = right if isinstance(right, MarkedText) else MarkedText(right)
    shift = len(first.text)
    shifted = [span.at(span.start + shift, span.end + shift) for span in second.spans]
    return MarkedText(first.text + second.text, (*first.spans, *shifted))
