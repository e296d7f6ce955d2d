# SPDX-License-Identifier: MIT
"""The list of the studies, and what they have in common."""

import subprocess
import sys

from guide_ext.studies.registry import MEASUREMENTS, SECTIONS, STUDIES, TASKS


def test_names_are_used_once():
    tables = [table.name for section in SECTIONS for table in section.tables]
    sections = [section.name for section in SECTIONS]
    figures = [drawing.name for section in SECTIONS for drawing in section.drawings]
    for names in (tables, sections, figures):
        assert len(set(names)) == len(names)
    every = [(task.name, id(task)) for study in STUDIES.values() for task in study.tasks]
    assert len(set(every)) == len(TASKS)
    measured = [(one.kind, id(one)) for study in STUDIES.values() for one in study.measurements]
    assert len(set(measured)) == len(MEASUREMENTS)


def test_a_column_is_called_the_same_in_every_table():
    heads = {}
    for section in SECTIONS:
        for table in section.tables:
            for column in table.columns:
                seen = heads.setdefault(column.name, (column.title, column.kind, column.words))
                assert seen == (column.title, column.kind, column.words), column.name


def test_figures_and_printed_numbers_are_of_their_sections_tables():
    for section in SECTIONS:
        assert all(drawing.table in section.tables for drawing in section.drawings)
        names = {table.name for table in section.tables}
        assert {one.table for one in (*section.printed, *section.claims)} <= names


def test_one_study_at_most_trains():
    assert sum(bool(study.trains_on) for study in STUDIES.values()) == 1


def test_tokens_at_the_end_of_the_prompt():
    for name, count in {"french": 10, "needle": 5, "json": 5}.items():  # the authors'
        assert TASKS[name].end_tokens == count


def test_listing_the_studies_loads_nothing_large():
    program = (
        "import sys; from guide_ext.studies.registry import STUDIES; "
        "print(*{'torch', 'transformers', 'matplotlib', 'scipy', 'markupsafe'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == []
