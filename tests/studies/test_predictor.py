# SPDX-License-Identifier: MIT
"""The study `predictor`: made-up measurements whose areas can be told by hand."""

import dataclasses

import pytest

from guide_ext.influence.forms import FORMS
from guide_ext.studies import french, predictor
from guide_ext.studies.cells import Row
from guide_ext.studies.measurement import INFLUENCE
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.tables import statistics
from guide_ext.studies.tables.results import Results

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


def test_the_last_level_foretells_and_of_shares_the_mean_of_all(monkeypatch):
    monkeypatch.setattr(french, "language", lambda text: text)  # answers say it themselves
    monkeypatch.setattr(statistics, "_RESAMPLES", 50)  # intervals have tests of their own
    settings = RunSettings(studies=("predictor",), data="x.jsonl", samples=1)
    rows = [
        dataclasses.replace(ROW, id=f"a:{n}", after=f" {n}.", tokens=10 * n + 10) for n in range(6)
    ]
    cells = study_cells(predictor.STUDY, settings, rows)
    records = {}
    for cell in cells:
        number = rows.index(cell.row)
        if cell.kind == INFLUENCE.kind:
            levels = {form: [-float(number), 0.0, 0.0, float(number)] for form in FORMS}
            # A mean over layers that neither the first, the last nor the marks themselves have.
            levels["raw"] = [number * one for one in (-9.0, -1.0, 4.0, -2.0)]
            records[cell.key] = {"levels": levels}
        else:
            records[cell.key] = {"text": "fr" if number > 2 else "en", "new_tokens": 1}
    results = Results(cells, records, predictor.STUDY.tasks, is_embedded=False)
    table = predictor.SCORES.made(results)
    named = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    made = {row["predictor"]: row for row in named}
    assert made["influence"]["auc"] == made["share"]["auc"] == 1.0
    assert made["raw"]["auc"] == made["1 / length"]["auc"] == 0.0
    assert made["influence"]["success"] == 0.5
    assert made["influence"]["correlation"] > 0.8 > made["1 / length"]["correlation"]


def test_a_share_is_a_mean_over_the_layers():
    """The first level is of the marks themselves, before any layer."""
    assert predictor._share({"raw": [9.0, 0.1, 0.2, 0.6], "paper": [1.0] * 4}) == pytest.approx(0.3)
