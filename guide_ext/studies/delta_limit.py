# SPDX-License-Identifier: MIT
"""The study `delta_limit`: what does a large Δ do to the text?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.studies.french import IN_FRENCH, TASK
from guide_ext.studies.report.paper import MISTRAL, Claim
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, short
from guide_ext.studies.study import Study
from guide_ext.studies.tables.reading import TableRow, guided, number
from guide_ext.studies.tables.results import Results, by_condition, score
from guide_ext.studies.tables.table import (
    ANSWERS,
    DELTA,
    RIGHT,
    WELL_FORMED,
    Column,
    Kind,
    Table,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

_REPEATED = Column("repeated", "mostly repeating itself", Kind.SHARE)
_NEW_TOKENS = Column("new_tokens", "new tokens")


def _rows(results: Results) -> list[list[Any]]:
    return [
        [
            condition.delta, len(found), score(found, IN_FRENCH.name)[0],
            score(found, WELL_FORMED.name)[0], *score(found, RIGHT.name),
            score(found, _REPEATED.name)[0],
            round(sum(answer.new_tokens for answer in found) / len(found), 3),
        ]
        for condition, found in by_condition(results.answers).items()
    ]  # fmt: skip


def _findings(rows: Sequence[TableRow]) -> list[str]:
    """Compare the first, the best and the last Δ."""
    sentences = []
    for noun, column in (
        ("In French", IN_FRENCH),
        ("Right in every word", RIGHT),
        ("Well-formed", WELL_FORMED),
        ("Mostly repeating themselves", _REPEATED),
    ):
        found = guided(rows, column.name)
        if len(found) < 2:
            continue
        best = max(found, key=lambda pair: pair[1].value)
        listed = sorted({pair[0]: pair[1] for pair in (found[0], best, found[-1])}.items())
        shown = (f"{fixed(value.value)} at Δ = {short(delta)}" for delta, value in listed)
        sentences.append(f"{noun}: {', '.join(shown)}.")
    return sentences


LIMIT = Table(
    "delta_limit",
    "What a large Δ does",
    (DELTA, ANSWERS, IN_FRENCH, WELL_FORMED, *with_interval(RIGHT), _REPEATED, _NEW_TOKENS),
    rows=_rows,
    findings=_findings,
    note="repeated: share of answers most of whose three-word sequences stood there before",
)


def _draw(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report import panels

    rows = record.rows(LIMIT.name)
    lengths = tuple(guided(rows, _NEW_TOKENS.name))
    figure, axes = panels.canvas(
        record,
        panels.amount(record, LIMIT.name),
        "Where Δ is too large",
        palette,
        widths=(1.5, 1.0) if lengths else (1.0,),
        has_intervals=any(value.has_interval for _, value in guided(rows, RIGHT.name)),
    )
    series: list[panels.Series] = []
    for column, color, dash in (
        (RIGHT, palette.accents[2], 0),
        (IN_FRENCH, palette.accents[0], 0),
        (WELL_FORMED, palette.soft, 2),
        (_REPEATED, palette.accents[1], 1),
    ):
        points = tuple(guided(rows, column.name))
        if points:
            marker = panels.MARKERS[len(series)]
            series.append(panels.Series(column.title, points, color, marker, panels.DASHES[dash]))
    panels.draw_series(axes[0], series)
    panels.rate_axis(axes[0], "share of answers")
    if lengths:
        panels.draw_series(axes[1], [panels.Series("", lengths, palette.accents[3], "D")])
        axes[1].set_ylim(0, 1.08 * max(value.value for _, value in lengths) or 1.0)
        axes[1].set_ylabel("new tokens, mean")
    for panel in axes:
        panels.delta_axis(panel, [number(row, "delta") or 0.0 for row in rows])
    panels.legend(figure, axes[:1], palette)
    return figure


STUDY = Study(
    name="delta_limit",
    title="what a large Δ does to the text",
    paper="App. E",
    tasks=(TASK,),
    deltas=(0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 9.0),
    keeps_deltas=True,
    answers_to_read=2,
    sections=(
        Section(
            "delta_limit",
            "Where Δ is too large",
            "Appendix E",
            (LIMIT,),
            drawings=(
                Drawing(
                    "delta_limit",
                    LIMIT,
                    "Shares of answers in French, well-formed and mostly repeating themselves over "
                    "Δ, and how many tokens are written",
                    _draw,
                ),
            ),
            claims=(
                Claim(
                    MISTRAL,
                    "delta_limit",
                    "Δ > 5 very often produces incorrect or nonsensical output; at Δ = 9, "
                    "greedily: “1. 19th century, 19th century,”",
                    "Appendix E.2",
                ),
            ),
        ),
    ),
)
