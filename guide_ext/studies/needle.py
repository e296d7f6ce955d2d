# SPDX-License-Identifier: MIT
"""The study `needle`: is a sentence found that is hidden in a text?

The sentence is marked. It is hidden at several depths of texts of several lengths. In real texts, a
second sentence is hidden elsewhere: marking that one, or the question, or more than the sentence,
are the controls.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.embedded import evaluate
from guide_ext.studies.cells import MARKED, Condition, Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.facts import FACTS, PAPERS_FACT, says
from guide_ext.studies.data.places import beside, border_apart, border_at, hidden
from guide_ext.studies.data.task import Task
from guide_ext.studies.differences import difference_table
from guide_ext.studies.report.paper import (
    MISTRAL,
    NOTEBOOKS,
    PAPER,
    Claim,
    Key,
    at_condition,
    printed,
)
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import (
    fixed,
    length_range,
    over_delta,
    short,
    shortest_and_longest,
)
from guide_ext.studies.study import BASELINES, SOME_LAYERS, STRESSED, Study
from guide_ext.studies.tables.reading import TableRow, number, text
from guide_ext.studies.tables.results import (
    Answer,
    Results,
    by_condition,
    condition_values,
    grouped,
    number_of_documents,
    score,
    values_by_length,
)
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DELTA,
    DOCUMENTS,
    LENGTH,
    Column,
    Kind,
    Table,
    columns_by_length,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

DEPTHS = 10
"""Places of the needle, at equal distances; the last is the end of the text."""
PAPERS_PROMPT, PLAIN_PROMPT = "the paper's", "plain"
"""The ways to ask: the question before and after the text, with rules; or after it alone."""
_QUESTION = """\
<question>
Your objective is to answer the following question based on the context:
{question}
Don't give information outside the document or repeat our findings
</question>"""
_READ = "Read this text.\n\n"
_LONG_MARKS = {"a quarter of the text": 0.25, "the whole text": 1.0}
"""Parts that are marked beside the sentence, so that the mark gets long."""
_IN_ONE_WORD = " Answer with one word."


# What is asked.


def _rows(document: Document, tokens: int, length: tuple[int, int], number: int) -> list[Row]:
    """Hide a fact, and another that is not asked for; ask by both prompts.

    Depths and facts take turns: among 60 documents each depth meets each fact once.
    """
    depth = (number % DEPTHS + 1) / DEPTHS
    fact = FACTS[(number + number // DEPTHS) % len(FACTS)]
    rng = random.Random(f"{TASK.name} {document.id}")
    needle, answer = fact.drawn(rng)
    other, _ = rng.choice([one for one in FACTS if one is not fact]).drawn(rng)
    place = border_at(document.text, depth)
    other_place = border_apart(document.text, place, rng)
    before, after = hidden(document.text, place, other, other_place)
    parts = [("question", fact.question), ("other", other)]
    for name, share in _LONG_MARKS.items():
        parts += [(name, side) for side in beside(before, after, share) if side]
    asked = _QUESTION.format(question=fact.question)
    brief = _IN_ONE_WORD if fact.in_one_word else ""
    prompts = {
        PAPERS_PROMPT: (f"{asked}\n{before}", f"{after}\n{asked}"),
        PLAIN_PROMPT: (f"{_READ}{before}", f"{after}\n\n{fact.question}{brief}"),
    }
    return [
        Row(
            f"{document.id}@{index}", TASK.name, start, needle, end, tokens, length, answer,
            depth=depth, parts=tuple(parts), variant=variant, kind=fact.name,
        )
        for index, (variant, (start, end)) in enumerate(prompts.items(), 1)
    ]  # fmt: skip


def _question_and_text(row: Row) -> tuple[str, str] | None:
    """Return None for the paper's prompt: another row asks the same about the same text."""
    if not row.variant:  # of the embedded world
        return row.before.partition("\n")[::2]  # the first line, and the rest
    if row.variant != PLAIN_PROMPT:
        return None
    return row.texts_of("question")[0], row.before.removeprefix(_READ)


