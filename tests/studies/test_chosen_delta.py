# SPDX-License-Identifier: MIT
"""The study `chosen_delta`: made-up answers whose rates can be told by hand."""

import pytest

from guide_ext.studies import chosen_delta
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.chosen_delta import STUDY
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.measurement import CALIBRATED
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.tables.results import Results

DELTAS = (0.0, 1.0, 3.0)
# Successes of eight documents at each Δ: the best on one half is not the best on the other.
CHOOSING, JUDGING = {0.0: 2, 1.0: 7, 3.0: 5}, {0.0: 1, 1.0: 4, 3.0: 6}


def documents(choosing, count):
    """Return names of documents of one half."""
    names = (f"texts:{number}" for number in range(1000))
    return [name for name in names if for_choosing(name) is choosing][:count]


def row(document, task="needle"):
    return Row(f"{document}@1", task, document, "The boat is red.", "", 3, (0, 500), "red")


def calibrated(document, **deltas):
    """Return a cell that measured a document, and its record; targets left out have no Δ."""
    found = {str(target): None for target in chosen_delta.TARGETS}
    return Cell(CALIBRATED.kind, row(document), Condition()), {"deltas": {**found, **deltas}}


@pytest.fixture
def table():
    """Return what makes the rows of the table by rule, given what was measured."""

    def made(*measured):
        cells, records = [], {}
        for choosing, successes in ((True, CHOOSING), (False, JUDGING)):
            for number, document in enumerate(documents(choosing, 8)):
                for delta in DELTAS:
                    cell = Cell(ANSWER, row(document), Condition(delta=delta))
                    text = "red" if number < successes[delta] else "blue"
                    records[cell.key] = {"text": text, "new_tokens": 1}
                    cells.append(cell)
        for cell, record in measured:
            records[cell.key] = record
            cells.append(cell)
        results = Results(cells, records, STUDY.tasks, is_embedded=False)
        found = chosen_delta.CHOICES.made(results)
        named = (dict(zip(found["columns"], values, strict=True)) for values in found["rows"])
        return {line["rule"]: line for line in named}

    return made


def test_the_best_is_chosen_on_one_half_and_judged_on_the_other(table):
    found = table()
    best, plain = found["best"], found["plain"]
    assert (best["delta"], best["nearest"], best["documents"]) == (1.0, 1.0, 8)
    assert best["success"] == 4 / 8
    assert (best["change"], best["change_low"], best["change_high"]) == (0.0, 0.0, 0.0)
    assert (plain["delta"], plain["success"]) == (0.0, 1 / 8)
    assert plain["change"] == -3 / 8  # without Δ, fewer succeed than at the best
    assert plain["change_low"] < -3 / 8 < plain["change_high"] <= 0


def test_proposals_are_medians_over_the_half_for_choosing(table):
    own, others = documents(True, 5), documents(False, 3)
    of_upper = zip(own, (0.4, 0.1, 7.0, 0.3, 0.2), strict=True)
    measured = [calibrated(document, uppercase=delta) for document, delta in of_upper]
    # What the other half would propose must not count.
    measured += [calibrated(document, uppercase=5.0) for document in others]
    upper = table(*measured)["uppercase"]
    assert (upper["delta"], upper["nearest"]) == (0.3, 0.0)
    assert (upper["prompts"], upper["refused"]) == (5, 0)
    assert (upper["success"], upper["change"]) == (1 / 8, -3 / 8)


@pytest.mark.parametrize(
    ("proposed", "nearest", "success"),
    [(-2.0, 0.0, 1), (1.9, 1.0, 4), (2.1, 3.0, 6), (8.0, 3.0, 6)],
)
def test_a_proposal_is_judged_at_the_nearest_delta_that_was_tried(
    table, proposed, nearest, success
):
    found = table(*(calibrated(name, **{"2.0": proposed}) for name in documents(True, 3)))["2.0"]
    assert (found["delta"], found["nearest"]) == (proposed, nearest)
    assert found["success"] == success / 8
    assert found["change"] == (success - 4) / 8  # beside the best of the other half


def test_prompts_without_a_delta_are_counted_and_left_out(table):
    first, second, third = documents(True, 3)
    found = table(
        calibrated(first, **{"1.5": 3.0}), calibrated(second), calibrated(third, **{"1.5": 1.0})
    )
    assert (found["1.5"]["prompts"], found["1.5"]["refused"], found["1.5"]["delta"]) == (3, 1, 2.0)
    none = found["3.0"]
    assert (none["prompts"], none["refused"]) == (3, 3)
    assert none["delta"] is none["nearest"] is none["success"] is none["change"] is None


def test_prompts_of_the_half_for_choosing_are_measured_at_equal_distances_for_each_task():
    tasks = ("needle", "json")
    settings = RunSettings(studies=(STUDY.name,), data="x.jsonl")
    names = [f"texts:{number}" for number in range(120)]
    cells = study_cells(STUDY, settings, [row(name, task) for name in names for task in tasks])
    own = [name for name in names if for_choosing(name)]
    assert 48 <= len(own) < 72
    for task in tasks:
        measured = [
            cell.row.document
            for cell in cells
            if cell.kind == CALIBRATED.kind and cell.row.task == task
        ]
        assert measured == own[:48:2]
    answered = {cell.row.document for cell in cells if cell.kind == ANSWER}
    assert answered == set(names)


def test_of_few_prompts_all_are_measured():
    rows = [row(name) for name in documents(True, 3) + documents(False, 3)]
    assert STUDY.measured(rows) == rows[:3]
    assert STUDY.measured(rows[3:]) == []
