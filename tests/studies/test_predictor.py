# SPDX-License-Identifier: MIT
"""The study `predictor`: made-up measurements whose areas can be told by hand."""

import dataclasses

from guide_ext.influence.forms import FORMS
from guide_ext.studies import french, predictor
from guide_ext.studies.cells import Row
from guide_ext.studies.measurement import INFLUENCE
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.tables.results import Results

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


def test_the_last_level_foretells(monkeypatch):
    monkeypatch.setattr(french, "language", lambda text: text)  # answers say it themselves
    settings = RunSettings(studies=("predictor",), data="x.jsonl", samples=1)
    rows = [
        dataclasses.replace(ROW, id=f"a:{n}", after=f" {n}.", tokens=10 * n + 10) for n in range(6)
    ]
    cells = study_cells(predictor.STUDY, settings, rows)
    records = {}
    for cell in cells:
        number = rows.index(cell.row)
        if cell.kind == INFLUENCE.kind:
            levels = {form: [-float(number), 0.0, float(number)] for form in FORMS}
            records[cell.key] = {"levels": levels}
        else:
            records[cell.key] = {"text": "fr" if number > 2 else "en", "new_tokens": 1}
    results = Results(cells, records, predictor.STUDY.tasks, is_embedded=False)
    table = predictor.SCORES.made(results)
    named = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    made = {row["predictor"]: row for row in named}
    assert made["influence"]["auc"] == made["raw"]["auc"] == 1.0
    assert made["1 / length"]["auc"] == 0.0
    assert made["influence"]["success"] == 0.5
    assert made["influence"]["correlation"] > 0.8 > made["1 / length"]["correlation"]
