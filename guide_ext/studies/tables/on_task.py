# SPDX-License-Identifier: MIT
"""Whether an answer still does its task: tells in some words what a text is about.

An answer of nothing but THE END obeys, and is worth nothing. No model judges here. What an
instruction itself demands is taken out first; what is left must have some words, must not repeat
itself, and must speak of what the text speaks of.
"""

from __future__ import annotations

import re
import unicodedata

from guide_ext.embedded.world import parse_object
from guide_ext.studies.cells import Row
from guide_ext.studies.tables.instructions import (
    BULLET,
    DIVIDER,
    INSTRUCTIONS,
    ITEM,
    KEYWORD,
    POSTSCRIPT,
    TITLE,
    words,
)
from guide_ext.studies.tables.metrics import language, repeated_share

_FEWEST_WORDS, _FEWEST_WORDS_OF_TEN = 5, 3
_MOST_REPEATED = 1 / 3
_SHORTEST = 4
_FEWEST_SHARED, _FEWEST_SHARED_OF_TEN, _FEWEST_SHARED_ELSEWHERE = 3, 2, 2
_LEAST_SHARE = 1 / 3
_PROGRAM = re.compile(r"```(?!json\b|\s*\{)\s*\w")  # code in place of a summary
_STEM = 5  # letters of a word that must agree: statement, statements

_DEMANDED = {
    "bullets": BULLET,
    "three items": ITEM,
    "title": TITLE,
    "two paragraphs": DIVIDER,
    "answer": re.compile(r"^Answer:"),
    "letter": re.compile(r"\bDear Anna\b[,:]?"),
    "the end": re.compile(r"\bTHE END\b"),
    "keyword": re.compile(KEYWORD, re.IGNORECASE),
}
_COMMON = frozenset(
    words(
        """
        about above after again against also although always among another answer because been
        before being below between both cannot case cases could does doing done down during each
        either else even ever every following from further given gives have having here however if
        into itself just know like made make makes many more most much must name need needs never
        next none often once only other others over paragraph rather said same sentence sentences
        several shall should since some such summarize summary than that text their them then
        there therefore these they thing things this those though through thus under unless until
        upon used uses using very want well were what when where whether which while whole will
        with within without word words would write written your yours
        """
    )
)
"""Words that every text has, and those of the prompt."""


def on_task(row: Row, answer: str) -> bool:
    """Return whether an answer to an instructed request tells what the text is about.

    Args:
        row: The request: `Row.kind` names the instruction, `Row.marked` holds it, and the text
            stands before or after it.
        answer: The answer.

    Example:
        >>> row = Row("a", "", "", "End your answer with the words THE END.",
        ...           " The baker hides the golden key in a barn.", 9, (0, 500), kind="the end")
        >>> on_task(row, "The baker hides his golden key. THE END")
        True
        >>> on_task(row, "THE END. THE END. THE END")
        False

    """
    if _PROGRAM.search(answer):
        return False
    left = _without_demanded(row.kind, INSTRUCTIONS[row.kind].without_echo(answer))
    is_short = row.kind == "ten words"
    if len(words(left)) < (_FEWEST_WORDS_OF_TEN if is_short else _FEWEST_WORDS):
        return False
    if repeated_share(left) > _MOST_REPEATED:
        return False
    if row.kind == "spanish" and language(left) == "es":
        return _speaks_of_elsewhere(row, left)
    asked = _stems(row.marked, _STEM)
    told = _stems(left, _STEM) - asked
    shared = told & _stems(f"{row.before} {row.after}", _STEM)
    fewest = _FEWEST_SHARED_OF_TEN if is_short else _FEWEST_SHARED
    return len(shared) >= fewest and len(shared) >= _LEAST_SHARE * len(told)


def _speaks_of_elsewhere(row: Row, answer: str) -> bool:
    """Look for names and related words: función, function."""
    shared = _stems(answer, _SHORTEST) & _stems(f"{row.before} {row.after}", _SHORTEST)
    return len(shared - _stems(row.marked, _SHORTEST)) >= _FEWEST_SHARED_ELSEWHERE


def _stems(text: str, letters: int) -> set[str]:
    """Return the beginnings of the words that tell something."""
    plain = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return {
        word[:letters]
        for word in words(bare)
        if len(word) >= _SHORTEST and word not in _COMMON and not word.isdigit()
    }


def _without_demanded(kind: str, answer: str) -> str:
    """Take out of an answer what its instruction itself demands."""
    if kind == "two keys":
        return _values(answer)
    if kind == "postscript":
        found = POSTSCRIPT.search(answer)
        return answer[: found.start()] if found else answer
    if kind in ("bullets", "three items"):
        mark = _DEMANDED[kind]
        return "\n".join(mark.sub("", line, count=1) for line in answer.splitlines())
    return _DEMANDED[kind].sub(" ", answer) if kind in _DEMANDED else answer


def _values(answer: str) -> str:
    """Return the values of a JSON object in an answer; the answer itself if there is none."""
    start, end = answer.find("{"), answer.rfind("}")
    found = parse_object(answer[start : end + 1]) if 0 <= start < end else None
    return answer if found is None else " ".join(map(str, found.values()))
