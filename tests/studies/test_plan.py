# SPDX-License-Identifier: MIT
"""From settings to cells and batches."""

import dataclasses
import itertools
import json

import pytest

from guide_ext.studies.cells import ANSWER, Cell, Condition, Decoding, Row
from guide_ext.studies.measurement import CALIBRATED, INFLUENCE
from guide_ext.studies.plan import RunSettings, all_cells, batches_of, study_cells, tasks_of
from guide_ext.studies.registry import STUDIES, TASKS, studies_named

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

    def test_only_the_tasks_that_are_wanted_are_asked(self):
        settings = RunSettings(studies=("predictor", "needle"), tasks=("needle",))
        rows = [dataclasses.replace(ROW, task=task) for task in ("french", "needle", "json")]
        cells = all_cells(settings, rows)
        assert all({cell.row.task for cell in own} == {"needle"} for own in cells.values())
        assert {cell.kind for cell in cells["predictor"]} == {ANSWER, INFLUENCE.kind}
        assert [task.name for task in tasks_of(settings)] == ["needle"]

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

    def test_only_the_kinds_that_are_wanted_are_asked(self):
        rows = [
            dataclasses.replace(ROW, task="instruction", id=kind, after=f" {kind}.", kind=kind)
            for kind in ("bullets", "commas", "capitals", "")
        ]
        study = STUDIES["instruction"]

        def asked(*kinds):
            settings = RunSettings(studies=("instruction",), data="x.jsonl", kinds=kinds)
            return [cell.row.kind for cell in study_cells(study, settings, rows)]

        of_all = asked()
        assert set(of_all) == {"bullets", "commas", "capitals", ""}
        some = asked("bullets", "capitals")  # a row of no kind is always asked
        assert some == [kind for kind in of_all if kind != "commas"]


def stressed(row, *conditions):
    return [Cell(ANSWER, row, condition, 0, Decoding(30), 42) for condition in conditions]


