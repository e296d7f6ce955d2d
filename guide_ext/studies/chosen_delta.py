# SPDX-License-Identifier: MIT
"""The study `chosen_delta`: is the Δ that calibration proposes a good one?

The documents are halved. On one half, Δ is chosen: by calibration, which asks for no answers, and
by trying every Δ. On the other half, the choices are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from guide_ext.studies import conflict, instruction, json_template, needle
from guide_ext.studies.cells import Row
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.measurement import CALIBRATED, TARGETS
from guide_ext.studies.report.section import Section
from guide_ext.studies.report.sentences import fixed, interval, short
from guide_ext.studies.study import Study
from guide_ext.studies.tables.paired import paired
from guide_ext.studies.tables.reading import TableRow, estimate, number, text
from guide_ext.studies.tables.results import Answer, Results, number_of_documents, score
from guide_ext.studies.tables.statistics import rate, rounded
from guide_ext.studies.tables.table import DELTA, DOCUMENTS, Column, Kind, Table, with_interval

_TASKS = (
    needle.TASK,
    json_template.TASK,
    instruction.TASK,
    *conflict.STUDY.tasks,
)
_BEST, _PLAIN = "best", "plain"
_MEASURED_ROWS = 24
_Choice = tuple[str, int, int, float | None]
"""A rule, how many prompts it asked, how many gave no Δ, and the Δ."""

_TASK_COLUMN = Column("asked", "task", Kind.TEXT, words={task.name: task.title for task in _TASKS})
_RULE = Column(
    "rule",
    "chosen by",
    Kind.TEXT,
    words={
        _BEST: "most successes on the other half",
        _PLAIN: "no Δ",
        "uppercase": "calibration: upper case",
        **{str(t): f"calibration: {t:g} × Influence" for t in TARGETS if not isinstance(t, str)},
    },
)


def _measured(rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows of the half on which Δ is chosen, at equal distances."""
    own = [row for row in rows if for_choosing(row.document)]
    return own[:: max(1, len(own) // _MEASURED_ROWS)][:_MEASURED_ROWS]


def _rows(results: Results) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for task in _TASKS:
        found = [answer for answer in results.answers if answer.cell.row.task == task.name]
        guided = [answer for answer in found if answer.cell.condition.way == "plain"]
        trial = [answer for answer in guided if for_choosing(answer.cell.row.document)]
        judged = [answer for answer in guided if not for_choosing(answer.cell.row.document)]
        deltas = sorted(_at(trial).keys() & _at(judged).keys())
        if not deltas:
            continue
        best = max(deltas, key=lambda delta: _mean(_at(trial)[delta], task.success))
        choices: list[_Choice] = [(_PLAIN, 0, 0, 0.0), (_BEST, len(trial), 0, best)]
        choices += _proposals(results, task.name)
        for rule, asked, refused, delta in choices:
            if delta is None:
                rows.append([task.name, rule, asked, refused, *[None] * 9])
                continue
            nearest = min(deltas, key=lambda one: abs(one - delta))
            there = _at(judged)[nearest]
            rows.append(
                [
                    task.name, rule, asked, refused, rounded(delta), nearest,
                    number_of_documents(there), *score(there, task.success),
                    *rate(paired(there, _at(judged)[best], task.success)),
                ]
            )  # fmt: skip
    return rows


def _at(answers: Sequence[Answer]) -> dict[float, list[Answer]]:
    groups: dict[float, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.cell.condition.delta, []).append(answer)
    return groups


def _mean(answers: Sequence[Answer], name: str) -> float:
    return statistics.fmean(answer.scores[name] for answer in answers)


def _proposals(results: Results, task: str) -> list[_Choice]:
    """Return the median Δ of every target over prompts of the half on which Δ is chosen."""
    found = [
        results.record(cell)["deltas"]
        for cell in results.cells
        if cell.kind == CALIBRATED.kind
        and cell.row.task == task
        and for_choosing(cell.row.document)
    ]
    proposals: list[_Choice] = []
    for target in map(str, TARGETS):
        deltas = [one[target] for one in found if one[target] is not None]
        median = statistics.median(deltas) if deltas else None
        proposals.append((target, len(found), len(found) - len(deltas), median))
    return proposals


def _findings(rows: Sequence[TableRow]) -> list[str]:
    sentences = []
    for task in dict.fromkeys(text(row, _TASK_COLUMN.name) for row in rows):
        of_rule = {text(row, "rule"): row for row in rows if text(row, _TASK_COLUMN.name) == task}
        best, upper = of_rule.get(_BEST, {}), of_rule.get("uppercase", {})
        value, delta = estimate(best, "success"), number(best, "delta")
        if value is None or delta is None:
            continue
        sentence = f"{_TASK_COLUMN.word(task)}: the best Δ is {short(delta)} ({fixed(value.value)})"
        proposed, cost = number(upper, "delta"), estimate(upper, "change")
        if proposed is not None and cost is not None:
            sentence += (
                f"; upper case proposes {short(float(f'{proposed:.2g}'))}, which changes that by "
                f"{fixed(cost.value)}{interval(cost)}"
            )
        sentences.append(f"{sentence}.")
    return sentences


CHOICES = Table(
    "chosen_delta",
    "A Δ that is calibrated beside the best",
    (
        _TASK_COLUMN,
        _RULE,
        Column("prompts", "prompts measured"),
        Column("refused", "of them without a Δ"),
        DELTA,
        Column("nearest", "nearest Δ that was tried"),
        DOCUMENTS,
        *with_interval(Column("success", kind=Kind.SHARE)),
        *with_interval(Column("change", "change from the best", Kind.CORRELATION)),
    ),
    rows=_rows,
    findings=_findings,
    note="Δ is chosen on one half of the documents, the median over prompts, and judged on the "
    "other half at the nearest Δ that was tried",
)

STUDY = Study(
    name="chosen_delta",
    title="is the Δ that calibration proposes a good one? beside the best of several",
    paper="Section 2, which proposes it; not tried in the paper",
    tasks=_TASKS,
    deltas=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
    measurements=(CALIBRATED,),
    measured=_measured,
    sections=(Section("chosen_delta", "Does calibration find a good Δ?", "", (CHOICES,)),),
)
