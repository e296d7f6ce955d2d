# SPDX-License-Identifier: MIT
"""The study `conflict`: what contradicts what, whose answer counts, and the tables."""

import re
from collections import Counter

import pytest

from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.conflict import (
    AGAINST_KNOWN,
    AGAINST_OTHER,
    BY_ORDER,
    DIFFERENCES,
    KNOWN_TASK,
    STUDY,
    TWO_TASK,
)
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.facts import FACTS, says
from guide_ext.studies.data.known import KNOWN
from guide_ext.studies.data.rows import document_rows
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.run.engine import marked_prompt
from guide_ext.studies.tables.metrics import judge
from guide_ext.studies.tables.results import Results


class Words:
    """A tokenizer of words, enough to measure documents."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


def document(index):
    sentences = [f"This is sentence {number} of text {index}." for number in range(40)]
    return Document(f"texts.jsonl:{index}", " ".join(sentences))


TEXTS = {one.id: one.text for one in map(document, range(1, 141))}


def rows_of(task):
    texts = [Document(name, text) for name, text in TEXTS.items()]
    found, _ = document_rows(task, texts, 120, 1, lengths=[(0, 400)], tokenizer=Words())
    assert len(found) == len({row.document for row in found}) == 120
    return found


@pytest.fixture(scope="module")
def known_rows():
    return rows_of(KNOWN_TASK)


@pytest.fixture(scope="module")
def two_rows():
    return rows_of(TWO_TASK)


# What is asked.


def test_every_contradiction_contradicts_and_says_nothing_right():
    for one in KNOWN:
        assert says(one.sentence, one.said)
        assert not any(says(one.sentence, word) for word in one.known)
        assert not any(says(one.question, word) for word in (*one.known, one.said))
        assert one.question[0].islower()
        assert one.question.endswith("?")
    assert len({one.name for one in KNOWN}) == len(KNOWN) == 20


def test_known_rows(known_rows):
    assert Counter(row.depth for row in known_rows) == {step / 10: 12 for step in range(1, 11)}
    assert Counter(row.kind for row in known_rows) == {one.name: 6 for one in KNOWN}
    assert len({(row.depth, row.kind) for row in known_rows}) == 120
    for row in known_rows:
        whole = f"{row.before}{row.marked}{row.after}"
        text, question = whole.removeprefix("Read this text.\n\n").split("\n\n")
        assert " ".join(text.replace(row.marked, " ").split()) == TEXTS[row.document]
        assert re.fullmatch(r"According to the text, \w.*\? Answer with one word\.", question)
        head = " ".join(row.before.removeprefix("Read this text.\n\n").split())
        assert row.depth - 0.03 <= len(head) / len(TEXTS[row.document]) <= row.depth


def test_two_rows(two_rows):
    kinds = [fact.name for fact in FACTS[1:]]
    assert Counter((row.variant, row.kind) for row in two_rows) == {
        (order, kind): 12 for order in ("first", "second") for kind in kinds
    }
    apart = []
    for row in two_rows:
        other = dict(row.parts)["other"]
        whole = f"{row.before}{row.marked}{row.after}"
        assert whole.count(row.marked) == whole.count(other) == 1
        assert row.marked != other
        first = whole.index(row.marked) < whole.index(other)
        assert row.variant == ("first" if first else "second")
        apart.append(abs(whole.index(row.marked) - whole.index(other)))
        (question,) = [fact.question for fact in FACTS if fact.name == row.kind]
        text, asked = whole.removeprefix("Read this text.\n\n").split("\n\n")
        assert asked == f"{question} Answer with one word."
        plain = text.replace(row.marked, " ").replace(other, " ")
        assert " ".join(plain.split()) == TEXTS[row.document]
    assert min(apart) >= 0.1 * min(map(len, TEXTS.values()))


def test_the_first_wins_as_often_as_the_second_whatever_the_depth(two_rows):
    """The two places are drawn alike; only their order differs."""
    depths = {
        order: sorted(row.depth for row in two_rows if row.variant == order)
        for order in ("first", "second")
    }
    middles = [depths[order][30] for order in ("first", "second")]
    assert middles[0] < 0.5 < middles[1]


def test_marks_are_on_the_sentence_or_its_rival(known_rows, two_rows):
    other = Condition(delta=2.0, parts=("other",))
    for row in two_rows[:20]:
        marked = marked_prompt(Cell(ANSWER, row, other))
        assert [marked.text[s.start : s.end] for s in marked.spans] == [dict(row.parts)["other"]]
    settings = RunSettings(studies=("conflict",), data="texts.jsonl")
    cells = study_cells(STUDY, settings, [known_rows[0], two_rows[0]])
    asked = {
        task: [cell.condition for cell in cells if cell.row.task == task]
        for task in (KNOWN_TASK.name, TWO_TASK.name)
    }
    assert other in asked[TWO_TASK.name]
    assert [*asked[KNOWN_TASK.name], other] == asked[TWO_TASK.name]


def test_the_embedded_world_has_no_such_tasks():
    assert "conflict" not in RunSettings().studies
    with pytest.raises(ValueError, match="data must be given for the study conflict"):
        RunSettings(studies=("conflict",))


# Whose answer counts.


@pytest.mark.parametrize(
    ("answer", "won", "lost"),
    [
        ("Lyon", 1, 0),
        ("The capital of France is LYON.", 1, 0),
        ("Paris", 0, 1),
        ("According to the text it is Lyon, but it is Paris.", 0, 0),
        ("Lyonnais", 0, 0),
        ("", 0, 0),
        ("Marseille", 0, 0),
        ("Parisian Lyon", 1, 0),
    ],
)
def test_a_sentence_against_what_is_known(answer, won, lost):
    row = Row("a", KNOWN_TASK.name, "", "x", "", 3, (0, 500), "Lyon", kind="capital of France")
    found = judge(KNOWN_TASK, row, answer, is_embedded=False)
    assert (found["won"], found["lost"]) == (won, lost)


def test_any_name_of_what_is_known_counts():
    row = Row("a", KNOWN_TASK.name, "", "x", "", 3, (0, 500), "Rembrandt", kind="Mona Lisa")
    for answer in ("Leonardo", "da Vinci", "DA VINCI, not Rembrandt"):
        assert judge(KNOWN_TASK, row, answer, is_embedded=False)["won"] == 0


@pytest.mark.parametrize(
    ("answer", "won", "lost"),
    [
        ("falcon", 1, 0),
        ("Anchor.", 0, 1),
        ("falcon or anchor", 0, 0),
        ("maple", 0, 0),
        ("The password is falcon. The password is maple.", 1, 0),
        ("", 0, 0),
    ],
)
def test_a_sentence_against_another(answer, won, lost):
    other = "By the way, the password of the blue door is anchor."
    row = Row("a", TWO_TASK.name, "", "x", other, 3, (0, 500), "falcon",
              parts=(("other", other),), kind="password")  # fmt: skip
    found = judge(TWO_TASK, row, answer, is_embedded=False)
    assert (found["won"], found["lost"]) == (won, lost)


# Tables.


@pytest.fixture(scope="module")
def results(known_rows, two_rows):
    """Of two sentences the second wins, but for Δ = 2; against the known, Δ above 1 wins."""
    cells, records = [], {}
    for row in [*known_rows[:60], *two_rows[:60]]:
        for condition in STUDY.conditions(on_texts=True):
            if not row.has(condition.parts):
                continue
            is_marked = condition.parts == ("marked",) and condition.delta
            says_marked = (condition.delta >= 2) if row.task == KNOWN_TASK.name else (
                condition.delta >= 2 if is_marked else
                row.variant == "second" and condition.parts == ("marked",)
            )  # fmt: skip
            lost = "Paris" if row.kind == "capital of France" else dict(row.parts).get("other", "")
            cell = Cell(ANSWER, row, condition)
            cells.append(cell)
            records[cell.key] = {"text": row.answer if says_marked else lost, "new_tokens": 1}
    return Results(cells, records, STUDY.tasks, is_embedded=False)


def named(table, results):
    return {
        tuple(row[: 2 if table is BY_ORDER else 1]): dict(
            zip([column.name for column in table.columns], row, strict=True)
        )
        for row in table.rows(results)
    }


def test_tables_by_condition(results):
    known, two = named(AGAINST_KNOWN, results), named(AGAINST_OTHER, results)
    assert ("Δ = 2 on other",) not in known
    assert {row["answers"] for row in [*known.values(), *two.values()]} == {60}
    assert known["Δ = 1",]["won"] == 0.0
    assert known["Δ = 1",]["lost"] == pytest.approx(3 / 60)
    assert known["Δ = 2",]["won"] == 1.0
    assert two["Δ = 0",]["won"] == two["Δ = 0",]["lost"] == 0.5
    assert two["Δ = 2",]["won"] == 1.0
    assert two["Δ = 2 on other",]["lost"] == 1.0


def test_the_order_of_two_sentences(results):
    found = named(BY_ORDER, results)
    assert found["first", "Δ = 0"]["won"] == 0.0
    assert found["second", "Δ = 0"]["won"] == 1.0
    assert found["first", "Δ = 0"]["answers"] == 30
    (said,) = BY_ORDER.findings(list(found.values()))
    assert said.startswith(
        "Of two sentences that disagree, without a mark: the answer of the first 0.00"
    )
    assert "of the second 1.00" in said
    assert BY_ORDER.findings([]) == []


def test_differences_are_of_one_task(results):
    known, two = (named(table, results) for table in DIFFERENCES)
    assert known["Δ = 2",]["difference"] == 1.0
    assert two["Δ = 2",]["difference"] == 0.5
    assert two["Δ = 2 on other",]["difference"] == -0.5
    assert known["Δ = 2",]["answers"] == two["Δ = 2",]["answers"] == 60
