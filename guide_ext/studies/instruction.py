# SPDX-License-Identifier: MIT
"""The study `instruction`: is an instruction followed whose following a program can check?

A text is to be summarized, and a further instruction says how: in bullet points, with THE END at
the end. The instruction is marked. An answer is a success if it obeys and still does the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from guide_ext.studies.cells import Condition, Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.task import Task
from guide_ext.studies.differences import DIFFERENCE, P_CORRECTED, P, difference_table
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, interval, over_delta, short
from guide_ext.studies.study import BASELINES, SOME_LAYERS, STRESSED, Study
from guide_ext.studies.tables.instructions import INSTRUCTIONS
from guide_ext.studies.tables.metrics import LANGUAGES
from guide_ext.studies.tables.on_task import on_task
from guide_ext.studies.tables.paired import holm, paired, sign_flip
from guide_ext.studies.tables.reading import TableRow, estimate, number, text
from guide_ext.studies.tables.results import (
    Answer,
    Results,
    by_condition,
    condition_values,
    grouped,
    number_of_documents,
    score,
)
from guide_ext.studies.tables.statistics import rate, rounded
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DELTA,
    DOCUMENTS,
    Column,
    Kind,
    Table,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

PLACES = ("first", "last")
"""Where the instruction stands in the prompt."""
PHRASINGS = 3
REQUEST = "Summarize this text in one or two sentences."
NOT_IN_THE_PAPER = "not in the paper"
_SIGNIFICANT = 0.05


# What is asked.


def instructed_rows(
    name: str, document: Document, tokens: int, length: tuple[int, int], number: int
) -> list[Row]:
    """Ask for a summary under every instruction; place and phrasing take turns.

    Each document has all combinations of place and phrasing equally often, and each instruction
    has each of them in equally many documents.

    Args:
        name: Name of the task.
        document: The text.
        tokens: Its length.
        length: Its range of lengths.
        number: Its number within the range.

    Example:
        >>> rows = instructed_rows("any", Document("a:1", "The cat sleeps."), 3, (0, 500), 0)
        >>> rows[0].id, rows[0].kind, len({row.variant for row in rows})
        ('a:1@1', 'bullets', 6)

    """
    rows = []
    for index, instruction in enumerate(INSTRUCTIONS.values()):
        place, phrasing = divmod((number + index) % (len(PLACES) * PHRASINGS), PHRASINGS)
        before, after = "", f"\n\n{REQUEST}\n\n{document.text}"
        if PLACES[place] == "last":
            before, after = f"{REQUEST}\n\n{document.text}\n\n", ""
        row = Row(
            f"{document.id}@{index + 1}", name, before, instruction.phrasings[phrasing], after,
            tokens, length, variant=f"{PLACES[place]} {phrasing + 1}", kind=instruction.name,
        )  # fmt: skip
        rows.append(row)
    return rows


def judge_instructed(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    """Judge whether an answer obeys, does the task, and both."""
    obeys, does = INSTRUCTIONS[row.kind].obeys(answer), on_task(row, answer)
    return {"obeys": float(obeys), "on_task": float(does), "success": float(obeys and does)}


TASK = Task(
    name="instruction",
    title="Instructions",
    embedded=None,
    documents=120,
    decoding=Decoding(max_new_tokens=64),
    end_tokens=5,
    rows=partial(instructed_rows, "instruction"),
    judge=judge_instructed,
    success="success",
    needs=(LANGUAGES,),
)


# Tables and what they say.

_INSTRUCTION = Column("instruction", kind=Kind.TEXT)
_FAMILY = Column("family", kind=Kind.TEXT)
_PLACE = Column("place", "place in the prompt", Kind.TEXT)
_PHRASING = Column("phrasing")
_OBEYS = Column("obeys", kind=Kind.SHARE)
_ON_TASK = Column("on_task", "does the task", Kind.SHARE)
_SUCCESS = Column("success", kind=Kind.SHARE)
_SCORES = (_OBEYS, _ON_TASK, _SUCCESS)
_SCORE_COLUMNS = tuple(end for column in _SCORES for end in with_interval(column))


def _scored(answers: Sequence[Answer]) -> list[Any]:
    return [value for column in _SCORES for value in score(answers, column.name)]


def _by_condition(results: Results) -> list[list[Any]]:
    return [
        [*condition_values(condition), len(found), number_of_documents(found), *_scored(found)]
        for condition, found in by_condition(results.answers).items()
    ]


def _by_condition_findings(rows: Sequence[TableRow]) -> list[str]:
    return [
        *over_delta("Followed and the task done", rows, _SUCCESS.name),
        *over_delta("Followed", rows, _OBEYS.name)[:1],
        *over_delta("Task done", rows, _ON_TASK.name)[:1],
    ]


def by_condition_table(name: str, title: str) -> Table:
    """Return a table of the scores under every condition.

    Args:
        name: Its name in ``tables.json``.
        title: Its heading.

    """
    return Table(
        name,
        title,
        (*CONDITION, ANSWERS, DOCUMENTS, *_SCORE_COLUMNS),
        rows=_by_condition,
        findings=_by_condition_findings,
        note="success: the answer obeys and does the task",
    )


def _guided(results: Results) -> list[Answer]:
    """Return the answers that nothing but a Δ on the instruction stresses."""
    return [answer for answer in results.answers if answer.cell.condition.way == "plain"]


def _by_kind(results: Results) -> list[list[Any]]:
    groups = grouped(
        _guided(results), lambda answer: (answer.cell.row.kind, answer.cell.condition.delta)
    )
    return [
        [name, instruction.family, delta, len(found), *_scored(found)]
        for name, instruction in INSTRUCTIONS.items()
        for (kind, delta), found in sorted(groups.items())
        if kind == name
    ]


def _by_kind_findings(rows: Sequence[TableRow]) -> list[str]:
    best: dict[str, float] = {}
    for row in rows:
        name, value = text(row, _INSTRUCTION.name), number(row, _SUCCESS.name)
        if value is not None:
            best[name] = max(best.get(name, 0.0), value)
    never = [name for name, value in best.items() if value == 0]
    return [f"At no Δ followed with the task done: {', '.join(never)}."] if never else []


def by_kind_table(name: str, title: str) -> Table:
    """Return a table of the scores by instruction and Δ.

    Args:
        name: Its name in ``tables.json``.
        title: Its heading.

    """
    return Table(
        name,
        title,
        (_INSTRUCTION, _FAMILY, DELTA, ANSWERS, *_SCORE_COLUMNS),
        rows=_by_kind,
        findings=_by_kind_findings,
    )


def _by_variant(results: Results) -> list[list[Any]]:
    groups = grouped(
        _guided(results), lambda answer: (answer.cell.row.variant, answer.cell.condition.delta)
    )
    found = []
    for (variant, delta), answers in sorted(groups.items()):
        place, phrasing = variant.split(" ")
        found.append([place, int(phrasing), delta, len(answers), *_scored(answers)])
    return found


def _by_variant_findings(rows: Sequence[TableRow]) -> list[str]:
    """Say what each place reaches; its phrasings have as many answers each."""
    told = []
    for place in PLACES:
        values: dict[float, list[float]] = {}
        for row in rows:
            delta, value = number(row, "delta"), number(row, _SUCCESS.name)
            if text(row, _PLACE.name) == place and delta is not None and value is not None:
                values.setdefault(delta, []).append(value)
        means = {delta: sum(found) / len(found) for delta, found in values.items()}
        if 0.0 in means:
            best = max(means, key=lambda delta: means[delta])
            told.append(
                f"{place} in the prompt {fixed(means[0.0])} at Δ = 0 and {fixed(means[best])} at "
                f"Δ = {short(best)}"
            )
    return [f"Success with the instruction {'; '.join(told)}."] if told else []


def _gains(results: Results) -> list[list[Any]]:
    """Compare the Δ of the most successes with Δ = 0, for every instruction."""
    groups = by_condition(_guided(results))
    plain = groups.pop(Condition(), [])
    if not plain or not groups:
        return []
    best = max(groups, key=lambda one: score(groups[one], _SUCCESS.name)[0] or 0.0)
    rows, chances = [], []
    for name, instruction in INSTRUCTIONS.items():
        before = [answer for answer in plain if answer.cell.row.kind == name]
        after = [answer for answer in groups[best] if answer.cell.row.kind == name]
        values = paired(after, before, _SUCCESS.name)
        if values:
            chances.append(sign_flip(values))
            at_zero = score(before, _SUCCESS.name)[0]
            rows.append([name, instruction.family, best.delta, len(values), at_zero, *rate(values)])
    return [
        [*row, rounded(p), rounded(corrected)]
        for row, p, corrected in zip(rows, chances, holm(chances), strict=True)
    ]


def _gains_findings(rows: Sequence[TableRow]) -> list[str]:
    told: dict[str, list[str]] = {"gain": [], "lose": []}
    rest = 0
    for row in rows:
        value, p = estimate(row, "difference"), number(row, "p_corrected")
        if value is None or p is None:
            continue
        if p < _SIGNIFICANT:
            change = f"{text(row, _INSTRUCTION.name)} {fixed(value.value)}{interval(value)}"
            told["gain" if value.value > 0 else "lose"].append(change)
        else:
            rest += 1
    parts = [f"{word}: {', '.join(found)}" for word, found in told.items() if found]
    if rest:
        count = rest + sum(map(len, told.values()))
        parts.append(f"{rest} of {count} instructions do not change beyond chance")
    if not parts:
        return []
    delta = short(number(rows[0], "delta") or 0.0)
    return [f"At Δ = {delta}, beside Δ = 0 (at 5 %, after correction): {'; '.join(parts)}."]


BY_CONDITION = by_condition_table("instruction", "Instructions that can be checked")
BY_KIND = by_kind_table("instruction_by_kind", "Instructions, one by one")
BY_VARIANT = Table(
    "instruction_by_variant",
    "Instructions, by place and phrasing",
    (_PLACE, _PHRASING, DELTA, ANSWERS, *_SCORE_COLUMNS),
    rows=_by_variant,
    findings=_by_variant_findings,
    note="the phrasings are those of each instruction; which of them is first says nothing",
)
DIFFERENCES = difference_table(
    "instruction_differences",
    "Instructions: each condition beside Δ = 0",
    _SUCCESS.name,
    "Followed and the task done",
)
GAINS = Table(
    "instruction_gains",
    "Instructions, one by one: the best Δ beside Δ = 0",
    (
        _INSTRUCTION,
        _FAMILY,
        DELTA,
        ANSWERS,
        Column("success_at_zero", "success at Δ = 0", Kind.SHARE),
        *with_interval(DIFFERENCE),
        P,
        P_CORRECTED,
    ),
    rows=_gains,
    findings=_gains_findings,
    note="Δ: that of the most successes over all instructions, chosen on these answers; p by "
    "flipping the signs of documents' differences, corrected by Holm's method",
)


# Figures.


def draw_rates_of(table: Table, record: StudyRecord, palette: Palette) -> Any:
    """Draw the scores of a table of `by_condition_table` over Δ."""
    from guide_ext.studies.report.rates import draw_rates

    return draw_rates(
        record,
        palette,
        table=table.name,
        title=table.title,
        column=_SUCCESS.name,
        label="followed and the task done",
        others={_OBEYS.name: "followed", _ON_TASK.name: "task done"},
    )


def _draw_rates(record: StudyRecord, palette: Palette) -> Any:
    return draw_rates_of(BY_CONDITION, record, palette)


def draw_kinds_of(table: Table, record: StudyRecord, palette: Palette) -> Any:
    """Draw the scores of a table of `by_kind_table` by instruction and Δ."""
    from guide_ext.studies.report.maps import draw_kinds

    return draw_kinds(
        record,
        palette,
        table=table.name,
        kind_column=_INSTRUCTION.name,
        columns={_OBEYS.name: "followed", _SUCCESS.name: "followed and the task done"},
        title=table.title,
        bar_label="share of answers",
        counted=(table.name,),
    )


def _draw_kinds(record: StudyRecord, palette: Palette) -> Any:
    return draw_kinds_of(BY_KIND, record, palette)


# The report.

STUDY = Study(
    name="instruction",
    title="instructions that a program can check: followed, and the task done, over Δ",
    paper=NOT_IN_THE_PAPER,
    tasks=(TASK,),
    deltas=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
    styles=BASELINES,
    on_texts=(*STRESSED, *SOME_LAYERS),
    sections=(
        Section(
            "instruction",
            "Instructions that can be checked",
            "",
            (BY_CONDITION, BY_KIND, BY_VARIANT, DIFFERENCES, GAINS),
            drawings=(
                Drawing(
                    BY_CONDITION.name,
                    BY_CONDITION,
                    "Shares of answers that obey, do the task, and both, over Δ, with other "
                    "ways to stress as levels",
                    _draw_rates,
                ),
                Drawing(
                    BY_KIND.name,
                    BY_KIND,
                    "Maps of the shares of answers that obey, and that obey and do the task, "
                    "instruction by Δ",
                    _draw_kinds,
                ),
            ),
        ),
    ),
    answers_to_read=18,
)