class TestBatches:
    """Prompts that can share what they begin with come together."""

    def test_a_share_is_one_for_a_whole_batch(self):
        conditions = [Condition(), Condition(share=0.1), Condition(delta=2.0), Condition(share=0.2)]
        rows = [dataclasses.replace(ROW, id=f"{n}", before=f"{n} ") for n in range(3)]
        batches = batches_of([cell for row in rows for cell in stressed(row, *conditions)], 12)
        shares = [{cell.condition.share for cell in batch} for batch in batches]
        assert sorted(map(tuple, shares)) == [(0.0,), (0.1,), (0.2,)]
        assert sorted(map(len, batches)) == [3, 3, 6]

    def test_so_is_a_contrast_with_its_delta(self):
        conditions = [
            Condition(delta=2.0), Condition(delta=2.0, guidance=1.5), Condition(delta=1.0),
            Condition(delta=2.0, guidance=3.0), Condition(delta=1.0, guidance=1.5),
        ]  # fmt: skip
        batches = batches_of(stressed(ROW, *conditions), 12)
        found = sorted(sorted(cell.condition.name for cell in batch) for batch in batches)
        assert found == [
            ["Δ = 1", "Δ = 2"], ["Δ = 1, contrast × 1.5"], ["Δ = 2, contrast × 1.5"],
            ["Δ = 2, contrast × 3"],
        ]  # fmt: skip

    def test_so_is_a_gain_of_keys(self):
        conditions = [Condition(), Condition(gain=0.4), Condition(gain=0.8), Condition(delta=2.0)]
        batches = batches_of(stressed(ROW, *conditions), 12)
        found = sorted(sorted(cell.condition.name for cell in batch) for batch in batches)
        assert found == [["keys, g⁺ = 0.4"], ["keys, g⁺ = 0.8"], ["Δ = 0", "Δ = 2"]]

    def test_what_counts_is_the_length_behind_the_first_stressed_part(self):
        """Here all prompts are of one length, and every document has one that begins late."""
        deep = dataclasses.replace(
            ROW, before=f"Read. Who? {'x' * 2000} ", after=" Who?", parts=(("question", "Who?"),)
        )
        rows = [dataclasses.replace(deep, id=f"a:{n}", marked=f"Marked {n}.") for n in range(4)]
        late, early = Condition(delta=2.0), Condition(delta=2.0, parts=("marked", "question"))
        batches = batches_of([cell for row in rows for cell in stressed(row, late, early)], 4)
        assert [{cell.condition for cell in batch} for batch in batches] == [{late}, {early}]

    def test_what_takes_prompts_one_by_one_is_saved_one_by_one(self):
        cells = [
            Cell(kind, dataclasses.replace(ROW, id=f"{number}", after=f" {number}"), Condition())
            for number in range(5)
            for kind in (CALIBRATED.kind, INFLUENCE.kind)
        ]
        sizes = sorted((batch[0].kind, len(batch)) for batch in batches_of(cells, 4))
        assert sizes == [("calibrated", 1)] * 5 + [("measure", 1), ("measure", 4)]

    def test_documents_are_not_torn_apart(self):
        """Their prompts differ a little in length, as places and wordings do."""
        conditions = [Condition(), Condition(delta=1.0), Condition(delta=2.0)]
        cells = []
        for number, lengths in enumerate([(2000, 2003), (2001, 2004), (2002, 2005)]):
            for place, length in enumerate(lengths):
                row = dataclasses.replace(
                    ROW, id=f"a:{number}@{place}", before=f"Text {number}. ", after="x" * length
                )
                cells += stressed(row, *conditions)
        batches = batches_of(cells, 6)
        assert [{cell.row.document for cell in batch} for batch in batches] == [
            {"a:0"}, {"a:1"}, {"a:2"}
        ]  # fmt: skip
        alone = batches_of(cells, 3)
        assert all(len({cell.row.id for cell in batch}) == 1 for batch in alone)

    def test_prompts_that_begin_with_the_stressed_part_go_by_length(self):
        """Nothing can be shared, and what is longer costs more padding."""
        rows = [
            dataclasses.replace(ROW, id=f"a:{9 - n}", after=f" {n}.", tokens=tokens)
            for n, tokens in enumerate((100, 101, 102, 103))
        ]
        cells = [cell for row in rows for cell in stressed(row, Condition(), Condition(delta=2.0))]
        batches = batches_of(cells[::-1], 2)
        assert [{cell.row.tokens for cell in batch} for batch in batches] == [
            {100}, {101}, {102}, {103}
        ]  # fmt: skip

    def test_so_do_prompts_that_begin_as_no_other_does(self):
        """Those that share their beginning with others come behind them."""
        late = {"before": "Read. ", "after": "x" * 900}
        rows = [
            dataclasses.replace(ROW, id=f"a:{n}", before=f"Text {n}. ", tokens=tokens, after=after)
            for n, (tokens, after) in enumerate([(9, "x" * 70), (7, "x" * 90), (8, " x")])
        ]
        pair = [dataclasses.replace(ROW, id=f"b:{n}", marked=f"{n}", tokens=1, **late)
                for n in range(2)]  # fmt: skip
        cells = [cell for row in (*pair, *rows) for cell in stressed(row, Condition(delta=2.0))]
        batches = batches_of(cells, 3)
        assert [[cell.row.tokens for cell in batch] for batch in batches] == [[7, 8, 9], [1, 1]]


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"documents": 0}, "documents must be a whole number from 1, got 0"),
            ({"deltas": (float("nan"),)}, "deltas must be finite"),
            ({"model": "some/model"}, "data must be given for another model.* or 'python-docs'"),
            ({"data": "x.jsonl", "window": 0}, "window must be a whole number from 1, got 0"),
            ({"window": 250}, "window must be left at 500 without data, .*, got 250"),
            ({"data": "python-docs", "text_column": "x"}, "text_column must be left out with"),
            ({"data": "python-docs", "reference_column": "x"}, "reference_column must be left out"),
            ({"data": "python-docs", "studies": ("sft",)}, "data must have references for the st"),
            ({"bertscore": "x"}, "reference_column must be given with bertscore"),
            (
                {"studies": ("norms",), "tasks": ("nedle",)},
                "tasks must be among .*french.*got nedl",
            ),
            (
                {"studies": ("predictor", "json"), "tasks": ("needle",)},
                "tasks must have one of the study json, json, got needle",
            ),
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

    def test_answers_are_as_long_as_the_task_says_or_shorter(self):
        task = TASKS["instruction_sampled"]
        longest = task.decoding.max_new_tokens
        for asked, wanted in ((None, longest), (longest + 1, longest), (5, 5)):
            settings = RunSettings(studies=("french",), data="x.jsonl", max_new_tokens=asked)
            assert settings.decoding_of(task) == Decoding(wanted, task.decoding.temperature)
        assert RunSettings().decoding_of(TASKS["french"]).max_new_tokens == 40
        assert RunSettings(max_new_tokens=999).decoding_of(TASKS["french"]).max_new_tokens == 40
        assert RunSettings(max_new_tokens=7).decoding_of(TASKS["french"]).max_new_tokens == 7
        cells = study_cells(STUDIES["french"], RunSettings(max_new_tokens=7), [ROW])
        assert {cell.decoding.max_new_tokens for cell in cells} == {7}

    def test_windows(self):
        settings = RunSettings(data="x.jsonl", windows=2, window=100)
        assert settings.lengths == [(0, 100), (100, 200)]
        assert RunSettings.from_json(settings.to_json()) == settings
        before = {key: value for key, value in settings.to_json().items() if key != "window"}
        assert RunSettings.from_json(before).lengths == [(0, 500), (500, 1000)]

    def test_python_docs_stand_for_studies_without_references(self):
        assert "sft" not in RunSettings(data="python-docs").studies
