# SPDX-License-Identifier: MIT
"""Instructions whose following a program can check, and their checks.

They are of the kinds of IFEval (J. Zhou et al., Instruction-Following Evaluation for Large Language
Models, 2023); texts and checks are our own. They were fixed before any model answered them, and
all are reported: those that a model never follows, too.

A check reads the answer alone, without white space at its ends. It is strict: a title that only
repeats the example in the instruction is none. Whether the answer also does the task is another
question: `guide_ext.studies.tables.on_task`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from guide_ext.embedded.world import parse_object
from guide_ext.studies.tables.metrics import language

KEYWORD = "sunshine"
KEYS = ("topic", "summary")
MOST_WORDS = 10
ITEMS = 3
"""Of the numbered list."""

BULLET = re.compile(r"[ \t]*[-*•] +(?=\S)")
ITEM = re.compile(r"[ \t]*(\d+)[.)] +(?=\S)")
TITLE = re.compile(r"<<([^<>\n]+)>>")
DIVIDER = re.compile(r"^[ \t]*\*\*\*[ \t]*$", re.MULTILINE)
POSTSCRIPT = re.compile(r"(?<!\S)P\. ?S\.:?(?!\w)")
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_EXAMPLES = {"title", "a title", "the title", "your title", "this", "your title here"}
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*]*(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|no|fig|sec|mr|mrs|ms|dr|st)\.$", re.I)
_QUOTE = re.compile(r"[\"“”]")


def words(text: str) -> list[str]:
    """Return the words of a text; numbers count, punctuation does not.

    Example:
        >>> words("A well-known one isn't, 3 are.")
        ['A', 'well-known', 'one', "isn't", '3', 'are']

    """
    return _WORD.findall(text)


@dataclass(frozen=True)
class Instruction:
    """An instruction, in several phrasings.

    Attributes:
        name: Its name in tables; `Row.kind`.
        family: What it is about.
        phrasings: Ways to say it. They demand the same.
        check: Tells of an answer, without white space at its ends, whether it obeys.

    """

    name: str
    family: str
    phrasings: tuple[str, str, str]
    check: Callable[[str], bool]

    def obeys(self, answer: str) -> bool:
        """Return whether an answer does what the instruction demands.

        An answer that repeats a phrasing of the instruction must obey without it, too.

        Example:
            >>> INSTRUCTIONS["the end"].obeys("The cat sleeps. THE END")
            True
            >>> INSTRUCTIONS["the end"].obeys("The cat sleeps. The end.")
            False

        """
        texts = answer.strip(), self.without_echo(answer).strip()
        return all(text and self.check(text) for text in texts)

    def without_echo(self, answer: str) -> str:
        """Take the phrasings of the instruction out of an answer, in whatever case.

        Example:
            >>> INSTRUCTIONS["spanish"].without_echo("Answer in Spanish. Llueve.")
            ' Llueve.'

        """
        for phrasing in self.phrasings:
            answer = re.sub(re.escape(phrasing), "", answer, flags=re.IGNORECASE)
        return answer


# The checks.


def _lines(answer: str) -> list[str]:
    return [line for line in answer.splitlines() if line.strip()]


def _listed(answer: str, mark: re.Pattern[str]) -> list[re.Match[str]]:
    """Return the marks of a list; nothing where other lines stand in it or below it.

    One line may lead to the list.
    """
    lines = _lines(answer)
    found = [mark.match(line) for line in lines]
    if found and found[0] is None:
        found = found[1:]
    return [one for one in found if one] if all(found) else []


def _bullets(answer: str) -> bool:
    return len(_listed(answer, BULLET)) >= 2


def _numbered(answer: str) -> bool:
    numbers = [int(found[1]) for found in _listed(answer, ITEM)]
    return numbers == list(range(1, ITEMS + 1))


def _title(answer: str) -> bool:
    found = TITLE.search(_lines(answer)[0])
    return bool(found and words(found[1]) and found[1].strip().lower() not in _EXAMPLES)


def _two_paragraphs(answer: str) -> bool:
    parts = DIVIDER.split(answer)
    return len(parts) == 2 and all(words(part) for part in parts)


def _json(answer: str) -> bool:
    fenced = FENCE.fullmatch(answer)
    found = parse_object(fenced[1] if fenced else answer)
    return found is not None and set(found) == set(KEYS) and all(found.values())


def _answer(answer: str) -> bool:
    return answer.startswith("Answer:")


def _letter(answer: str) -> bool:
    return bool(re.match(r"Dear Anna\b(?!['’-])", answer))


def _the_end(answer: str) -> bool:
    return bool(re.search(r"(?<!\S)[\"'“(*]*THE END[.!\"'”)*]*$", answer))


def _postscript(answer: str) -> bool:
    found = POSTSCRIPT.search(answer)
    return bool(found and words(answer[: found.start()]) and words(answer[found.end() :]))


def _ten_words(answer: str) -> bool:
    return 1 <= len(words(answer)) <= MOST_WORDS


def _one_sentence(answer: str) -> bool:
    ends = [
        found.end()
        for found in _SENTENCE_END.finditer(answer)
        if found.end() == len(answer) or not _ABBREVIATION.search(answer[: found.end()])
    ]
    return len(_lines(answer)) == 1 and ends == [len(answer)] and bool(words(answer))


def _lower_case(answer: str) -> bool:
    return answer == answer.lower() and any(letter.islower() for letter in answer)


def _capitals(answer: str) -> bool:
    return answer == answer.upper() and any(letter.isupper() for letter in answer)


def _keyword(answer: str) -> bool:
    return KEYWORD in map(str.lower, words(answer))


def _no_the(answer: str) -> bool:
    found = [word.lower() for word in words(answer)]
    return bool(found) and "the" not in found


def _no_commas(answer: str) -> bool:
    return bool(words(answer)) and not re.search("[,،、，]", answer)


def _quotes(answer: str) -> bool:
    """Return whether one pair of quotation marks holds the answer; it may quote in turn."""
    if not (answer[0] in '"“' and answer[-1] in '"”' and words(answer)):
        return False
    inner = answer[1:-1]
    places = [found.start() for found in _QUOTE.finditer(inner)]
    # A first mark right after a word would close what the answer's own first mark opened.
    opens = not places or places[0] == 0 or inner[places[0] - 1] in " \n\t([{"
    return opens and len(places) % 2 == 0


def _spanish(answer: str) -> bool:
    return language(answer) == "es"


# The list.

_ALL = (
    Instruction(
        "bullets",
        "lists",
        (
            "Use bullet points.",
            "Write your answer as a list of bullet points.",
            "Format the answer as bullet points, each on a line of its own.",
        ),
        _bullets,
    ),
    Instruction(
        "three items",
        "lists",
        (
            "Write a numbered list with exactly three items.",
            "Your answer must be a numbered list of exactly three points: 1., 2. and 3.",
            "Number your points and give exactly three of them.",
        ),
        _numbered,
    ),
    Instruction(
        "title",
        "format",
        (
            "Give your answer a title in double angular brackets, such as <<title>>.",
            "Begin with a title that is wrapped in double angular brackets, like <<this>>.",
            "Your answer must start with a title, written inside << and >>.",
        ),
        _title,
    ),
    Instruction(
        "two paragraphs",
        "format",
        (
            "Write two paragraphs that are separated by ***.",
            "Your answer must have exactly two paragraphs with *** between them.",
            "Give two paragraphs and put *** between the first and the second.",
        ),
        _two_paragraphs,
    ),
    Instruction(
        "two keys",
        "JSON",
        (
            'Answer with a JSON object that has the two keys "topic" and "summary".',
            "Your whole answer must be a JSON object with exactly the keys topic and summary.",
            'Write nothing but JSON with two keys, "topic" and "summary".',
        ),
        _json,
    ),
    Instruction(
        "answer",
        "start",
        (
            'Start your answer with the word "Answer:".',
            "Your answer must begin with Answer:",
            'The first word of your answer must be "Answer:".',
        ),
        _answer,
    ),
    Instruction(
        "letter",
        "start",
        (
            "Write it as a letter that begins with Dear Anna.",
            "Your answer must be a letter that starts with the words Dear Anna.",
            'Begin with "Dear Anna" and write your answer as a letter to her.',
        ),
        _letter,
    ),
    Instruction(
        "the end",
        "end",
        (
            "End your answer with the words THE END.",
            'The last words of your answer must be "THE END".',
            "Finish with THE END and write nothing after it.",
        ),
        _the_end,
    ),
    Instruction(
        "postscript",
        "end",
        (
            "At the end, add a postscript that begins with P.S.",
            'Your answer must end with a postscript, which starts with "P.S."',
            "Close with a P.S. that adds one more remark.",
        ),
        _postscript,
    ),
    Instruction(
        "ten words",
        "length",
        (
            "Answer in at most ten words.",
            "Your answer must not be longer than ten words.",
            "Use no more than 10 words.",
        ),
        _ten_words,
    ),
    Instruction(
        "one sentence",
        "length",
        (
            "Answer in exactly one sentence.",
            "Your whole answer must be a single sentence.",
            "Write one sentence and no more.",
        ),
        _one_sentence,
    ),
    Instruction(
        "lower case",
        "case",
        (
            "Write in lower case only, without any capital letter.",
            "Your answer must be in all lowercase letters. No capital letters are allowed.",
            "Do not use capital letters anywhere in your answer.",
        ),
        _lower_case,
    ),
    Instruction(
        "capitals",
        "case",
        (
            "Write your answer in capital letters only.",
            "Your answer must be in all capital letters.",
            "Use uppercase letters for every word of your answer.",
        ),
        _capitals,
    ),
    Instruction(
        "keyword",
        "words",
        (
            f'Use the word "{KEYWORD}" in your answer.',
            f"Your answer must contain the word {KEYWORD}.",
            f'Make sure that the word "{KEYWORD}" appears in what you write.',
        ),
        _keyword,
    ),
    Instruction(
        "no the",
        "words",
        (
            'Do not use the word "the" in your answer.',
            'Your answer must not contain the word "the".',
            'Avoid the word "the" everywhere in what you write.',
        ),
        _no_the,
    ),
    Instruction(
        "no commas",
        "words",
        (
            "Do not use any commas in your answer.",
            "Your answer must not contain a comma.",
            "Write without commas.",
        ),
        _no_commas,
    ),
    Instruction(
        "quotes",
        "quoting",
        (
            "Wrap your whole answer in double quotation marks.",
            "Your answer must begin and end with a double quotation mark.",
            'Put double quotes (") around your entire answer.',
        ),
        _quotes,
    ),
    Instruction(
        "spanish",
        "language",
        (
            "Answer in Spanish.",
            "Your whole answer must be in Spanish.",
            "Write in Spanish, not in English.",
        ),
        _spanish,
    ),
)
INSTRUCTIONS = {one.name: one for one in _ALL}
"""All instructions by name, in the order of tables."""
