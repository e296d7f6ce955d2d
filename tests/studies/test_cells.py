# SPDX-License-Identifier: MIT
"""Cells: what their keys and their random numbers depend on."""

import dataclasses

from guide_ext.embedded import world
from guide_ext.studies.cells import ANSWER, Cell, Condition, Decoding, Row
from guide_ext.studies.measurement import INFLUENCE

ROW = Row("a@0.5", "french", "", "Summarize in French", " The cat.", 3, (0, 500))


def test_a_key_depends_on_all_that_matters():
    cell = Cell(ANSWER, ROW, Condition(delta=2.0), 0, Decoding(40, 1.0), 42)
    others = [
        dataclasses.replace(cell, kind=INFLUENCE.kind),
        dataclasses.replace(cell, row=dataclasses.replace(ROW, after=" The dog.")),
        dataclasses.replace(cell, condition=Condition(delta=1.0)),
        dataclasses.replace(cell, condition=Condition(delta=2.0, guidance=1.5)),
        dataclasses.replace(cell, condition=Condition(delta=2.0, gain=0.8)),
        dataclasses.replace(cell, condition=Condition(delta=2.0, gain=1.6)),
        dataclasses.replace(cell, condition=Condition(world.Style.UPPER, 2.0)),
        dataclasses.replace(cell, sample=1),
        dataclasses.replace(cell, decoding=Decoding(41, 1.0)),
        dataclasses.replace(cell, decoding=Decoding(40, 0.0)),
        dataclasses.replace(cell, seed=43),
        dataclasses.replace(cell, adapter=1000),
    ]
    assert len({cell.key, *(other.key for other in others)}) == len(others) + 1
    assert dataclasses.replace(cell).key == cell.key


def test_conditions_share_their_luck_and_samples_do_not():
    plain, guided = (Cell(ANSWER, ROW, Condition(delta=delta)) for delta in (0.0, 2.0))
    assert plain.random_seed == guided.random_seed
    assert dataclasses.replace(plain, sample=1).random_seed != plain.random_seed


def test_the_seed_of_a_run_changes_its_luck():
    cell = Cell(ANSWER, ROW, Condition(), 0, Decoding(40, 1.0), 42)
    assert dataclasses.replace(cell, seed=43).random_seed != cell.random_seed


def test_an_at_in_the_name_of_the_data():
    rows = [
        Row(f"texts@home.jsonl:{line}{depth}", "needle", "", "", "", 3, (0, 500))
        for line in (1, 12) for depth in ("", "@0.1", "@1")
    ]  # fmt: skip
    assert [row.document for row in rows] == ["texts@home.jsonl:1"] * 3 + [
        "texts@home.jsonl:12"
    ] * 3
