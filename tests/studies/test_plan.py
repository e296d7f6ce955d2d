# SPDX-License-Identifier: MIT
"""From settings to cells and batches."""

import dataclasses
import itertools
import json

import pytest

from guide_ext.studies.cells import ANSWER, Row
from guide_ext.studies.measurement import INFLUENCE
from guide_ext.studies.plan import RunSettings, all_cells, batches_of, study_cells
from guide_ext.studies.registry import STUDIES, studies_named

ROW = Row("a@0.5", "french", "", "Summarize in French", " The cat.", 3, (0, 500))


class TestCells:
    def test_studies_share_cells(self):
        rows = [dataclasses.replace(ROW, id="a"), dataclasses.replace(ROW, id="b", after="x")]
        cells = all_cells(RunSettings(samples=1), rows)
        french = {cell.key for cell in cells["french"]}
        assert {c.key for c in cells["predictor"] if c.kind == ANSWER} <= french
        assert {c.key for c in cells["norms"] if c.kind == INFLUENCE.kind} == {
            c.key for c in cells["predictor"] if c.kind == INFLUENCE.kind
        }

    def test_batches_hold_each_cell_once_and_do_not_depend_on_the_order(self):
        rows = [
            dataclasses.replace(ROW, id=f"{i}", after=f" {i}", tokens=i * 7 % 5) for i in range(9)
        ]
        cells = [c for found in all_cells(RunSettings(samples=2), rows).values() for c in found]
        batches = batches_of(cells, 4)
        keys = [cell.key for batch in batches for cell in batch]
        assert sorted(keys) == sorted({cell.key for cell in cells})
        backwards = batches_of(cells[::-1], 4)
        assert [[c.key for c in b] for b in backwards] == [[c.key for c in b] for b in batches]
        for batch in batches:
            assert len(batch) <= 4
            assert len({(cell.kind, cell.decoding, cell.adapter) for cell in batch}) == 1

    def test_deltas_replace_those_of_studies_that_sweep(self):
        settings = RunSettings(deltas=(1.5,))
        found = {cell.condition.name for cell in study_cells(STUDIES["json"], settings, [
            dataclasses.replace(ROW, task="json")])}  # fmt: skip
        assert found == {"Δ = 0", "Δ = 1.5", "upper case", "“Important:”"}

    def test_unknown_study(self):
        with pytest.raises(ValueError, match=r"study must be one of french, .*, got frnch"):
            studies_named(("frnch",))

    def test_batches_hold_neighbours_in_length_of_one_adapter(self):
        rows = [
            dataclasses.replace(ROW, id=f"a:{n}", after=f" {n}.", tokens=10 * n + 10)
            for n in range(9)
        ][::-1]
        settings = RunSettings(studies=("sft",), data="x.jsonl", reference_column="r")
        cells = study_cells(STUDIES["sft"], settings, rows, [0, 1000])
        batches = batches_of(cells, 4)
        assert sum(map(len, batches)) == 9 * 4
        for batch in batches:
            assert len({cell.adapter for cell in batch}) == 1
        for before, after in itertools.pairwise(batches):
            if before[0].adapter == after[0].adapter:
                assert before[-1].row.tokens <= after[0].row.tokens


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"documents": 0}, "documents must be a whole number from 1, got 0"),
            ({"deltas": (float("nan"),)}, "deltas must be finite"),
            ({"model": "some/model"}, "data must be given for another model"),
            ({"bertscore": "x"}, "reference_column must be given with bertscore"),
        ],
    )
    def test_errors(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            RunSettings(**wrong)

    def test_what_the_embedded_world_does_not_have(self, monkeypatch):
        """It is left out where no study is named, and refused where it is."""
        json_study = STUDIES["json"]
        tasks = tuple(dataclasses.replace(task, embedded=None) for task in json_study.tasks)
        monkeypatch.setitem(STUDIES, "json", dataclasses.replace(json_study, tasks=tasks))
        others = [name for name, study in STUDIES.items() if study.has_embedded_tasks]
        assert list(RunSettings().studies) == others
        assert "json" not in others
        assert "json" in RunSettings(data="texts.jsonl").studies
        assert RunSettings(studies=("json",), data="texts.jsonl").studies == ("json",)
        with pytest.raises(ValueError, match="data must be given for the study json, which asks"):
            RunSettings(studies=("french", "json"))
        with pytest.raises(ValueError, match="task must be one that the embedded world has"):
            _ = tasks[0].case_kind

    def test_json_and_back(self):
        settings = RunSettings(studies=("json",), deltas=(1.0, 2.0), documents=3)
        assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
        with pytest.raises(ValueError, match="known names, got colour"):
            RunSettings.from_json({"colour": 1})
