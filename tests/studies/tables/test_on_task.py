# SPDX-License-Identifier: MIT
"""Whether an answer does the task: real answers of small models among them, and hostile ones."""

import pytest

from guide_ext.studies.cells import Row
from guide_ext.studies.tables.instructions import INSTRUCTIONS
from guide_ext.studies.tables.on_task import on_task

TEXT = (
    "Objects are never explicitly destroyed; however, when they become unreachable they may be "
    "garbage-collected. An implementation is allowed to postpone garbage collection or omit it "
    "altogether. Do not depend on immediate finalization of objects, so always close files."
)
SUMMARY = "Unreachable objects may be garbage-collected, and files should always be closed."


def row(kind, phrasing=0, text=TEXT):
    marked = INSTRUCTIONS[kind].phrasings[phrasing]
    after = f"\n\nSummarize this text in one or two sentences.\n\n{text}"
    return Row("a@1", "any", "", marked, after, 50, (0, 500), kind=kind)


@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_a_plain_summary_does_the_task_of_every_instruction(kind):
    assert on_task(row(kind), SUMMARY)
    assert on_task(row(kind), SUMMARY.upper())
    assert on_task(row(kind), SUMMARY.lower())


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("the end", f"{SUMMARY} THE END"),
        ("title", f"<<Garbage>>\n\n{SUMMARY}"),
        ("letter", f"Dear Anna,\n\n{SUMMARY}\n\nYours, Tom"),
        ("bullets", "* Objects may be collected.\n* Files should be closed."),
        ("three items", "1. Objects\n2. Garbage collection\n3. Always close files"),
        ("two keys", '{"topic": "garbage", "summary": "Unreachable objects may be collected."}'),
        ("postscript", f"{SUMMARY}\n\nP.S. See you."),
        ("postscript", f"At the end, add a postscript that begins with P.S.\n\n{SUMMARY}"),
        ("ten words", "Unreachable objects are collected."),
        ("two paragraphs", f"{SUMMARY}\n***\n{SUMMARY}"[:140]),
        ("spanish", "Los objetos no se destruyen; la implementación los colecta, y es mejor así."),
        ("quotes", f'"{SUMMARY}"'),
    ],
)
def test_answers_that_obey_and_do_the_task(kind, answer):
    assert on_task(row(kind), answer)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("the end", "THE END"),
        ("the end", "The end of the text is:\n\n" * 9),
        ("title", "<<Objects are garbage-collected; files should be closed>>"),
        ("letter", "Dear Anna,\n\nI hope this message finds you well.\n\n" * 4),
        ("letter", "Your answer must be a letter that starts with the words Dear Anna."),
        ("bullets", "Here is a list of bullet points:\n- List of bullet points\n- More points"),
        ("two keys", '{"topic": "topic", "summary": "summary"}'),
        ("two keys", "```python\nimport garbage\ndef objects(files):\n    collection.close()\n```"),
        ("postscript", f"P.S. {SUMMARY}"),
        ("ten words", "Objects objects."),
        ("one sentence", "The code is not possible to execute."),
        ("one sentence", "Objects are just there, you see."),  # one word of the text
        (
            "one sentence",
            "Objects, files, collected grandmothers wander through blossoming meadows, singing "
            "beautiful ancient melodies beside silver rivers.",
        ),
        ("keyword", 'The word "sunshine" appears in the text.'),
        ("no commas", f"{SUMMARY} " * 3),
        ("quotes", "The code is designed to wrap a wrapped answer in double quotation marks."),
        ("spanish", "El cópio debe ser en español y no puede ser en inglés para nosotros."),
        ("capitals", "THE BAKER HIDES THE GOLDEN KEY IN THE BARN BESIDE THE RIVER."),
        ("lower case", ""),
    ],
)
def test_answers_that_do_not(kind, answer):
    assert not on_task(row(kind), answer)


def test_words_of_the_instruction_do_not_count_as_words_of_the_text():
    text = "Strings are wrapped in double quotation marks, or in single ones."
    assert not on_task(row("quotes", text=text), "Wrapped in double quotation marks, whole.")
    assert on_task(row("the end", text=text), "Wrapped in double quotation marks, whole.")


@pytest.mark.parametrize("kind", INSTRUCTIONS)
@pytest.mark.parametrize(
    "answer", ["", "\x00", "{" * 50_000, "a" * 50_000, "<<" * 20_000, "💥 " * 99]
)
def test_hostile_answers_do_not_do_the_task(kind, answer):
    assert not on_task(row(kind), answer)
