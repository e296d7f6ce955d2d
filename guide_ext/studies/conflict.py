# SPDX-License-Identifier: MIT
"""The study `conflict`: does the marked sentence win where something contradicts it?

In one task a sentence of the text contradicts what the model knows. In the other, two sentences of
the text disagree, and one of them is marked. Neither has a twin in the embedded world.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.studies.cells import Condition, Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.facts import FACTS, says
from guide_ext.studies.data.known import KNOWN
from guide_ext.studies.data.places import around, border_apart, border_at, borders, hidden
from guide_ext.studies.data.task import Task
from guide_ext.studies.differences import difference_table
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, interval, over_delta
from guide_ext.studies.study import BASELINES, STRESSED, Study
from guide_ext.studies.tables.reading import TableRow, estimate, text
from guide_ext.studies.tables.results import (
    Answer,
    Results,
    by_condition,
    condition_values,
    grouped,
    number_of_documents,
    score,
)
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DOCUMENTS,
    Column,
    Kind,
    Table,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

_READ = "Read this text.\n\n"
_DEPTHS = 10
_ORDERS = ("first", "second")
"""Which of two sentences that disagree is the marked one."""
# Two answers to one question: those of the paper's sentence cannot differ.
_DISPUTED = tuple(fact for fact in FACTS if len(fact.answers) > 1)
_FACTS = {fact.name: fact for fact in FACTS}
_KNOWN = {one.name: one for one in KNOWN}


# What is asked.


def _known_rows(document: Document, tokens: int, length: tuple[int, int], number: int) -> list[Row]:
    """Contradict something known at some depth; depths and facts take turns."""
    fact = KNOWN[number % len(KNOWN)]
    depth = ((number + number // len(KNOWN)) % _DEPTHS + 1) / _DEPTHS
    before, after = around(document.text, border_at(document.text, depth))
    asked = f"\n\nAccording to the text, {fact.question} Answer with one word."
    return [
        Row(
            document.id, KNOWN_TASK.name, f"{_READ}{before}", fact.sentence, f"{after}{asked}",
            tokens, length, fact.said, depth=depth, kind=fact.name,
        )
    ]  # fmt: skip


def _judge_known(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    return _outcome(answer, row.answer, _KNOWN[row.kind].known)


def _two_rows(document: Document, tokens: int, length: tuple[int, int], number: int) -> list[Row]:
    """Let two sentences disagree; every other time the marked one is the first."""
    order = _ORDERS[number % 2]
    fact = _DISPUTED[number // 2 % len(_DISPUTED)]
    rng = random.Random(f"{TWO_TASK.name} {document.id}")
    answer, rival = rng.sample(fact.answers, 2)
    one = rng.choice([0, *borders(document.text), len(document.text)])
    places = sorted((one, border_apart(document.text, one, rng)))
    place, other_place = places if order == _ORDERS[0] else reversed(places)
    marked, other = fact.sentence.format(answer), fact.sentence.format(rival)
    before, after = hidden(document.text, place, other, other_place)
    return [
        Row(
            document.id, TWO_TASK.name, f"{_READ}{before}", marked,
            f"{after}\n\n{fact.question} Answer with one word.", tokens, length, answer,
            depth=place / max(1, len(document.text)), parts=(("other", other),), variant=order,
            kind=fact.name,
        )
    ]  # fmt: skip


def _judge_two(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    other = dict(row.parts)["other"]
    return _outcome(answer, row.answer, [w for w in _FACTS[row.kind].answers if says(other, w)])


def _outcome(text: str, wanted: str, rivals: Sequence[str]) -> dict[str, float]:
    """Tell whose word an answer says; one that says both decides for none."""
    won, lost = says(text, wanted), any(says(text, rival) for rival in rivals)
    return {"won": float(won and not lost), "lost": float(lost and not won)}


KNOWN_TASK = Task(
    name="conflict_known",
    title="A sentence against what the model knows",
    embedded=None,
    documents=250,
    decoding=Decoding(max_new_tokens=30),
    end_tokens=5,
    rows=_known_rows,
    judge=_judge_known,
    success="won",
)
TWO_TASK = Task(
    name="conflict_two",
    title="Two sentences that disagree",
    embedded=None,
    documents=250,
    decoding=Decoding(max_new_tokens=30),
    end_tokens=5,
    rows=_two_rows,
    judge=_judge_two,
    success="won",
)
_TASKS = (KNOWN_TASK, TWO_TASK)


# Tables and what they say.

_ORDER = Column("marked_sentence", "marked sentence", Kind.TEXT)
_WON = Column("won", "the marked sentence's answer", Kind.SHARE)
_LOST = Column("lost", "the other answer", Kind.SHARE)
_NOUNS = {
    KNOWN_TASK.name: "The marked sentence's answer against what the model knows",
    TWO_TASK.name: "The marked sentence's answer against another sentence's",
}


def _answers(results: Results, task: Task) -> list[Answer]:
    return [answer for answer in results.answers if answer.cell.row.task == task.name]


def _by_condition(task: Task) -> Table:
    def rows(results: Results) -> list[list[Any]]:
        return [
            [*condition_values(condition), len(found), number_of_documents(found),
             *score(found, _WON.name), *score(found, _LOST.name)]
            for condition, found in by_condition(_answers(results, task)).items()
        ]  # fmt: skip

    return Table(
        task.name,
        task.title,
        (*CONDITION, ANSWERS, DOCUMENTS, *with_interval(_WON), *with_interval(_LOST)),
        rows=rows,
        findings=lambda rows: over_delta(_NOUNS[task.name], rows, _WON.name),
        note="the rest says both answers or neither",
    )


def _by_order(results: Results) -> list[list[Any]]:
    def key(answer: Answer) -> tuple[str, Condition]:
        return answer.cell.row.variant, answer.cell.condition

    return [
        [order, *condition_values(condition), len(found), *score(found, _WON.name),
         *score(found, _LOST.name)]
        for (order, condition), found in sorted(
            grouped(_answers(results, TWO_TASK), key).items(),
            key=lambda item: _ORDERS.index(item[0][0]),
        )
    ]  # fmt: skip


def _order_findings(rows: Sequence[TableRow]) -> list[str]:
    plain = {
        text(row, _ORDER.name): row for row in rows if text(row, "condition") == Condition().name
    }
    values = [estimate(plain.get(order, {}), _WON.name) for order in _ORDERS]
    if any(value is None for value in values):
        return []
    said = [f"{fixed(value.value)}{interval(value)}" for value in values if value is not None]
    return [
        f"Of two sentences that disagree, without a mark: the answer of the first {said[0]}, of "
        f"the second {said[1]}."
    ]


AGAINST_KNOWN, AGAINST_OTHER = (_by_condition(task) for task in _TASKS)
BY_ORDER = Table(
    "conflict_by_order",
    "Two sentences that disagree, by which of them is marked",
    (_ORDER, *CONDITION, ANSWERS, *with_interval(_WON), *with_interval(_LOST)),
    rows=_by_order,
    findings=_order_findings,
)
DIFFERENCES = tuple(
    difference_table(
        f"{task.name}_differences",
        f"{task.title}: each condition beside Δ = 0",
        _WON.name,
        _NOUNS[task.name],
        task.name,
    )
    for task in _TASKS
)


# The figures and the report.


def _drawing(table: Table, alt: str) -> Drawing:
    def draw(record: StudyRecord, palette: Palette) -> Any:
        from guide_ext.studies.report.rates import draw_rates

        return draw_rates(
            record,
            palette,
            table=table.name,
            title=table.title,
            column=_WON.name,
            label=_WON.title,
            others={_LOST.name: _LOST.title},
            lines={"other": "Δ on the other sentence"},
        )

    return Drawing(table.name, table, alt, draw)


STUDY = Study(
    name="conflict",
    title="a sentence against what the model knows, or against another: does the marked one win?",
    paper="",
    tasks=_TASKS,
    deltas=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
    styles=BASELINES,
    on_texts=(*STRESSED, Condition(delta=2.0, parts=("other",))),
    sections=(
        Section(
            "conflict",
            "A marked sentence against another answer",
            "",
            (AGAINST_KNOWN, AGAINST_OTHER, BY_ORDER, *DIFFERENCES),
            drawings=(
                _drawing(
                    AGAINST_KNOWN,
                    "Share of answers that follow a marked sentence against what the model knows, "
                    "over Δ, with other ways to stress it as levels",
                ),
                _drawing(
                    AGAINST_OTHER,
                    "Share of answers that follow the marked one of two sentences that disagree, "
                    "over Δ, with other ways to stress it as levels, and Δ on the other sentence",
                ),
            ),
        ),
    ),
)
