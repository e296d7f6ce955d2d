"""The tables of the paper's studies: what is read, and what is refused with a reason."""

import re

import pytest
from study_tables import tables

from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report.page import study_html
from guide_ext.studies.report.record import StudyRecord

COLUMNS = {
    table.name: [column.name for column in table.columns]
    for section in SECTIONS
    for table in section.tables
}


def changed(parts):
    """Return the table of norms with other parts."""
    found = tables("norms")
    found["tables"][0].update(parts)
    return found


def one_table(name, **cells):
    """Return a run with one table of one row."""
    found = tables(name)
    table = found["tables"][0]
    row = dict(zip(table["columns"], table["rows"][0], strict=True)) | cells
    table["columns"], table["rows"] = list(row), [list(row.values())]
    return found


def test_the_made_up_tables_are_those_of_the_contract():
    found = tables()["tables"]
    assert [one["name"] for one in found] == list(dict.fromkeys(one["name"] for one in found))
    assert {one["name"] for one in found} == set(COLUMNS)
    assert tables() == tables()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "guide_ext study run"}, "of kind 'guide_ext study tables', format 1, got 'guide"),
        ({"format": 2}, "format 1, got 'guide_ext study tables', format 2"),
        ({"world": "real"}, "one of 'embedded', 'documents', got 'real'"),
        ({"model": None}, "model of the tables must be a text, got None"),
        ({"settings": []}, "settings of the tables must be an object, got list"),
        ({"tables": {}}, "tables of the tables must be a list of objects, got {}"),
        ({"failures": ["x"]}, "failures of the tables must be a list of objects, got ['x']"),
        (
            {"samples": [{"study": "french", "prompt": "a"}]},
            "answer of the sample 0 must be a text",
        ),
    ],
)
def test_what_are_no_tables_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        StudyRecord.read(tables() | change, SECTIONS)


def test_no_object_is_refused():
    with pytest.raises(ValueError, match="must be a JSON object, got list"):
        study_html([], SECTIONS)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(name):
    for column in COLUMNS[name]:
        found = one_table(name)
        at = found["tables"][0]["columns"].index(column)
        for line in (found["tables"][0]["columns"], *found["tables"][0]["rows"]):
            del line[at]
        with pytest.raises(ValueError, match=rf"'{name}' must have the columns {column}, got"):
            StudyRecord.read(found, SECTIONS)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"in_french": 1.2},
            "in_french in row 0 of the table 'french' must be from 0 to 1, got 1.2",
        ),
        ({"in_french": "0.5"}, "must be a finite number or null, got '0.5'"),
        ({"in_french": True}, "must be a finite number or null, got True"),
        ({"in_french": float("nan")}, "must be a finite number or null, got nan"),
        ({"condition": 2.0}, "condition in row 0 of the table 'french' must be a text, got 2.0"),
        (
            {"in_french_low": 0.9, "in_french_high": 0.1},
            "interval from low to high, got 0.9 to 0.1",
        ),
        ({"more": float("inf")}, "more in row 0 of the table 'french' must be a finite number"),
    ],
)
def test_cells_that_cannot_be_are_refused(cells, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        StudyRecord.read(one_table("french", **cells), SECTIONS)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rows": [[1, 2]]}, "row 0 of the table 'norms' must be a list of 7 cells, got 2 cells"),
        ({"rows": 3}, "rows of the table 'norms' must be a list, got 3"),
        ({"columns": ["layer", "layer"]}, "columns of the table 'norms' must be different ones"),
        ({"columns": "layer"}, "columns of the table 'norms' must be a list of texts"),
        ({"title": None}, "title of the table 'norms' must be a text, got None"),
        ({"name": "sft"}, "table 'sft' must have the columns"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(parts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        StudyRecord.read(changed(parts), SECTIONS)


def test_two_tables_of_one_name_are_refused():
    found = tables("norms")
    found["tables"] *= 2
    with pytest.raises(ValueError, match="must have different names, got two named 'norms'"):
        StudyRecord.read(found, SECTIONS)


def test_a_correlation_may_be_negative():
    record = StudyRecord.read(
        one_table("predictor", correlation=-0.4, correlation_low=-0.9), SECTIONS
    )
    assert "−0.400" in study_html(
        one_table("predictor", correlation=-0.4, correlation_low=-0.9), SECTIONS
    )
    assert record.rows("predictor")[0]["correlation"] == -0.4
