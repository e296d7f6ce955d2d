# SPDX-License-Identifier: MIT
"""The study `needle`: is a sentence found that is hidden in a text?

The sentence is marked. It is hidden at several depths of texts of several lengths, and the question
that it answers stands before and after the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.embedded import evaluate
from guide_ext.studies.cells import Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.task import Task
from guide_ext.studies.report.paper import MISTRAL, NOTEBOOKS, PAPER, Claim, at_condition, printed
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, length_range, over_delta, short
from guide_ext.studies.study import Study
from guide_ext.studies.tables.reading import TableRow, number
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
    DELTA,
    DOCUMENTS,
    LENGTH,
    Column,
    Kind,
    Table,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

DEPTHS = 10
"""Places of the needle in a document, at equal distances; the last is its end."""
NEEDLE = (
    "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny "
    "day."
)
_FOUND = "dolores"  # in an answer that has found it
_QUESTION = """\
<question>
Your objective is to answer the following question based on the context:
What is the best thing to do in San Francisco?
Don't give information outside the document or repeat our findings
</question>"""
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


# What is asked.


def _rows(document: Document, tokens: int, length: tuple[int, int]) -> list[Row]:
    """Hide the needle at every depth, moved up to the end of a sentence if there is one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(document.text)]
    rows = []
    for step in range(1, DEPTHS + 1):
        depth = step / DEPTHS
        wanted = round(depth * len(document.text))
        place = max((end for end in ends if end <= wanted), default=0)
        if step == DEPTHS:
            place = len(document.text)
        before = f"{_QUESTION}\n{document.text[:place]} ".lstrip(" ")
        after = f" {document.text[place:].lstrip()}\n{_QUESTION}"
        name = f"{document.id}@{depth:g}"
        rows.append(Row(name, TASK.name, before, NEEDLE, after, tokens, length, depth=depth))
    return rows


def _judge(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    return {"found": float(_FOUND in answer.lower() if right is None else right)}


def _embedded_depth(case: evaluate.Case) -> float:
    before = len(case.before.partition("\n")[2])  # the question stands before the text, too
    return before / max(1, before + len(case.after.rpartition("\n")[0]))


TASK = Task(
    name="needle",
    title="Needle",
    embedded=evaluate.CaseKind.NEEDLE,
    documents=25,
    decoding=Decoding(max_new_tokens=30),
    end_tokens=5,
    rows=_rows,
    judge=_judge,
    success="found",
    embedded_depth=_embedded_depth,
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


def _by_place(results: Results) -> list[list[Any]]:
    def place(answer: Answer) -> tuple[float, tuple[int, int], tuple[float, float]]:
        row = answer.cell.row
        depth = _depth_range(row.depth or 0.0, 5 if results.is_embedded else DEPTHS)
        return answer.cell.condition.delta, row.length, depth

    return [
        [delta, *length, *depth, len(found), score(found, "found")[0]]
        for (delta, length, depth), found in sorted(grouped(results.answers, place).items())
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
        title="A needle in a haystack",
        column="found",
        label="share found",
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

STUDY = Study(
    name="needle",
    title="a sentence hidden in a text: found or not, over length, depth and Δ",
    paper="App. C.3.1, Fig. 6",
    tasks=(TASK,),
    deltas=(0.0, 0.5, 1.0, 2.0, 5.0),
    sections=(
        Section(
            "needle",
            "A needle in a haystack",
            "Fig. 6",
            (BY_CONDITION, GRID),
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
                    MISTRAL, "needle", "found", PAPER, "Appendix C.3.1",
                    {at_condition(0.0): 0.890, at_condition(1.0): 0.959},
                ),
                *printed(
                    MISTRAL, "needle", "found", NOTEBOOKS,
                    "study 02, notebook 02: mean of the cells of 1.c",
                    {at_condition(0.0): 0.891, at_condition(1.0): 0.958},
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
