# SPDX-License-Identifier: MIT
"""From the shards of a run to the tables of the paper.

Nothing here depends on when, where or in which order the cells ran: the same cells give the same
bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from guide_ext.studies.plan import RunSettings
from guide_ext.studies.study import ANSWER, STUDIES, Cell, Condition, Study
from guide_ext.studies.tables import metrics
from guide_ext.studies.tables.statistics import Interval, rate

Record = dict[str, Any]
Table = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer and what is right about it."""

    cell: Cell
    text: str
    new_tokens: int
    scores: dict[str, float]


class Results:
    """What the cells of a run found.

    Args:
        settings: Of the run.
        by_study: The cells of every study.
        records: What the shards say, by the key of their cell; cells that are missing or failed
            have none.

    """

    def __init__(
        self,
        settings: RunSettings,
        by_study: Mapping[str, Sequence[Cell]],
        records: Mapping[str, Record],
    ) -> None:
        """Keep them."""
        self.settings = settings
        self._by_study = by_study
        self._records = records

    def cells(self, study: Study) -> list[Cell]:
        """Return the cells of a study that are done."""
        return [cell for cell in self._by_study[study.name] if cell.key in self._records]

    def record(self, cell: Cell) -> Record:
        """Return what a cell found."""
        return self._records[cell.key]

    def answers(self, study: Study) -> list[Answer]:
        """Return the judged answers of a study."""
        return [self._judged(cell) for cell in self.cells(study) if cell.kind == ANSWER]

    @cached_property
    def _scores(self) -> dict[str, dict[str, float]]:
        return {}

    def _judged(self, cell: Cell) -> Answer:
        # Cells of one key differ in what they are called and at which depth their needle counts.
        record = self._records[cell.key]
        scores = self._scores.get(cell.key)
        if scores is None:
            scores = metrics.judge(cell.row, record["text"], is_embedded=self.settings.is_embedded)
            self._scores[cell.key] = scores
        return Answer(cell, record["text"], record["new_tokens"], scores)


def table(
    name: str, title: str, columns: Iterable[str], rows: Iterable[Sequence[Any]], note: str = ""
) -> Table:
    """Make a table."""
    return {
        "name": name,
        "title": title,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "note": note,
    }


def score(answers: Sequence[Answer], name: str) -> Interval:
    """Return the mean of a score and its interval."""
    return rate(
        (answer.cell.row.document, answer.scores[name])
        for answer in answers
        if name in answer.scores
    )


def spread(name: str) -> list[str]:
    """Name the three columns of a value with an interval.

    Example:
        >>> spread("found")
        ['found', 'found_low', 'found_high']

    """
    return [name, f"{name}_low", f"{name}_high"]


