# SPDX-License-Identifier: MIT
"""Find the prose in documentation that Sphinx wrote as plain text, and leave out the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator

SHORTEST, LONGEST = 120, 900
"""Of a paragraph, in characters."""

_MAX_QUOTED = 0.35  # share of "quoted code" in a paragraph; above, it reads as code
_MIN_WORDS = 0.8  # share of words of letters alone

_ITEM = re.compile(r"(?:[*•-]|\(?\w{1,2}[.)])\s+")
# Nowhere in prose, not even in quotes.
_CODE = re.compile(r'>>>|::|"{3}|[={}|\\]|<\w|\.\. \w')
# In prose only in quotes.
_BARE_CODE = re.compile(r"\w\((?!s\))|\w\[|[<>@#$*`]|\w\.\w+\(")
_QUOTED = re.compile(r'("[^"]*")')
_MARKUP = (
    re.compile(r":[a-z:+-]+:`[~!]?([^`<]*?)(?:\s*<[^>]*>)?`"),  # a role
    re.compile(r"``(.+?)``"),
    re.compile(r"`([^`<]+?)(?:\s*<[^>]*>)?`_{0,2}"),  # a link
    re.compile(r"(?<![\w*])\*{1,2}(?=[^\s*])([^*]*?[^\s*])\*{1,2}(?![\w*])"),
    re.compile(r"()\s*\[\d+\](?=[\s.,;:)]|$)"),  # a footnote
)
# What stands beside the text: remarks on versions, titles of other texts, footnotes.
_ASIDE = re.compile(
    r"(?:(?:Changed|New|Added|Removed|Deprecated) (?:in|since)|Deprecated|Availability|See also|"
    r"Source code)\b|\[\d+\]|PEP \d+ [-–]"
)
_LABEL = re.compile(r"(?:Note|Warning|Tip|Important|Caution|Hint):\s+(?=[A-Z\"“(])")
_START = re.compile(r"[A-Z\"“(]")
_BORDER = re.compile(r"(?<=[.!?])([”’\"')]*)\s+(?=[A-Z\"“(])")
_END = re.compile(r"[.!?][”’\"')]*$")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|vs|cf|resp|approx|No)|…|\.\.)\.$", re.IGNORECASE)
_WORD = re.compile(r"\(?[“‘']?_*[A-Za-z]+(?:[_’'/-]+[A-Za-z]+)*_*[”’']?[.,;:!?)”’]*")


def paragraphs_of(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose in documentation that Sphinx wrote as plain text.

    Left out are code, grammars, tables, headings, signatures, footnotes, remarks on versions, and
    what is too short. A paragraph that turns to code, or announces an example that is left out,
    ends with the sentence before. Markup is taken out, but for quotes around names in code.

    Args:
        text: The documentation.

    Yields:
        Paragraphs of whole sentences, of `SHORTEST` to `LONGEST` characters on one line each.

    Example:
        >>> list(paragraphs_of('''
        ... The "pass" statement
        ... ********************
        ...
        ...    pass_stmt ::= "pass"
        ...
        ... "pass" is a *null operation* --- when it is executed, nothing happens.
        ... It is useful as a placeholder when a statement is required
        ... syntactically, but no code needs to be executed, for example in a
        ... class that has no methods. For example:
        ...
        ...    class C: pass
        ... '''))
        ['"pass" is a null operation --- when it is executed, nothing happens. It is useful as a
        placeholder when a statement is required syntactically, but no code needs to be executed,
        for example in a class that has no methods.']

    """
    for block in re.split(r"\n[ \t]*\n", text):
        for lines in _items(block.splitlines()):
            found = _paragraph(lines)
            if found:
                yield found


def _items(lines: list[str]) -> list[list[str]]:
    """Return the items of a list, or the lines as they are; none for what is laid out as code."""
    lines = [line.rstrip() for line in lines if line.strip()]
    items: list[list[str]] = []
    edge = 0  # where the lines of an item begin
    for line in lines:
        indent = len(line) - len(line.lstrip())
        mark = _ITEM.match(line, indent)
        if mark and (not items or indent < edge):
            items.append([line[mark.end() :]])
            edge = mark.end()
        elif not items:
            items.append([line[indent:]])
            edge = indent
        elif indent == edge:
            items[-1].append(line[indent:])
        elif len(items) == len(items[0]) == 1 and indent > edge and "PEP" not in items[0][0]:
            items = [[line[indent:]]]  # the first line is a term, and this begins to explain it
            edge = indent
        else:
            return []  # prose has a straight edge
    return items


def _paragraph(lines: list[str]) -> str:
    """Return lines as one paragraph of whole sentences; empty if they are no prose."""
    # Lines are wrapped at hyphens, too.
    text = re.sub(r"(?<=\w)-\n(?!(?:and|or)\b)(?=\w)", "-", "\n".join(lines))
    text = _LABEL.sub("", _without_markup(" ".join(text.split())), count=1)
    if _ASIDE.match(text) or not _START.match(text):
        return ""
    text = _beginning(text)
    return text if len(text) >= SHORTEST and _reads_as_prose(text) else ""


def _without_markup(text: str) -> str:
    """Take markup out, but not in quoted code, where a star is a star."""
    parts = _QUOTED.split(text)
    for index in range(0, len(parts), 2):
        for markup in _MARKUP:
            parts[index] = markup.sub(r"\1", parts[index])
    return "".join(parts)


def _beginning(text: str) -> str:
    """Return the longest beginning of whole sentences without code that is not too long."""
    best, start = "", 0
    for border in [*(match.end() for match in _BORDER.finditer(text)), len(text)]:
        beginning = text[:border].rstrip()
        if not _END.search(beginning) or _ABBREVIATION.search(beginning):
            continue
        if len(beginning) > LONGEST or _has_code(text[start:border]):
            break
        if beginning.count("(") == beginning.count(")"):
            best = beginning
        start = border
    return best


def _has_code(sentence: str) -> bool:
    return bool(_CODE.search(sentence) or _BARE_CODE.search(_QUOTED.sub("", sentence)))


def _reads_as_prose(text: str) -> bool:
    bare = _QUOTED.sub("", text)
    words = bare.split()
    return len(text) - len(bare) <= _MAX_QUOTED * len(text) and sum(
        _WORD.fullmatch(word) is not None for word in words
    ) >= _MIN_WORDS * len(words)
