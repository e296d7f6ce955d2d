# SPDX-License-Identifier: MIT
"""A PTX text and the place up to which it has been read."""

from __future__ import annotations

import bisect
import re

from .syntax import TYPES, PtxError, Type

NAME = r"[A-Za-z_$%][\w$]*"

_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_SPACE = re.compile(r"\s*")
# Directives that say nothing about what a kernel computes.
_IGNORED = re.compile(
    r'\.file\s+\d+\s+"[^"\n]*"(?:\s*,\s*\d+\s*,\s*\d+)?'
    r"|\.loc\s+\d+\s+\d+\s+\d+"
    r"(?:\s*,\s*function_name\s+[\w$]+\s*,\s*inlined_at\s+\d+\s+\d+\s+\d+)?"
    r"|\.section\s+\.debug_\w+\s*\{[^{}]*\}"
    r'|\.pragma\s+"nounroll"\s*;'
)


class Reader:
    """Reads a text without its comments, one pattern after the other."""

    def __init__(self, text: str) -> None:
        self._text = _COMMENT.sub(_blank, text)
        self._starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        self.position = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read what matches the pattern here; None, and nothing is read, if nothing does."""
        match = pattern.match(self._text, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def skip(self) -> bool:
        """Read white space and the directives without a meaning; False at the end of the text."""
        self.take(_SPACE)
        while self.take(_IGNORED):
            self.take(_SPACE)
        return self.position < len(self._text)

    def line(self, position: int | None = None) -> int:
        """Return the line, from 1, of a place; by default of where reading goes on."""
        return bisect.bisect_right(self._starts, self.position if position is None else position)

    def error(self, problem: str, position: int | None = None) -> PtxError:
        """Return the error that names a place and quotes its line from there on."""
        start = self.position if position is None else position
        end = self._text.find("\n", start)
        return PtxError(
            problem, self.line(start), self._text[start : end if end >= 0 else len(self._text)]
        )

    def type(self, name: str, position: int) -> Type:
        """Return the fundamental type of that name.

        Raises:
            PtxError: If there is none.
        """
        if name not in TYPES:
            raise self.error(f"type .{name} is not supported", position)
        return TYPES[name]


def _blank(match: re.Match[str]) -> str:
    """Replace a comment by the line ends in it, so that later lines keep their numbers."""
    if match[0].startswith('"'):
        return match[0]
    return " " + "\n" * match[0].count("\n")