def _judge(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    return {"found": float(says(answer, row.answer) if right is None else right)}


def _embedded_depth(case: evaluate.Case) -> float:
    before = len(case.before.partition("\n")[2])  # the question stands before the text, too
    return before / max(1, before + len(case.after.rpartition("\n")[0]))


TASK = Task(
    name="needle",
    title="Needle",
    embedded=evaluate.CaseKind.NEEDLE,
    documents=250,
    decoding=Decoding(max_new_tokens=30),
    end_tokens=5,
    rows=_rows,
    judge=_judge,
    success="found",
    embedded_depth=_embedded_depth,
    question_and_text=_question_and_text,
)


# Tables and what they say.

_FOUND_COLUMN = Column("found", kind=Kind.SHARE)


def _by_condition(results: Results) -> list[list[Any]]:
    return [
        [*condition_values(condition), len(found), number_of_documents(found),
         *score(found, "found")]
        for condition, found in by_condition(results.answers).items()
    ]  # fmt: skip


BY_CONDITION = Table(
    "needle",
    "A sentence hidden in a text",
    (*CONDITION, ANSWERS, DOCUMENTS, *with_interval(_FOUND_COLUMN)),
    rows=_by_condition,
    findings=lambda rows: over_delta("Needle found", rows, "found"),
)


def _guided(results: Results) -> list[Answer]:
    return [answer for answer in results.answers if answer.cell.condition.way == "plain"]


def _by_prompt(results: Results) -> list[list[Any]] | None:
    return None if results.is_embedded else _by_variant(results.answers)


def _by_fact(results: Results) -> list[list[Any]] | None:
    if results.is_embedded:
        return None
    kinds = grouped(_guided(results), lambda answer: answer.cell.row.kind)
    order = [fact.name for fact in FACTS]
    return [
        [kind, *values]
        for kind in sorted(kinds, key=order.index)
        for values in _by_variant(kinds[kind])
    ]


def _by_variant(answers: Sequence[Answer]) -> list[list[Any]]:
    def key(answer: Answer) -> tuple[str, Condition]:
        return answer.cell.row.variant, answer.cell.condition

    return [
        [variant, *condition_values(condition), len(found), *score(found, "found")]
        for (variant, condition), found in sorted(
            grouped(answers, key).items(), key=lambda item: item[0][0] != PAPERS_PROMPT
        )
    ]


_PROMPT = Column("prompt", kind=Kind.TEXT)

BY_PROMPT = Table(
    "needle_by_prompt",
    "A sentence hidden in a text, by the prompt",
    (_PROMPT, *CONDITION, ANSWERS, *with_interval(_FOUND_COLUMN)),
    rows=_by_prompt,
    findings=lambda rows: [
        sentence
        for prompt in dict.fromkeys(text(row, "prompt") for row in rows)
        for sentence in over_delta(
            f"With {prompt} prompt" if prompt == PAPERS_PROMPT else f"With the {prompt} prompt",
            [row for row in rows if text(row, "prompt") == prompt],
            "found",
        )[:1]
    ],
)
BY_FACT = Table(
    "needle_by_fact",
    "A sentence hidden in a text, by what it says",
    (
        Column("fact", kind=Kind.TEXT), _PROMPT, *CONDITION, ANSWERS,
        *with_interval(_FOUND_COLUMN),
    ),
    rows=_by_fact,
    findings=lambda rows: [],
)  # fmt: skip
BY_LENGTH = Table(
    "needle_by_length",
    "A sentence hidden in a text, by length",
    columns_by_length(_FOUND_COLUMN),
    rows=lambda results: (
        None if results.is_embedded else values_by_length(results.answers, "found")
    ),
    findings=lambda rows: shortest_and_longest("needle found", rows, "found"),
)
DIFFERENCES = difference_table(
    "needle_differences", "A hidden sentence: each condition beside Δ = 0", "found", "Needle found"
)


def _by_place(results: Results) -> list[list[Any]]:
    """Rows of Δ on the needle alone: a map is one of Δ."""

    def place(answer: Answer) -> tuple[float, tuple[int, int], tuple[float, float]]:
        row = answer.cell.row
        depth = _depth_range(row.depth or 0.0, 5 if results.is_embedded else DEPTHS)
        return answer.cell.condition.delta, row.length, depth

    return [
        [delta, *length, *depth, len(found), score(found, "found")[0]]
        for (delta, length, depth), found in sorted(grouped(_guided(results), place).items())
    ]


def _depth_range(depth: float, parts: int) -> tuple[float, float]:
    """Return the range that a depth belongs to; ranges are ``(from, to]``."""
    index = min(parts - 1, max(0, -int(-depth * parts // 1) - 1))
    return round(index / parts, 6), round((index + 1) / parts, 6)


def _hardest_place(rows: Sequence[TableRow]) -> list[str]:
    known = [(number(row, "found"), row) for row in rows if number(row, "delta") == 0]
    places = [(value, row) for value, row in known if value is not None]
    if not places:
        return []
    worst, row = min(places, key=lambda place: place[0])
    start, end = number(row, "depth_from") or 0.0, number(row, "depth_to") or 0.0
    return [
        f"Hardest place at Δ = 0: {fixed(worst)} in texts of {length_range(row)} tokens, "
        f"{short(100 * start)}–{short(100 * end)} % into the text."
    ]


GRID = Table(
    "needle_grid",
    "A sentence hidden in a text, by length and depth",
    (
        DELTA,
        *LENGTH,
        Column("depth_from", "depth", Kind.DEPTH),
        Column("depth_to", "depth", Kind.DEPTH),
        ANSWERS,
        _FOUND_COLUMN,
    ),
    rows=_by_place,
    findings=_hardest_place,
)


# Figures.


def _draw_rates(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.rates import draw_rates

    return draw_rates(
        record,
        palette,
        table=BY_CONDITION.name,
        by_length=BY_LENGTH.name,
        title="A needle in a haystack",
        column="found",
        label="share found",
        lines={
            "question": "Δ on the question",
            "marked+question": "Δ on sentence and question",
            "other": "Δ on another sentence",
            **{f"{MARKED}+{part}": f"Δ on {part}" for part in _LONG_MARKS},
        },
    )


def _draw_grid(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.maps import draw_maps

    return draw_maps(
        record,
        palette,
        table=GRID.name,
        column="found",
        title="Share of needles found, by length of the text and depth of the needle",
        depth_label="depth of the needle",
        bar_label="share found",
        counted=(BY_CONDITION.name, GRID.name),
    )


# The report.


def _papers_own(delta: float) -> Key:
    """Name the row of what the paper asked, by its prompt."""
    return (("fact", PAPERS_FACT.name), ("prompt", PAPERS_PROMPT), *at_condition(delta))


STUDY = Study(
    name="needle",
    title="a sentence hidden in a text: found or not, over length, depth and Δ",
    paper="App. C.3.1, Fig. 6",
    tasks=(TASK,),
    deltas=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
    on_texts=(
        *(Condition(style) for style in BASELINES),
        *STRESSED,
        Condition(delta=2.0, parts=("question",)),
        Condition(delta=2.0, parts=(MARKED, "question")),
        Condition(delta=1.0, parts=("other",)),
        Condition(delta=2.0, parts=("other",)),
        *(Condition(delta=2.0, parts=(MARKED, part)) for part in _LONG_MARKS),
        *SOME_LAYERS,
    ),
    sections=(
        Section(
            "needle",
            "A needle in a haystack",
            "Fig. 6",
            (BY_CONDITION, BY_PROMPT, GRID, BY_FACT, BY_LENGTH, DIFFERENCES),
            drawings=(
                Drawing(
                    "needle",
                    BY_CONDITION,
                    "Share of needles found over Δ, with upper case and “Important:” as levels",
                    _draw_rates,
                ),
                Drawing(
                    "needle_grid",
                    GRID,
                    "Heat maps of the share of needles found, length of the text by depth of the "
                    "needle, one for every Δ",
                    _draw_grid,
                ),
            ),
            printed=(
                *printed(
                    MISTRAL, "needle_by_fact", "found", PAPER, "Appendix C.3.1",
                    {_papers_own(0.0): 0.890, _papers_own(1.0): 0.959},
                ),
                *printed(
                    MISTRAL, "needle_by_fact", "found", NOTEBOOKS,
                    "study 02, notebook 02: mean of the cells of 1.c",
                    {_papers_own(0.0): 0.891, _papers_own(1.0): 0.958},
                ),
            ),
            claims=(
                Claim(MISTRAL, "needle", "the optimal Δ is around 1", "Appendix C.3.1"),
                Claim(
                    MISTRAL,
                    "needle_grid",
                    "the needle is found better at the beginning or the end of the text",
                    "Appendix C.3.1",
                ),
            ),
        ),
    ),
)  # fmt: skip
