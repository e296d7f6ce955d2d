# SPDX-License-Identifier: MIT
"""Checks of instructions: right answers, nearly right ones, and hostile ones."""

import pytest

from guide_ext.studies.tables.instructions import INSTRUCTIONS

SAID = "The baker hides the key."
LONG = "a" * 50_000

OBEYS = {
    "bullets": ["- one\n- two", "Points:\n\n* one\n* two", "• one\n  • two"],
    "three items": ["1. a\n2. b\n3. c", "Three points:\n1) a\n2) b\n3) c"],
    "title": ["<<The key>>\nHidden.", "Title: <<A baker's day>>"],
    "two paragraphs": ["One.\n***\nTwo.", "One.\n\n *** \n\nTwo."],
    "two keys": [
        '{"topic": "key", "summary": "Hidden."}',
        '```json\n{"summary": "Hidden.", "topic": "key"}\n```',
    ],
    "answer": ["Answer: hidden.", "  Answer:\nhidden."],
    "letter": ["Dear Anna,\nall is well.", "Dear Anna: all is well."],
    "the end": [
        f"{SAID} THE END",
        f"{SAID}\n\nTHE END.",
        f'{SAID} "THE END"',
        f"{SAID} **THE END**",
    ],
    "postscript": [
        f"{SAID}\n\nP.S. It is golden.",
        f"{SAID} P.S.: It is golden.",
        f"{SAID}\nP. S. x",
    ],
    "ten words": [SAID, "one two three four five six seven eight nine ten.", "well-known isn't"],
    "one sentence": [SAID, "It sees e.g. birds, i.e. animals.", "Version 3.11 is out!", '"Yes."'],
    "lower case": ["the baker hides the key.", "él está aquí"],
    "capitals": ["THE BAKER HIDES 1 KEY.", "ÜBER"],
    "keyword": ["Much sunshine.", "SUNSHINE, then rain."],
    "no the": ["A baker hides a key.", "These are other things."],
    "no commas": [SAID, "One. Two; three."],
    "quotes": [f'"{SAID}"', "“The baker hides.”", '"The "with" statement ends."'],
    "spanish": ["El panadero esconde la llave dorada en el granero."],
}
DOES_NOT = {
    "bullets": [
        "- one", "-one\n-two", "- one\n- two\nAnd so on.", "-- one\n-- two", "a\nb\n- c\n- d",
        "- one - two",
    ],
    "three items": [
        "1. a\n2. b", "1. a\n2. b\n3. c\n4. d", "1. a\n3. b\n2. c", "1. a\n2. b\n3. c\nDone.",
        "1. a 2. b 3. c", "1.a\n2.b\n3.c",
    ],
    "title": [
        "<The key>\nHidden.", "<<title>> Hidden.", "<<this>>", "<<  >>", "Hidden.\n<<The key>>",
        "<<The\nkey>>", "<< TITLE >>",
    ],
    "two paragraphs": [
        "One.\n\nTwo.", "One.\n***\nTwo.\n***\nThree.", "***\nOne.", "One.\n***", "***", "a *** b",
        "Your answer must have exactly two paragraphs with *** between them.\n\nOne.",
    ],
    "two keys": [
        '{"topic": "key"}', '{"topic": "a", "summary": "b", "more": "c"}', "topic: a, summary: b",
        'Here: {"topic": "a", "summary": "b"}', '{"topic": "", "summary": ""}',
        '{"topic": "a", "topic": "b", "summary": "c"}', '["topic", "summary"]',
        '{"topic": "a", "summary": "b"', "[" * 50_000,
    ],
    "answer": ["answer: hidden.", "The Answer: hidden.", '"Answer:" hidden.', "Answer hidden."],
    "letter": ["Dear Ann,", "Dear Annabel,", "dear anna,", "Hello. Dear Anna,", "Dear Anna's hat"],
    "the end": [
        "The end.", "THE END is near.", "the end", f"{SAID} THE ENDING", "BREATHE END",
        "Finish with THE END and write nothing after it.",
    ],
    "postscript": [
        SAID, "P.S. It is golden.", f"{SAID} P.S.", f"{SAID} p.s. It is golden.", f"{SAID} XP.S. a",
        "At the end, add a postscript that begins with P.S.\n\nThe baker hides the key.",
    ],
    "ten words": ["one two three four five six seven eight nine ten eleven", "...", "—"],
    "one sentence": [
        f"{SAID} Then he sleeps.", "The baker hides the key", f"{SAID}\n{SAID}", "Wait... what?",
        "he hides. he sleeps.", "...",
        "Write one sentence and no more.",
    ],
    "lower case": ["The key.", "the Key", "123.", "iPhone"],
    "capitals": ["THE KEY is.", "123.", "The", "THE BAKEr"],
    "keyword": [
        "Much sun shine.", "sunshiny", "sunshines",
        'Use the word "sunshine" in your answer. The baker hides.',
    ],
    "no the": [SAID, "THE baker", "Bread-the-key is the.", "..."],
    "no commas": ["One, two.", "一、二", "1,000", "..."],
    "quotes": [
        SAID, f'"{SAID}', f'{SAID}"', '"A" is "B"', "'The baker.'", '""', '"', '"A" and B"',
    ],
    "spanish": [
        "The baker hides the golden key in the barn.", "Le boulanger cache la clé dans la grange.",
        "...", "Answer in Spanish.",
    ],
}  # fmt: skip


def cases(found):
    return [(name, answer) for name, answers in found.items() for answer in answers]


@pytest.mark.parametrize(("name", "answer"), cases(OBEYS))
def test_right_answers(name, answer):
    assert INSTRUCTIONS[name].obeys(answer)


@pytest.mark.parametrize(("name", "answer"), cases(DOES_NOT))
def test_nearly_right_and_hostile_answers(name, answer):
    assert not INSTRUCTIONS[name].obeys(answer)


@pytest.mark.parametrize("name", INSTRUCTIONS)
@pytest.mark.parametrize(
    "answer", ["", " \n\t", "\x00", LONG, "<<" * 20_000, "***\n" * 20_000, '"' * 50_000]
)
def test_no_answer_breaks_a_check(name, answer):
    obeys = INSTRUCTIONS[name].obeys(answer)
    assert not (obeys and not answer.strip())


def test_every_instruction_has_cases_and_phrasings_of_its_own():
    assert set(OBEYS) == set(DOES_NOT) == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) >= 14
    phrasings = [text for one in INSTRUCTIONS.values() for text in one.phrasings]
    assert len(set(phrasings)) == 3 * len(INSTRUCTIONS)
    for one in INSTRUCTIONS.values():
        assert not any(one.obeys(phrasing) for phrasing in one.phrasings), "only an echo"
