# SPDX-License-Identifier: MIT
"""The lexical part of the tag grammar: where tags stand in a text and what is wrong with them.

A candidate is anything that can only be meant as a tag: ``<!`` or ``<?``, a body without spaces,
``->``; or ``<-``, a body, ``>``. A candidate whose body makes no sense is an error, never silently
literal, because a mistyped tag would otherwise reach the model as text. Everything else that merely
looks similar (``<-``, ``->``, ``<!DOCTYPE>``, ``<!-- comments -->``, ``<?php $a->b ?>``) is text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

DEFAULT_GROUP = "marked"
"""The Influence group of ``<?-> … <-?>``, the tag without a name."""

MAX_LEVEL = 3

# Characters of a group name: no white space and no ASCII punctuation but ``-``, ``.`` and ``_``.
_NAME_CHAR = r"[^\s\x00-,/:-@\[-^`{-\x7f]"
# The body of ``<!…->``. It must not begin with "--", nor be a lone "-": those are HTML comments.
_BODY_START = r"[^\s\x00-$&-+\-/:-@\[-^`{-\x7f]"
_BODY_CHAR = r"[^\s\x00-$&-*/:-@\[-^`{-\x7f]"
# Written so that digits can be split in one way only: with `[0-9]+\.?[0-9]*` a search that fails
# would try every split.
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

# No alternative contains "<" beyond its first character, so candidates never overlap, and no two
# repetitions of an alternative can share characters out among them in several ways. The search is
# thus linear in the length of the text, whatever the text.
_CANDIDATE = re.compile(
    rf"<!(?P<marks>!*)(?P<body>(?:[+-]?{_BODY_START}{_BODY_CHAR}*)?)->"
    rf"|<\?(?P<group>{_NAME_CHAR}*)->"
    rf"|<-(?P<close_marks>!+)(?P<close_body>(?:{_NUMBER})?)>"
    rf"|<-\?(?P<close_group>{_NAME_CHAR}*)>"
)
_NAME = re.compile(rf"(?![-.]){_NAME_CHAR}+(?<![-.])")
_NUMBER_ONLY = re.compile(_NUMBER)

_EXCERPT_BEFORE = 40
_EXCERPT_AFTER = 30


class TagError(ValueError):
    r"""A tag that cannot be read, with its exact place.

    The message shows the line with a caret under the tag and says what to do.

    Attributes:
        problem: What is wrong, one clause.
        advice: What to do about it.
        text: The whole text that was read.
        position: Offset of the tag in ``text``, in characters from 0.
        length: Length of the tag in characters.
        where: Which text it was, such as ``"messages[1] (role 'user')"``; empty for a plain text.

    Example:
        >>> from guide_ext.spans import TagError, parse
        >>> try:
        ...     parse("Answer in <!->French.")
        ... except TagError as error:
        ...     print(error)
        tag <!-> is never closed, at line 1, column 11 (position 10)
          Answer in <!->French.
                    ^^^^
        Close it with <-!>, or write \<!-> for the literal text.

    """

    def __init__(
        self, problem: str, advice: str, text: str, position: int, length: int, where: str = ""
    ) -> None:
        super().__init__(problem, advice, text, position, length, where)
        self.problem = problem
        self.advice = advice
        self.text = text
        self.position = position
        self.length = length
        self.where = where

    @property
    def line(self) -> int:
        """Line of the tag, from 1."""
        return line_of(self.text, self.position)

    @property
    def column(self) -> int:
        """Column of the tag in its line, in characters from 1."""
        return self.position - self.text.rfind("\n", 0, self.position)

    @property
    def excerpt(self) -> str:
        """The line around the tag and, below it, a caret under each character of the tag."""
        start = max(self.text.rfind("\n", 0, self.position) + 1, self.position - _EXCERPT_BEFORE)
        end = self.position + self.length
        line_end = self.text.find("\n", end)
        stop = min(len(self.text) if line_end < 0 else line_end, end + _EXCERPT_AFTER)
        before, tag, after = (
            _printable(part)
            for part in (
                self.text[start : self.position],
                self.text[self.position : end],
                self.text[end:stop].rstrip("\r"),
            )
        )
        return f"{before}{tag}{after}\n{' ' * _columns(before)}{'^' * _columns(tag)}"

    def within(self, where: str) -> TagError:
        """Return the same error, naming the text that it was found in."""
        return TagError(self.problem, self.advice, self.text, self.position, self.length, where)

    def __str__(self) -> str:
        """Return the message: problem, place, excerpt with caret, advice."""
        where = f"{self.where}: " if self.where else ""
        excerpt = "\n".join(f"  {line}" for line in self.excerpt.split("\n"))
        return (
            f"{where}{self.problem}, at line {self.line}, column {self.column} "
            f"(position {self.position})\n{excerpt}\n{self.advice}"
        )


@dataclass(frozen=True)
class Tag:
    """One candidate tag in a text.

    Attributes:
        source: The tag as written.
        position: Offset of its first character, backslashes not counted.
        backslashes: Number of backslashes right before it; odd means escaped.
        closing: How the closing tag of this span is written; ``source`` itself if it is one.
        level: Emphasis level, for ``<!->``, ``<!!->`` and ``<!!!->``.
        delta: Stated bias in nats, for ``<!2.5->``.
        group: Name of the Influence group, for ``<?->`` and ``<?name->``.
        problem: Why it cannot be read; empty for a well-formed tag.
        advice: What to do about the problem.

    """

    source: str
    position: int
    backslashes: int
    closing: str
    level: int | None = None
    delta: float | None = None
    group: str | None = None
    problem: str = ""
    advice: str = ""

    @property
    def end(self) -> int:
        """Offset just past the last character."""
        return self.position + len(self.source)

    @property
    def is_closing(self) -> bool:
        """Whether this is the tag that ends a span."""
        return self.source == self.closing

    @property
    def is_escaped(self) -> bool:
        """Whether a backslash makes this tag literal text."""
        return self.backslashes % 2 == 1

    def error(self, text: str, problem: str, advice: str) -> TagError:
        """Return an error that points at this tag."""
        return TagError(problem, advice, text, self.position, len(self.source))


def scan(text: str) -> Iterator[Tag]:
    """Yield every candidate tag of a text, escaped ones and malformed ones included, in order."""
    for match in _CANDIDATE.finditer(text):
        before = match.start()
        while before > 0 and text[before - 1] == "\\":
            before -= 1
        yield _read(match, match.start() - before)


def is_group_name(name: str) -> bool:
    """Return whether a tag can name this Influence group."""
    return _NAME.fullmatch(name) is not None


def line_of(text: str, position: int) -> int:
    """Return the line of a position in a text, from 1."""
    return text.count("\n", 0, position) + 1


def _read(match: re.Match[str], backslashes: int) -> Tag:
    source = match.group()
    tag = Tag(source, match.start(), backslashes, closing=source)
    if match["marks"] is not None:
        return _read_opening(tag, 1 + len(match["marks"]), match["body"])
    if match["group"] is not None:
        return _read_group(replace(tag, closing=f"<-?{match['group']}>"), match["group"])
    if match["close_group"] is not None:
        return replace(_read_group(tag, match["close_group"]), group=None)
    if match["close_body"]:
        return _malformed(
            tag, "a closing tag carries no number", "Close <!number-> with <-!>, without the number"
        )
    return _check_level(tag, len(match["close_marks"]))


def _read_opening(tag: Tag, level: int, body: str) -> Tag:
    if not body:
        return _check_level(replace(tag, level=level, closing=f"<-{'!' * level}>"), level)
    tag = replace(tag, closing="<-!>")
    if level > 1:
        return _malformed(
            tag,
            f"{tag.source} mixes a level and a number",
            f"State the bias with one exclamation mark, <!{body}-> … <-!>, or the level alone, "
            f"{'<' + '!' * min(level, MAX_LEVEL)}->",
        )
    if not _NUMBER_ONLY.fullmatch(body) or not math.isfinite(float(body)):
        return _malformed(
            tag,
            f"{body!r} in {tag.source} is not a finite number",
            "State the bias in nats as in <!2.5-> or <!-1->, with a point and no spaces",
        )
    return replace(tag, delta=float(body))


def _check_level(tag: Tag, level: int) -> Tag:
    if level <= MAX_LEVEL:
        return tag
    return _malformed(
        tag,
        f"{tag.source} has {level} exclamation marks, there are {MAX_LEVEL} levels",
        "Use <!->, <!!-> or <!!!->, or state the bias in nats as in <!4->",
    )


def _read_group(tag: Tag, name: str) -> Tag:
    if name and not is_group_name(name):
        return _malformed(
            tag,
            f"{name!r} in {tag.source} is not the name of a group",
            "Names are letters, digits and _, with - and . inside only, as in <?rule-1->",
        )
    return replace(tag, group=name or DEFAULT_GROUP)


def _malformed(tag: Tag, problem: str, advice: str) -> Tag:
    advice = f"{advice}, or write \\{tag.source} for the literal text."
    return replace(tag, problem=problem, advice=advice)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def _columns(text: str) -> int:
    """Return the number of terminal columns that a printable text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
