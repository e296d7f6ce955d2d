# SPDX-License-Identifier: MIT
"""The study `methods`: steering methods of the field on one task, each at its best strength.

The documents are halved, as in `chosen_delta`. On one half, every method gets the strength with the
most successes. On the other half, the methods are compared at these strengths.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.studies import needle
from guide_ext.studies.cells import Condition, Where
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.differences import DIFFERENCE, P_CORRECTED, P
from guide_ext.studies.report.section import Section
from guide_ext.studies.report.sentences import fixed, interval
from guide_ext.studies.study import Study
from guide_ext.studies.tables.paired import holm, paired, sign_flip
from guide_ext.studies.tables.reading import TableRow, estimate, number, text
from guide_ext.studies.tables.results import (
    Answer,
    Results,
    by_condition,
    number_of_documents,
    score,
)
from guide_ext.studies.tables.statistics import rate, rounded
from guide_ext.studies.tables.table import ANSWERS, DOCUMENTS, Column, Kind, Table, with_interval

_TASK = needle.TASK
_SIGNIFICANT = 0.05
_PLAIN = "plain"
_END = ", the last that was tried"

# Weakest first. The authors of InstABoost try M up to 19; PASTA's α is 0.01.
_MULTIPLIERS = (3.0, 9.0, 19.0)
_ALPHAS = (0.3, 0.1, 0.01)
_SHARES = (0.1, 0.2, 0.3, 0.5)
_HIGHLIGHTS = ((2.0, 1.5), (5.0, 1.5), (5.0, 3.0), (10.0, 3.0))  # w and γ
_GAINS = (0.4, 0.8, 1.6)  # SEKA's g⁺; its authors have 0.4 to 1.56

_INSTABOOST = tuple(Condition(delta=math.log(one)) for one in _MULTIPLIERS)
_CHOSEN = tuple(Condition(delta=delta, where=Where.HEADS) for delta in (1.0, 2.0, 3.0))
_PASTA = tuple(Condition(delta=-math.log(alpha), where=Where.PASTA) for alpha in _ALPHAS)
_SPOTLIGHT = tuple(Condition(share=share) for share in _SHARES)
_HIGHLIGHTED = tuple(Condition(delta=math.log(w), guidance=scale) for w, scale in _HIGHLIGHTS)
_SEKA = tuple(Condition(gain=gain) for gain in _GAINS)


@dataclass(frozen=True)
class _Method:
    """A method: what it is called, which conditions are its own, and how it states a strength."""

    name: str
    owns: Callable[[Condition], bool]
    strength: Callable[[Condition], str]


_METHODS = (
    _Method("InstABoost", _INSTABOOST.__contains__, lambda one: f"M = {math.exp(one.delta):.3g}"),
    _Method(
        "GUIDE",
        lambda one: one.way == "plain" and one.delta != 0 and one not in _INSTABOOST,
        lambda one: f"Δ = {one.delta:g}",
    ),
    _Method(
        "GUIDE in chosen heads",
        lambda one: one.where is Where.HEADS,
        lambda one: f"Δ = {one.delta:g}",
    ),
    _Method(
        "PASTA", lambda one: one.where is Where.PASTA, lambda one: f"α = {math.exp(-one.delta):.3g}"
    ),
    _Method("Spotlight", lambda one: one.share > 0, lambda one: f"ψ = {one.share:g}"),
    _Method(
        "Prompt-Highlighter",
        lambda one: one.guidance > 0,
        lambda one: f"w = {math.exp(one.delta):.3g}, γ = {one.guidance:g}",
    ),
    _Method("SEKA", lambda one: one.gain > 0, lambda one: f"g⁺ = {one.gain:g}"),
)


def _tried(answers: Sequence[Answer]) -> dict[_Method, dict[Condition, list[Answer]]]:
    """Return the answers of each method by its conditions, in the order of the study's."""
    groups = by_condition(answers)
    found = {
        method: {one: own for one, own in groups.items() if method.owns(one)} for method in _METHODS
    }
    return {method: own for method, own in found.items() if own}


def _halves(results: Results) -> tuple[list[Answer], list[Answer]]:
    """Return the answers about documents for choosing, and about the others."""
    halves: tuple[list[Answer], list[Answer]] = [], []
    for answer in results.answers:
        halves[not for_choosing(answer.cell.row.document)].append(answer)
    return halves


