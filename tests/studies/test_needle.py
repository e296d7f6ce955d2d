# SPDX-License-Identifier: MIT
"""The study `needle`: what is hidden where, what counts as found, and its tables."""

from collections import Counter

import pytest

from guide_ext.embedded.world import Style
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row, Where
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.facts import FACTS, PAPERS_FACT
from guide_ext.studies.data.rows import document_rows
from guide_ext.studies.needle import (
    BY_CONDITION,
    BY_FACT,
    BY_LENGTH,
    BY_PROMPT,
    DEPTHS,
    DIFFERENCES,
    GRID,
    PAPERS_PROMPT,
    PLAIN_PROMPT,
    STUDY,
    TASK,
)
from guide_ext.studies.run.engine import marked_prompt
from guide_ext.studies.tables.metrics import judge
from guide_ext.studies.tables.results import Results


class Words:
    """A tokenizer of words, enough to measure documents."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


def document(index):
    paragraphs = [
        " ".join(f"Sentence {s} of paragraph {p}, i.e. of text {index}." for s in range(5))
        for p in range(6)
    ]
    return Document(f"texts.jsonl:{index}", "\n\n".join(paragraphs))


@pytest.fixture(scope="module")
def rows():
    texts = [document(index) for index in range(1, 131)]
    found, _ = document_rows(TASK, texts, 120, 1, lengths=[(0, 400)], tokenizer=Words())
    return found


# What is asked.


def test_depths_and_facts_are_balanced(rows):
    assert len(rows) == 240
    assert len({row.document for row in rows}) == 120
    for variant in (PAPERS_PROMPT, PLAIN_PROMPT):
        own = [row for row in rows if row.variant == variant]
        assert Counter(row.depth for row in own) == {step / 10: 12 for step in range(1, 11)}
        assert Counter(row.kind for row in own) == {fact.name: 20 for fact in FACTS}
        both = Counter((row.depth, row.kind) for row in own)
        assert len(both) == 60
        assert set(both.values()) == {2}
    for fact in FACTS[1:]:
        answers = Counter(row.answer for row in rows if row.kind == fact.name)
        assert len(answers) > len(fact.answers) / 2


def test_both_prompts_hide_the_same_in_the_same_text(rows):
    texts = {one.id: one.text for one in map(document, range(1, 131))}
    facts = {fact.name: fact for fact in FACTS}
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first.document == second.document
        assert (first.variant, second.variant) == (PAPERS_PROMPT, PLAIN_PROMPT)
        assert (first.marked, first.answer, first.parts) == (
            second.marked, second.answer, second.parts
        )  # fmt: skip
        question = facts[first.kind].question
        whole = [f"{row.before}{row.marked}{row.after}" for row in (first, second)]
        assert whole[0].startswith("<question>\n")
        assert whole[0].endswith("</question>")
        assert whole[0].count(question) == 2
        assert whole[1].startswith("Read this text.\n\n")
        brief = "" if first.kind == PAPERS_FACT.name else " Answer with one word."
        assert whole[1].endswith(f"\n\n{question}{brief}")
        for row, text in zip((first, second), whole, strict=True):
            other = dict(row.parts)["other"]
            assert text.count(row.marked) == text.count(other) == 1
            assert row.answer in row.marked
            assert row.answer not in texts[row.document] + other + question


def test_sentences_stand_at_borders_apart_from_each_other(rows):
    texts = {one.id: one.text for one in map(document, range(1, 131))}
    for row in rows:
        if row.variant != PLAIN_PROMPT:
            continue
        text, other = texts[row.document], dict(row.parts)["other"]
        before = row.before.removeprefix("Read this text.\n\n").replace(other, "")
        head = " ".join(before.split())
        plain = " ".join(text.split())
        assert plain.startswith(head)
        assert head == "" or head.endswith(".")
        assert not head.endswith("i.e.")
        share = len(head) / len(plain)
        assert row.depth - 0.05 <= share <= row.depth + 0.01
        without = f"{row.before}{row.after}".index(other)
        apart = abs(without - len(row.before.replace(other, "")))
        assert apart >= 0.1 * len(text) - len("\n\n\n\n")


QUARTER, WHOLE = "a quarter of the text", "the whole text"


def around_it(row, part):
    """Return the texts of a part with the marked sentence between them."""
    sides = [text for name, text in row.parts if name == part]
    left = [side for side in sides if side in row.before]
    return [*left, row.marked, *(side for side in sides if side not in left)]


def test_long_marks_are_of_the_text_alone_and_as_long_as_they_say(rows):
    texts = {one.id: one.text for one in map(document, range(1, 131))}
    for row in rows:
        text, other = texts[row.document], dict(row.parts)["other"]
        quarter, whole = (" ".join(around_it(row, part)) for part in (QUARTER, WHOLE))
        plain = whole.replace(row.marked, "").replace(other, "")
        assert " ".join(plain.split()) == " ".join(text.split())
        # Whole sentences, on either side half of what there should be, as far as there is text.
        before, after = whole.split(row.marked)
        sides = [min(len(side), len(text) / 8) for side in (before, after)]
        longest = max(len(sentence) for sentence in text.split(".")) + len(other)
        assert sum(sides) - 5 <= len(quarter) - len(row.marked) <= sum(sides) + 3 * longest


def test_every_part_that_is_stressed_is_found_in_the_prompt(rows):
    for row in rows[:40]:
        for condition in STUDY.conditions(on_texts=True):
            assert row.has(condition.parts)
            marked = marked_prompt(Cell(ANSWER, row, condition))
            stressed = [marked.text[span.start : span.end] for span in marked.spans]
            question, other = dict(row.parts)["question"], dict(row.parts)["other"]
            wanted = {
                ("marked",): [condition.style.apply(row.marked)],
                ("question",): [question] * (2 if row.variant == PAPERS_PROMPT else 1),
                ("other",): [other],
                ("marked", QUARTER): around_it(row, QUARTER),
                ("marked", WHOLE): around_it(row, WHOLE),
            }.get(condition.parts)
            if wanted is None:
                asked = [question] * (2 if row.variant == PAPERS_PROMPT else 1)
                assert sorted(stressed) == sorted([row.marked, *asked])
            else:
                assert stressed == wanted


def test_a_text_without_borders_and_an_empty_one():
    for text in ("word " * 50, "", "One."):
        for number in range(DEPTHS):
            for row in TASK.rows(Document("d", text), 50, (0, 500), number):
                whole = f"{row.before}{row.marked}{row.after}"
                assert whole.count(row.marked) == whole.count(dict(row.parts)["other"]) == 1


# What counts as found.


@pytest.mark.parametrize(
    ("wanted", "answer", "found"),
    [
        ("Dolores", "Sit in DOLORES park.", 1),
        ("Dolores", "Sit in a park.", 0),
        ("falcon", "Falcon", 1),
        ("falcon", "**falcon**.", 1),
        ("falcon", "The password is\n“falcon”", 1),
        ("falcon", "falconry", 0),
        ("falcon", "", 0),
        ("falcon", "By the way, the password of the blue door is anchor.", 0),
        ("4172", "4172", 1),
        ("4172", "41723", 0),
        ("4172", "4,172", 0),
        ("red", "It is painted bored.", 0),
    ],
)
def test_what_counts_as_found(wanted, answer, found):
    row = Row("a@1", TASK.name, "", "x", " The cat.", 3, (0, 500), wanted)
    assert judge(TASK, row, answer, is_embedded=False)["found"] == found


def test_without_an_answer_nothing_can_be_judged():
    row = Row("a@1", TASK.name, "", "x", " The cat.", 3, (0, 500))
    with pytest.raises(ValueError, match="word must be a word to look for, got ''"):
        judge(TASK, row, "anything", is_embedded=False)


# Tables.


@pytest.fixture(scope="module")
def results(rows):
    """Answers that are right where a number of the row and the condition says so."""
    cells, records = [], {}
    for index, row in enumerate(rows):
        for condition in STUDY.conditions(on_texts=True):
            cell = Cell(ANSWER, row, condition)
            right = (condition.delta == 2 and condition.parts == ("marked",)) or index % 4 == 0
            cells.append(cell)
            records[cell.key] = {"text": row.answer if right else "no", "new_tokens": 1}
    return Results(cells, records, [TASK], is_embedded=False)


def named(table, results):
    return [
        dict(zip([column.name for column in table.columns], row, strict=True))
        for row in table.rows(results)
    ]


def test_the_tables_of_conditions_and_prompts(rows, results):
    conditions = STUDY.conditions(on_texts=True)
    found = named(BY_CONDITION, results)
    assert [row["condition"] for row in found] == [one.name for one in conditions]
    assert all((row["answers"], row["documents"]) == (240, 120) for row in found)
    values = {row["condition"]: row["found"] for row in found}
    assert values["Δ = 0"] == values["Δ = 2 on question"] == values["Δ = 2 on other"] == 0.25
    assert values["Δ = 2"] == 1.0
    by_prompt = named(BY_PROMPT, results)
    assert len(by_prompt) == 2 * len(conditions)
    at_zero = {row["prompt"]: row["found"] for row in by_prompt if row["condition"] == "Δ = 0"}
    assert at_zero == {PAPERS_PROMPT: 0.5, PLAIN_PROMPT: 0.0}
    assert [row["prompt"] for row in by_prompt][:: len(conditions)] == [
        PAPERS_PROMPT, PLAIN_PROMPT
    ]  # fmt: skip


def test_the_map_and_the_facts_have_no_other_condition_than_a_strength(results):
    for table in (GRID, BY_FACT):
        found = named(table, results)
        assert {row["delta"] for row in found} == set(STUDY.deltas)
        for delta in STUDY.deltas:
            assert sum(row["answers"] for row in found if row["delta"] == delta) == 240
    grid = [row for row in named(GRID, results) if row["delta"] == 0]
    assert len(grid) == DEPTHS
    assert {row["answers"] for row in grid} == {24}
    facts = [row for row in named(BY_FACT, results) if row["delta"] == 2]
    assert [row["fact"] for row in facts[::2]] == [fact.name for fact in FACTS]
    assert all(row["found"] == 1 for row in facts)


def test_lengths_and_differences(results):
    assert {row["length_to"] for row in named(BY_LENGTH, results)} == {400}
    gains = {row["condition"]: row for row in named(DIFFERENCES, results)}
    assert gains["Δ = 2"]["difference"] == 0.75
    assert gains["Δ = 2"]["p_corrected"] < 0.01
    assert gains["Δ = 2 on other"]["difference"] == 0
    assert "Δ = 0" not in gains


def test_the_embedded_world_has_the_tables_that_it_had(rows):
    row = Row("needle-1", TASK.name, "a", "b", "c", 3, (0, 64), "d", depth=0.5)
    cell = Cell(ANSWER, row, Condition())
    results = Results([cell], {cell.key: {"text": "d", "new_tokens": 1}}, [TASK], is_embedded=True)
    made = [table.name for table in STUDY.tables if table.made(results) is not None]
    assert made == ["needle", "needle_grid"]
    conditions = STUDY.conditions()
    assert all(one.way == "plain" for one in conditions)
    assert Condition(Style.UPPER) in STUDY.conditions(on_texts=True)
    assert Condition(delta=2.0, where=Where.LATE) in STUDY.conditions(on_texts=True)


def test_the_papers_numbers_are_of_its_own_sentence_and_prompt():
    (section,) = STUDY.sections
    for one in section.printed:
        assert dict(one.row)["fact"] == PAPERS_FACT.name
        assert dict(one.row)["prompt"] == PAPERS_PROMPT
