# SPDX-License-Identifier: MIT
"""Answers of a run, plain and guided, to be read side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guide_ext.studies.cells import Condition, Row
from guide_ext.studies.run.progress import read_plan
from guide_ext.studies.run.write_tables import results_of
from guide_ext.studies.tables.results import Answer, Results


@dataclass(frozen=True)
class Pair:
    """The plain and the guided answer to one row.

    Attributes:
        study: Name of the study.
        row: What was asked.
        delta: Δ of the guided answer.
        plain: The answer at Δ = 0.
        guided: The answer at `delta`.
        plain_succeeds: Whether the plain answer is a success of its task.
        guided_succeeds: Whether the guided one is.

    """

    study: str
    row: Row
    delta: float
    plain: str
    guided: str
    plain_succeeds: bool
    guided_succeeds: bool


def answer_pairs(
    path: Path, *, delta: float, count: int = 3, studies: tuple[str, ...] = ()
) -> list[Pair]:
    """Return answers at Δ = 0 beside those at another Δ, at equal distances among all rows.

    So nobody has picked the examples: what they show is what happens.

    Args:
        path: Folder of a run, finished or not.
        delta: Δ of the guided answers.
        count: Pairs of each study; fewer if there are fewer.
        studies: Names of studies; none for all of the run.

    Raises:
        ValueError: If the folder holds no run, the run lacks a study, or no row has both answers.

    """
    plan = read_plan(path)
    unknown = [name for name in studies if name not in plan.by_study]
    if unknown:
        raise ValueError(
            f"study must be one of the run's, {', '.join(plan.by_study)}, got {', '.join(unknown)}"
        )
    found = [
        pair
        for study, results in results_of(plan)
        if not studies or study.name in studies
        for pair in _spread(_pairs(study.name, results, delta), count)
    ]
    if not found:
        raise ValueError(
            f"run must have answers at Δ = 0 and at --delta, got none at {delta:g} in {str(path)!r}"
        )
    return found


def _pairs(study: str, results: Results, delta: float) -> list[Pair]:
    def first_samples(condition: Condition) -> dict[str, Answer]:
        return {
            answer.cell.row.id: answer
            for answer in results.answers
            if answer.cell.condition == condition
            and (answer.cell.sample, answer.cell.adapter) == (0, None)
        }

    plain, guided = first_samples(Condition()), first_samples(Condition(delta=delta))
    return [
        Pair(
            study, one.cell.row, delta, one.text, guided[name].text,
            results.is_success(one), results.is_success(guided[name]),
        )
        for name, one in plain.items()
        if name in guided
    ]  # fmt: skip


def _spread(pairs: list[Pair], count: int) -> list[Pair]:
    step = max(1, len(pairs) // (count + 1))
    return pairs[step::step][:count] if len(pairs) > count else pairs
