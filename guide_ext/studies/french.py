# SPDX-License-Identifier: MIT
"""The study `french`: how often does a model that is told to summarize in French do so?

The paper's first study: the share of summaries in French over Δ, beside writing the instruction in
capitals or behind “Important:”; and what Δ costs in quality, by BERTScore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.embedded import evaluate
from guide_ext.studies.cells import Condition, Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.task import Task
from guide_ext.studies.differences import difference_table
from guide_ext.studies.report.paper import (
    GEMMA,
    MISTRAL,
    NOTEBOOKS,
    PAPER,
    Claim,
    at_condition,
    at_delta,
    printed,
)
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, over_delta, short, shortest_and_longest
from guide_ext.studies.study import BASELINES, STRESSED, Study
from guide_ext.studies.tables.metrics import LANGUAGES, language
from guide_ext.studies.tables.reading import TableRow, guided, number, text
from guide_ext.studies.tables.results import (
    Answer,
    Results,
    by_condition,
    condition_values,
    number_of_documents,
    score,
    values_by_length,
)
from guide_ext.studies.tables.statistics import histograms, rate
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DELTA,
    DOCUMENTS,
    RIGHT,
    WELL_FORMED,
    Column,
    Kind,
    Table,
    columns_by_length,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

_HISTOGRAM_BINS = 20


# What is asked.


def _rows(document: Document, tokens: int, length: tuple[int, int], number: int) -> list[Row]:
    after = f"\n\n{document.text}"
    marked = "Summarize in French"
    return [Row(document.id, TASK.name, "", marked, after, tokens, length, document.reference)]


def _judge(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    return {"in_french": float(language(answer) == "fr")}


TASK = Task(
    name="french",
    title="French",
    embedded=evaluate.CaseKind.FRENCH,
    documents=20,
    decoding=Decoding(max_new_tokens=200, temperature=1.0),
    end_tokens=10,
    rows=_rows,
    judge=_judge,
    success="in_french",
    needs=(LANGUAGES,),
)


# Tables and what they say.

IN_FRENCH = Column("in_french", "in French", Kind.SHARE)
SUMMARY = (ANSWERS, DOCUMENTS, *with_interval(IN_FRENCH), WELL_FORMED, *with_interval(RIGHT))
"""Columns about summaries."""


def summary_values(answers: Sequence[Answer]) -> list[Any]:
    """Return the values of the columns `SUMMARY`."""
    return [
        len(answers), number_of_documents(answers), *score(answers, IN_FRENCH.name),
        score(answers, WELL_FORMED.name)[0], *score(answers, RIGHT.name),
    ]  # fmt: skip


def _by_condition(results: Results) -> list[list[Any]]:
    return [
        [*condition_values(condition), *summary_values(found)]
        for condition, found in by_condition(results.answers).items()
    ]


def _by_condition_findings(rows: Sequence[TableRow]) -> list[str]:
    right = over_delta("Right in every word", rows, RIGHT.name)[:1]
    return [*over_delta("In French", rows, IN_FRENCH.name), *right]


SUMMARIES = Table(
    "french",
    "Summaries in French",
    (*CONDITION, *SUMMARY),
    rows=_by_condition,
    findings=_by_condition_findings,
)
BY_LENGTH = Table(
    "french_by_length",
    "Summaries in French, by length",
    columns_by_length(IN_FRENCH),
    rows=lambda results: values_by_length(results.answers, IN_FRENCH.name),
    findings=lambda rows: shortest_and_longest("in French", rows, IN_FRENCH.name),
)


DIFFERENCES = difference_table(
    "french_differences", "In French: each condition beside Δ = 0", IN_FRENCH.name, "In French"
)


def _win_rates(results: Results) -> list[list[Any]] | None:
    """Compare each guided summary with the plain one of the same document and sample."""
    scores = results.bert_scores
    if scores is None:
        return None

    def pair(answer: Answer) -> tuple[str, int]:
        return answer.cell.row.digest, answer.cell.sample

    groups = by_condition(a for a in results.answers if a.cell.key in scores)
    plain = {pair(answer): answer for answer in groups.get(Condition(), [])}
    rows = []
    for condition, found in groups.items():
        if condition.way != "plain" or condition.delta == 0:
            continue
        wins = [
            (a.cell.row.document, float(scores[a.cell.key] > scores[plain[pair(a)].cell.key]))
            for a in found
            if a.scores["in_french"] and pair(a) in plain and plain[pair(a)].scores["in_french"]
        ]
        rows.append([condition.delta, len(wins), *rate(wins)])
    return rows


def _win_rate_findings(rows: Sequence[TableRow]) -> list[str]:
    found = guided(rows, "win_rate")
    if not found:
        return []
    listed = ", ".join(f"{fixed(value.value)} at Δ = {short(delta)}" for delta, value in found)
    below = [short(delta) for delta, value in found if value.high is not None and value.high < 0.5]
    tail = f"; clearly below at Δ = {', '.join(below)}" if below else ""
    return [
        f"Share of pairs that the guided summary wins by BERTScore: {listed} (0.5 is a draw{tail})."
    ]


QUALITY = Table(
    "french_quality",
    "How often the guided summary has the higher BERTScore",
    (DELTA, Column("pairs"), *with_interval(Column("win_rate", "win rate", Kind.SHARE))),
    rows=_win_rates,
    findings=_win_rate_findings,
    note="pairs: documents and samples whose summaries are in French with and without GUIDE",
)


def _densities(results: Results) -> list[list[Any]] | None:
    scores = results.bert_scores
    if scores is None:
        return None
    compared = [answer for answer in results.answers if answer.cell.key in scores]
    groups = {
        "french": [scores[a.cell.key] for a in compared if a.scores["in_french"] >= 1],
        "other": [scores[a.cell.key] for a in compared if a.scores["in_french"] < 1],
    }
    found = histograms(list(groups.values()), _HISTOGRAM_BINS)
    return [
        [name, *one] for name, histogram in zip(groups, found, strict=True) for one in histogram
    ]


def _density_findings(rows: Sequence[TableRow]) -> list[str]:
    means = []
    for code, name in (("french", "in French"), ("other", "in another language")):
        bins = [
            (share, (start + end) / 2)
            for row in rows
            if text(row, "language") == code
            for start, end, share in [
                (number(row, "from"), number(row, "to"), number(row, "share"))
            ]
            if start is not None and end is not None and share is not None
        ]
        total = sum(share for share, _ in bins)
        if total > 0:
            mean = sum(share * middle for share, middle in bins) / total
            means.append(f"{fixed(mean)} {name}")
    return [f"Mean BERTScore, read off the bins: {', '.join(means)}."] if means else []


DENSITY = Table(
    "french_quality_density",
    "BERTScore of summaries in French and of others",
    (
        Column("language", kind=Kind.TEXT, words={"french": "French", "other": "another"}),
        Column("from"),
        Column("to"),
        Column("share", kind=Kind.SHARE),
    ),
    rows=_densities,
    findings=_density_findings,
)


# Figures.


def _draw_summaries(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.rates import draw_rates

    return draw_rates(
        record,
        palette,
        table=SUMMARIES.name,
        by_length=BY_LENGTH.name,
        title="Summaries in French",
        column=IN_FRENCH.name,
        label="share in French",
        others={RIGHT.name: "right in every word", WELL_FORMED.name: "well-formed"},
    )


def _draw_quality(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report import panels

    figure, (panel,) = panels.canvas(
        record,
        panels.amount(record, QUALITY.name),
        "Share of pairs in which the guided summary has the higher BERTScore",
        palette,
        height=3.4,
    )
    points = tuple(guided(record.rows(QUALITY.name), "win_rate"))
    panels.draw_series(panel, [panels.Series("guided wins", points, palette.accents[0])])
    panels.draw_reference(panel, 0.5, "a draw", palette)
    panels.delta_axis(panel, [delta for delta, _ in points])
    ends = [end for _, value in points for end in (value.value, value.low, value.high)]
    reach = max([0.2, *(1.15 * abs(end - 0.5) for end in ends if end is not None)])
    panel.set_ylim(0.5 - reach, 0.5 + reach)
    panel.set_ylabel("win rate")
    return figure


def _draw_density(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report import panels
    from guide_ext.studies.report.distributions import Histogram, draw_histograms

    figure, (panel,) = panels.canvas(
        record,
        panels.amount(record, SUMMARIES.name),
        "BERTScore of summaries by language",
        palette,
        height=3.4,
        has_intervals=False,
    )
    rows: dict[str, list[TableRow]] = {"french": [], "other": []}
    for row in record.rows(DENSITY.name):
        rows.setdefault(text(row, "language"), []).append(row)
    draw_histograms(panel, [
        Histogram("in another language", rows["other"], palette.accents[1], "///"),
        Histogram("in French", rows["french"], palette.accents[0]),
    ])  # fmt: skip
    panel.set_xlabel("BERTScore (F1)")
    panel.set_ylabel("share of summaries")
    panels.legend(figure, [panel], palette)
    return figure


# The report.

_SUMMARIES_SECTION = Section(
    "french",
    "Summaries in French",
    "Fig. 2a, 5",
    (SUMMARIES, BY_LENGTH, DIFFERENCES),
    drawings=(
        Drawing(
            "french",
            SUMMARIES,
            "Share of summaries in French over Δ, with upper case and “Important:” as levels, and "
            "over the length of the text",
            _draw_summaries,
        ),
    ),
    printed=(
        *printed(
            MISTRAL, "french", "in_french", PAPER, "Section 3",
            {at_condition(0.0): 0.294, at_condition(2.0): 0.604},
        ),
        *printed(
            MISTRAL, "french", "in_french", NOTEBOOKS, "study 01, notebook 02: three phrasings",
            {at_condition(0.0): 0.347262, at_condition(0.5): 0.448496, at_condition(1.0): 0.518147,
             at_condition(2.0): 0.600694, at_condition(5.0): 0.45304},
        ),
        *printed(
            GEMMA, "french", "in_french", PAPER, "Appendix C.2",
            {at_condition(0.0): 0.433, at_condition(2.0): 0.598, at_condition(5.0): 0.0},
        ),
        *printed(
            GEMMA, "french", "in_french", NOTEBOOKS, "study 01, notebook 08.2",
            {at_condition(0.0): 0.433687, at_condition(0.0, "upper"): 0.407909,
             at_condition(0.5): 0.514369, at_condition(1.0): 0.570551, at_condition(2.0): 0.597635,
             at_condition(5.0): 0.002427},
        ),
    ),
    claims=(
        Claim(
            MISTRAL,
            "french",
            "the best result is achieved with Δ = 2; upper case and “Important:” bring no notable "
            "improvement",
            "Section 3",
        ),
        Claim(GEMMA, "french", "upper case brings no significant improvement", "Appendix C.2"),
    ),
    in_main_text=True,
)  # fmt: skip
_QUALITY_SECTION = Section(
    "french_quality",
    "Quality of the summaries",
    "Tables 1, 2, Fig. 4",
    (QUALITY, DENSITY),
    drawings=(
        Drawing(
            "french_quality",
            QUALITY,
            "Win rate of guided summaries by BERTScore over Δ, with a line at a draw",
            _draw_quality,
        ),
        Drawing(
            "french_quality_density",
            DENSITY,
            "Two histograms of BERTScore: summaries in French, and in another language",
            _draw_density,
        ),
    ),
    printed=(
        *printed(
            MISTRAL, "french_quality", "win_rate", PAPER, "Table 1",
            {at_delta(0.5): 0.505, at_delta(1.0): 0.505, at_delta(2.0): 0.49, at_delta(5.0): 0.385},
        ),
        *printed(
            MISTRAL, "french_quality", "win_rate", NOTEBOOKS, "study 01, notebook 02",
            {at_delta(0.5): 0.505480, at_delta(1.0): 0.507023, at_delta(2.0): 0.488612,
             at_delta(5.0): 0.349679},
        ),
        *printed(
            GEMMA, "french_quality", "win_rate", PAPER, "Table 2",
            {at_delta(0.5): 0.535, at_delta(1.0): 0.467, at_delta(2.0): 0.451},
        ),
        *printed(
            GEMMA, "french_quality", "win_rate", NOTEBOOKS, "study 01, notebook 08.2",
            {at_delta(0.5): 0.534610, at_delta(1.0): 0.466750, at_delta(2.0): 0.450932},
        ),
    ),
)  # fmt: skip

STUDY = Study(
    name="french",
    title="a summary in French: how often, over Δ, beside upper case and “Important:”",
    paper="Section 3, Fig. 2a; App. C.1, C.2, Fig. 4 and 5, Tables 1 and 2",
    tasks=(TASK,),
    sections=(_SUMMARIES_SECTION, _QUALITY_SECTION),
    deltas=(0.0, 0.5, 1.0, 2.0, 5.0),
    styles=BASELINES,
    on_texts=STRESSED,
    samples=10,
)