def grouped(answers: Iterable[Answer], by: Callable[[Answer], Any]) -> dict[Any, list[Answer]]:
    """Group answers, in the order in which the groups first come."""
    groups: dict[Any, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[by(answer)].append(answer)
    return dict(groups)


SUMMARY = ["answers", "documents", *spread("in_french"), "well_formed", *spread("right")]
"""Columns about the summaries of one kind."""


def summary_cells(answers: Sequence[Answer]) -> list[Any]:
    """Return the cells under `SUMMARY`."""
    return [
        len(answers), _documents(answers), *score(answers, "in_french"),
        score(answers, "well_formed")[0], *score(answers, "right"),
    ]  # fmt: skip


def condition_of(answer: Answer) -> Condition:
    """Return how the marked part of an answer's prompt was stressed."""
    return answer.cell.condition


def condition_cells(condition: Condition) -> list[Any]:
    """Return the first cells of a table by condition: name, style, Δ."""
    return [condition.name, condition.style.value, condition.delta]


def french(results: Results) -> list[Table]:
    """Fig. 2a and 5: how often the answer is in French."""
    answers = results.answers(STUDIES["french"])
    rows = [
        [
            *condition_cells(condition), *summary_cells(found)
        ]
        for condition, found in grouped(answers, condition_of).items()
    ]  # fmt: skip
    return [
        table(
            "french",
            "Summaries in French",
            ["condition", "style", "delta", *SUMMARY],
            rows,
        ),
        _by_length(answers, "french_by_length", "Summaries in French, by length", "in_french"),
    ]  # fmt: skip


def needle(results: Results) -> list[Table]:
    """Fig. 6: how often a hidden sentence is found, by length and depth."""
    answers = results.answers(STUDIES["needle"])
    rows = [
        [*condition_cells(condition), len(found), _documents(found), *score(found, "found")]
        for condition, found in grouped(answers, condition_of).items()
    ]

    def place(answer: Answer) -> tuple[float, tuple[int, int], tuple[float, float]]:
        row = answer.cell.row
        return answer.cell.condition.delta, row.length, _depth_range(row.depth or 0.0, results)

    grid = [
        [delta, *length, *depth, len(found), score(found, "found")[0]]
        for (delta, length, depth), found in sorted(grouped(answers, place).items())
    ]
    return [
        table(
            "needle",
            "A sentence hidden in a text",
            ["condition", "style", "delta", "answers", "documents", *spread("found")],
            rows,
        ),
        table(
            "needle_grid",
            "A sentence hidden in a text, by length and depth",
            ["delta", "length_from", "length_to", "depth_from", "depth_to", "answers", "found"],
            grid,
        ),
    ]


def _depth_range(depth: float, results: Results) -> tuple[float, float]:
    """Return the range that a depth belongs to: tenths, as in the paper, or fifths."""
    parts = 5 if results.settings.is_embedded else 10
    index = min(parts - 1, max(0, -int(-depth * parts // 1) - 1))  # ranges are (from, to]
    return round(index / parts, 6), round((index + 1) / parts, 6)


def json_template(results: Results) -> list[Table]:
    """Fig. 7: how well a template is followed, by length."""
    answers = results.answers(STUDIES["json"])
    rows = [
        [
            *condition_cells(condition), len(found), _documents(found), *score(found, "jaccard"),
            *score(found, "authors"), score(found, "exact")[0], score(found, "right")[0],
        ]
        for condition, found in grouped(answers, condition_of).items()
    ]  # fmt: skip
    return [
        table(
            "json",
            "A JSON template",
            ["condition", "style", "delta", "answers", "documents", *spread("jaccard"),
             *spread("authors"), "exact", "right"],
            rows,
            "jaccard: index of the sets of keys; authors: keys of the right type over the larger "
            "number of keys",
        ),
        _by_length(answers, "json_by_length", "A JSON template, by length", "jaccard"),
    ]  # fmt: skip


def _by_length(answers: Sequence[Answer], name: str, title: str, value: str) -> Table:
    def key(answer: Answer) -> tuple[Condition, tuple[int, int]]:
        return answer.cell.condition, answer.cell.row.length

    groups = grouped(answers, key)
    order = list(dict.fromkeys(condition for condition, _ in groups))
    rows = [
        [*condition_cells(condition), *length, len(found), *score(found, value)]
        for (condition, length), found in sorted(
            groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    ]
    columns = ["condition", "style", "delta", "length_from", "length_to", "answers"]
    return table(name, title, [*columns, *spread(value)], rows)


def delta_limit(results: Results) -> list[Table]:
    """App. E: what a large Δ does."""
    answers = results.answers(STUDIES["delta_limit"])
    rows = [
        [
            condition.delta, len(found), score(found, "in_french")[0],
            score(found, "well_formed")[0], *score(found, "right"), score(found, "repeated")[0],
            round(sum(answer.new_tokens for answer in found) / len(found), 3),
        ]
        for condition, found in grouped(answers, condition_of).items()
    ]  # fmt: skip
    return [
        table(
            "delta_limit",
            "What a large Δ does",
            ["delta", "answers", "in_french", "well_formed", *spread("right"), "repeated",
             "new_tokens"],
            rows,
            "repeated: share of answers most of whose three-word sequences stood there before",
        )
    ]  # fmt: skip


def samples(results: Results, each: int = 2) -> list[Record]:
    """Return answers of App. E's study, of documents at even distances: examples are not picked."""
    found = []
    for condition, answers in grouped(
        results.answers(STUDIES["delta_limit"]), condition_of
    ).items():
        first = [answer for answer in answers if answer.cell.sample == 0]
        step = max(1, len(first) // (each + 1))
        for answer in first[step::step][:each]:
            row = answer.cell.row
            prompt = f"{row.before}{row.marked}{row.after}"
            found.append(
                {
                    "study": "delta_limit",
                    "delta": condition.delta,
                    "prompt": prompt,
                    "answer": answer.text.strip(),
                }
            )
    return found


def _documents(answers: Iterable[Answer]) -> int:
    return len({answer.cell.row.document for answer in answers})
