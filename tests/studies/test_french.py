# SPDX-License-Identifier: MIT
"""The study `french`: made-up answers whose tables can be told by hand."""

import dataclasses
import random

import pytest

from guide_ext.embedded import world
from guide_ext.studies import french
from guide_ext.studies.cells import Row
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.tables import metrics
from guide_ext.studies.tables.metrics import Encoder
from guide_ext.studies.tables.results import Results

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


@pytest.fixture
def languages(monkeypatch):
    """Let an answer say itself which language it is in: ``"fr 0.5"``."""
    monkeypatch.setattr(french, "language", lambda text: text[:2])


def rows_of(count, **changes):
    return [
        dataclasses.replace(
            ROW, **{"id": f"a:{n}", "after": f" {n}.", "tokens": 10 * n + 10, **changes}
        )
        for n in range(count)
    ]


def as_dicts(table):
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_embedded_french():
    event = world.random_event(random.Random(1))
    row = dataclasses.replace(ROW, answer=event.french())
    right = metrics.judge(french.TASK, row, f" {event.french()}", is_embedded=True)
    assert right == {"repeated": 0, "well_formed": 1, "in_french": 1, "right": 1}
    wrong = metrics.judge(french.TASK, row, event.english(), is_embedded=True)
    assert (wrong["in_french"], wrong["well_formed"], wrong["right"]) == (0, 1, 0)
    salad = metrics.judge(french.TASK, row, "le le le le le le", is_embedded=True)
    assert (salad["well_formed"], salad["repeated"], salad["right"]) == (0, 1, 0)


@pytest.mark.usefixtures("languages")
class TestQuality:
    """Win rates and densities, of scores that the answers say themselves."""

    @pytest.fixture
    def results(self, monkeypatch):
        monkeypatch.setattr(
            metrics,
            "bert_scores",
            lambda answers, *_, **__: [float(text.split()[1]) for text in answers],
        )

        def make(texts):
            settings = RunSettings(
                studies=("french",), data="x.jsonl", samples=2, deltas=(1.0,),
                reference_column="r", bertscore="x",
            )  # fmt: skip
            rows = rows_of(len(texts) // 2)
            cells = study_cells(french.STUDY, settings, rows)
            records = {}
            for cell in cells:
                found = texts.get((rows.index(cell.row), cell.sample))
                if found and cell.condition.way == "plain":
                    text = found[cell.condition.delta > 0]
                    records[cell.key] = {"text": text, "new_tokens": 2}
            return Results(cells, records, [french.TASK], is_embedded=False, encoder=Encoder("x"))

        return make

    def test_the_answer_of_the_same_sample_is_the_rival(self, results):
        found = results({
            (0, 0): ("fr 0.5", "fr 0.55"), (0, 1): ("fr 0.9", "fr 0.95"),
            (1, 0): ("fr 0.5", "fr 0.55"), (1, 1): ("fr 0.9", "fr 0.85"),
        })  # fmt: skip
        quality = french.QUALITY.made(found)
        assert [row[:3] for row in quality["rows"]] == [[1.0, 4, 0.75]]

    def test_ties_are_no_wins_and_both_must_be_french(self, results):
        found = results({
            (0, 0): ("fr 0.5", "fr 0.5"), (0, 1): ("fr 0.5", "fr 0.6"),
            (1, 0): ("en 0.1", "fr 0.9"), (1, 1): ("fr 0.1", "en 0.9"),
        })  # fmt: skip
        quality, densities = french.QUALITY.made(found), french.DENSITY.made(found)
        assert [row[:3] for row in quality["rows"]] == [[1.0, 2, 0.5]]
        shares = as_dicts(densities)
        ours = [row for row in shares if row["language"] == "french"]
        assert ours[0]["share"] == pytest.approx(1 / 6, abs=1e-6)
        assert ours[-1]["share"] == pytest.approx(1 / 6, abs=1e-6)
        others = [row for row in shares if row["language"] == "other"]
        assert [others[0]["share"], others[-1]["share"]] == [0.5, 0.5]


@pytest.mark.usefixtures("languages")
def test_intervals_of_tables_are_over_documents():
    """Three samples about each document do not make three times the evidence."""
    settings = RunSettings(studies=("french",), data="x.jsonl", samples=3, deltas=())
    rows = rows_of(12)
    cells = study_cells(french.STUDY, settings, rows)

    def width(samples):
        records = {
            cell.key: {"text": "fr" if rows.index(cell.row) % 2 else "en", "new_tokens": 1}
            for cell in cells
            if cell.sample < samples
        }
        results = Results(cells, records, [french.TASK], is_embedded=False)
        row = as_dicts(french.SUMMARIES.made(results))[0]
        assert (row["answers"], row["documents"]) == (12 * samples, 12)
        return row["in_french_high"] - row["in_french_low"]

    assert width(3) == width(1)