def _successes(answers: Sequence[Answer]) -> float:
    return statistics.fmean(answer.scores[_TASK.success] for answer in answers)


def _compared(results: Results) -> list[list[Any]]:
    choosing, judging = _halves(results)
    plain = by_condition(judging).get(Condition(), [])
    if not plain:
        return []
    rows, chances = [], []
    judged = by_condition(judging)
    for method, tried in _tried(choosing).items():
        # Of strengths with as many successes, the first, which is the weakest.
        best = max(tried, key=lambda one: _successes(tried[one]))
        found = judged.get(best, [])
        if not found:
            continue
        values = paired(found, plain, _TASK.success)
        chances.append(sign_flip(values))
        strength = method.strength(best)
        if len(tried) > 1 and best == list(tried)[-1]:
            strength += _END
        rows.append([*_row(method.name, strength, len(tried), found), *rate(values)])
    return [
        [*_row(_PLAIN, "Δ = 0", None, plain), *[None] * 5],
        *(
            [*row, rounded(p), rounded(corrected)]
            for row, p, corrected in zip(rows, chances, holm(chances), strict=True)
        ),
    ]


def _row(name: str, strength: str | None, tried: int | None, found: Sequence[Answer]) -> list[Any]:
    return [
        name, strength, tried, len(found), number_of_documents(found),
        *score(found, _TASK.success),
    ]  # fmt: skip


def _strengths(results: Results) -> list[list[Any]]:
    choosing, _ = _halves(results)
    return [
        [method.name, method.strength(one), len(found), number_of_documents(found),
         *score(found, _TASK.success)]
        for method, tried in _tried(choosing).items()
        for one, found in tried.items()
    ]  # fmt: skip


def _findings(rows: Sequence[TableRow]) -> list[str]:
    told = []
    for row in rows:
        value, change = estimate(row, "success"), estimate(row, DIFFERENCE.name)
        p = number(row, P_CORRECTED.name)
        if value is None or change is None or p is None:
            continue
        chance = "" if p < _SIGNIFICANT else ", not beyond chance"
        told.append(
            f"{text(row, _METHOD.name)} ({text(row, _STRENGTH.name)}) {fixed(value.value)}, "
            f"{fixed(change.value)}{interval(change)} from plain{chance}"
        )
    return [f"Success on documents that chose no strength: {'; '.join(told)}."] if told else []


_METHOD = Column("by_method", "method", Kind.TEXT)
_STRENGTH = Column("strength", kind=Kind.TEXT)
_SUCCESS = Column("success", kind=Kind.SHARE)

COMPARED = Table(
    "methods",
    "Methods of the field, each at its best strength",
    (
        _METHOD, _STRENGTH, Column("tried", "strengths tried"), ANSWERS, DOCUMENTS,
        *with_interval(_SUCCESS), *with_interval(DIFFERENCE), P, P_CORRECTED,
    ),
    rows=_compared,
    findings=_findings,
    note="strengths are chosen on one half of the documents, by most successes, and judged on the "
    "other; differences are from plain answers to the same rows, with p as in other tables; "
    "InstABoost with M is GUIDE with Δ = log M, so they differ in what was tried; methods in "
    "chosen heads need --heads",
)  # fmt: skip
STRENGTHS = Table(
    "methods_strengths",
    "Methods of the field: every strength that was tried",
    (_METHOD, _STRENGTH, ANSWERS, DOCUMENTS, *with_interval(_SUCCESS)),
    rows=_strengths,
    findings=lambda rows: [],
    note="on the half of the documents that chooses",
)

STUDY = Study(
    name="methods",
    title="steering methods of the field on a hidden sentence, each at its best strength",
    paper="not in the paper",
    tasks=(_TASK,),
    deltas=(0.0, 1.0, 2.0, 3.0, 5.0),
    everywhere=(*_INSTABOOST, *_CHOSEN, *_PASTA, *_SPOTLIGHT, *_HIGHLIGHTED, *_SEKA),
    sections=(Section("methods", "Methods of the field", "", (COMPARED, STRENGTHS)),),
)
