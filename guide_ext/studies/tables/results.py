# SPDX-License-Identifier: MIT
"""The results of one study, and the values that its tables are made of.

Nothing here depends on when, where or in which order the cells ran: the same cells give the same
bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from guide_ext.studies.cells import ANSWER, Cell, Condition
from guide_ext.studies.data.task import Task
from guide_ext.studies.tables import metrics
from guide_ext.studies.tables.metrics import Encoder
from guide_ext.studies.tables.statistics import Interval, rate

CellResult = dict[str, Any]
"""What the shard of a cell holds."""
Scores = dict[str, dict[str, float]]
"""Scores of answers by the key of their cell."""


@dataclass(frozen=True)
class Answer:
    """An answer with its scores."""

    cell: Cell
    text: str
    new_tokens: int
    scores: dict[str, float]


class Results:
    """What the cells of one study found.

    Args:
        cells: The cells of the study.
        records: What the shards hold, by the key of their cell. Cells without one are missing or
            failed.
        tasks: The tasks of the study.
        is_embedded: Whether the documents are those of the embedded world.
        encoder: Compares summaries with references; None for no BERTScore.
        scores: Answers that another study of the run has judged already; new ones are added.

    Attributes:
        cells: The cells that are done.
        is_embedded: Whether the documents are those of the embedded world.

    """

    def __init__(
        self,
        cells: Iterable[Cell],
        records: Mapping[str, CellResult],
        tasks: Iterable[Task],
        *,
        is_embedded: bool,
        encoder: Encoder | None = None,
        scores: Scores | None = None,
    ) -> None:
        self.cells = [cell for cell in cells if cell.key in records]
        self.is_embedded = is_embedded
        self._records = records
        self._tasks = {task.name: task for task in tasks}
        self._encoder = encoder
        self._scores = {} if scores is None else scores

    def record(self, cell: Cell) -> CellResult:
        """Return what a cell found."""
        return self._records[cell.key]

    @cached_property
    def answers(self) -> list[Answer]:
        """The judged answers."""
        return [self._judged(cell) for cell in self.cells if cell.kind == ANSWER]

    @cached_property
    def bert_scores(self) -> dict[str, float] | None:
        """BERTScore of the answers that have a reference, by the key of their cell.

        None if the run has no encoder.
        """
        if self._encoder is None:
            return None
        compared = [answer for answer in self.answers if answer.cell.row.answer]
        found = metrics.bert_scores(
            [answer.text for answer in compared],
            [answer.cell.row.answer for answer in compared],
            self._encoder,
        )
        return dict(zip((answer.cell.key for answer in compared), found, strict=True))

    def is_success(self, answer: Answer) -> bool:
        """Return whether an answer is a success of its task."""
        return answer.scores[self._tasks[answer.cell.row.task].success] >= 1

    def _judged(self, cell: Cell) -> Answer:
        # Two cells of one key differ in the name of their row and the depth of its needle.
        record = self._records[cell.key]
        scores = self._scores.get(cell.key)
        if scores is None:
            task = self._tasks[cell.row.task]
            scores = metrics.judge(task, cell.row, record["text"], is_embedded=self.is_embedded)
            self._scores[cell.key] = scores
        return Answer(cell, record["text"], record["new_tokens"], scores)


def score(answers: Sequence[Answer], name: str) -> Interval:
    """Return the mean of a score, with its interval."""
    return rate(
        (answer.cell.row.document, answer.scores[name])
        for answer in answers
        if name in answer.scores
    )


def number_of_documents(answers: Iterable[Answer]) -> int:
    """Return how many documents some answers are about."""
    return len({answer.cell.row.document for answer in answers})


def grouped(answers: Iterable[Answer], by: Callable[[Answer], Any]) -> dict[Any, list[Answer]]:
    """Group answers, in the order in which the groups first appear."""
    groups: dict[Any, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[by(answer)].append(answer)
    return dict(groups)


def by_condition(answers: Iterable[Answer]) -> dict[Condition, list[Answer]]:
    """Group answers by their condition."""
    return grouped(answers, lambda answer: answer.cell.condition)


def condition_values(condition: Condition) -> list[Any]:
    """Return the values of a condition: name, way, Δ."""
    return [condition.name, condition.way, condition.delta]


def values_by_length(answers: Sequence[Answer], name: str) -> list[list[Any]]:
    """Return rows of a score by condition and range of lengths."""

    def key(answer: Answer) -> tuple[Condition, tuple[int, int]]:
        return answer.cell.condition, answer.cell.row.length

    groups = grouped(answers, key)
    order = list(dict.fromkeys(condition for condition, _ in groups))
    return [
        [*condition_values(condition), *length, len(found), *score(found, name)]
        for (condition, length), found in sorted(
            groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    ]


def levels_of(results: Results, kind: str) -> dict[str, dict[str, list[float]]]:
    """Return the Influence of every prompt at every level: by digest of its row, then by form.

    Args:
        results: Of a study.
        kind: The kind of the cells that measured it.

    """
    return {
        cell.row.digest: results.record(cell)["levels"]
        for cell in results.cells
        if cell.kind == kind
    }


def answers_to_read(results: Results, study: str, each: int) -> list[dict[str, Any]]:
    """Return some answers of every condition, to be read as examples.

    They are taken at even distances: no example is picked for what it says.

    Args:
        results: Of a study.
        study: Its name.
        each: Number of answers of each condition; 0 for none.

    """
    if not each:
        return []
    found = []
    for condition, answers in by_condition(results.answers).items():
        first = [answer for answer in answers if answer.cell.sample == 0]
        step = max(1, len(first) // (each + 1))
        for answer in first[step::step][:each]:
            row = answer.cell.row
            found.append(
                {
                    "study": study,
                    "delta": condition.delta,
                    "prompt": f"{row.before}{row.marked}{row.after}",
                    "answer": answer.text.strip(),
                }
            )
    return found
