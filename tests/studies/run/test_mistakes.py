# SPDX-License-Identifier: MIT
"""What users and machines do to runs of studies: wrong options, other texts, too little memory."""

import json
import os
import sys

import pytest
import torch

from guide_ext import integration
from guide_ext.integration.rows import answer_rows
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.registry import STUDIES
from guide_ext.studies.run import engine as run_engine
from guide_ext.studies.run import folder, runner
from guide_ext.studies.run.batch import run_batch
from guide_ext.studies.run.engine import model_of_run
from guide_ext.studies.study import STRESSED
from guide_ext.support.files import is_scratch

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500))


def write_texts(path, texts, column="text"):
    path.write_text("\n".join(json.dumps({column: text}) for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def settings(tmp_path):
    """Return a run over a file of one text."""
    data = write_texts(tmp_path / "texts.jsonl", ["The cat sleeps."])
    return RunSettings(studies=("norms",), data=data, windows=1, documents=1)


class Answers:
    """An engine that answers everything alike, in batches of up to so many cells."""

    def __init__(self, most=99):
        self.most, self.sizes = most, []

    def run(self, cells):
        self.sizes.append(len(cells))
        if len(cells) > self.most:
            raise torch.OutOfMemoryError("16 GiB")
        return [{"text": cell.row.id, "new_tokens": 1} for cell in cells]


class TestSettingsOfARun:
    def test_a_start_that_failed_binds_nothing(self, tmp_path):
        data = write_texts(tmp_path / "texts.jsonl", ["The cat sleeps."], column="body")
        wrong = RunSettings(studies=("json",), data=data, documents=1)
        with pytest.raises(ValueError, match=r"texts\.jsonl:1: column 'text' must be there"):
            runner.run_studies(wrong, tmp_path / "run", engine=Answers())
        right = RunSettings(studies=("json",), data=data, documents=1, text_column="body")
        tables = runner.run_studies(right, tmp_path / "run", engine=Answers())
        assert tables["progress"]["json"]["done"] == 8 + len(STRESSED)
        with pytest.raises(ValueError, match="text_column must be 'body' as in the run"):
            runner.run_studies(wrong, tmp_path / "run", engine=Answers())

    def test_a_study_that_cannot_be_added_leaves_the_run_as_it_was(self, tmp_path, settings):
        first = runner.run_studies(settings, tmp_path / "run")
        os.rename(settings.data, tmp_path / "elsewhere.jsonl")
        more = RunSettings(**{**vars(settings), "studies": ("needle",)})
        with pytest.raises(FileNotFoundError, match="must be a file that exists"):
            runner.run_studies(more, tmp_path / "run")
        assert runner.run_studies(settings, tmp_path / "run") == first

    def test_other_texts(self, tmp_path, settings):
        runner.run_studies(settings, tmp_path / "run")
        write_texts(tmp_path / "texts.jsonl", ["The dog sleeps."])
        with pytest.raises(ValueError, match=r"data must be the texts that the run in .* began"):
            runner.run_studies(settings, tmp_path / "run")

    def test_what_a_killed_first_start_left_is_no_other_file(self, tmp_path, settings, monkeypatch):
        run = tmp_path / "run"

        def killed(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            patch.setattr(os, "unlink", lambda path: None)  # a kill leaves no time to clean up
            with pytest.raises(KeyboardInterrupt):
                runner.run_studies(settings, run)
        left = [path for path in run.iterdir() if path.name != folder._LOCK]
        assert [is_scratch(path) for path in left] == [True]
        runner.run_studies(settings, run)

    def test_another_process_in_the_same_folder(self, tmp_path, settings):
        refused = pytest.raises(ValueError, match="in which no other process runs")
        with folder.RunFolder(tmp_path / "run").held(), refused:
            runner.run_studies(settings, tmp_path / "run")
        runner.run_studies(settings, tmp_path / "run")

    def test_many_bad_rows_are_counted(self, tmp_path):
        path = tmp_path / "texts.jsonl"
        path.write_text('{"text": "The cat."}\n' + '{"text": [1, 2, 3, 4, 5, 6, 7]}\n' * 30)
        settings = RunSettings(studies=("json",), data=str(path), deltas=())
        notes = []
        tables = runner.run_studies(
            settings, tmp_path / "run", engine=Answers(), on_note=notes.append
        )
        assert len(notes) == 11
        assert notes[-1] == "left out: 20 more rows; tables.json names all of them"
        assert len(tables["failures"]) == 30

    @pytest.mark.parametrize(
        ("options", "module"),
        [
            ({"studies": ("french",)}, "py3langid"),
            ({"studies": ("sft",)}, "peft"),
            ({"studies": ("french",), "reference_column": "r", "bertscore": "x"}, "bert_score"),
        ],
    )
    def test_a_missing_library_is_told_before_the_work(
        self, tmp_path, monkeypatch, options, module
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(NotImplementedError, match=f"{module} must be installed"):
            runner.run_studies(RunSettings(**options), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_strengths_by_another_name(self):
        assert RunSettings(deltas=(2, 0.5, 2.0)) == RunSettings(deltas=(0.5, 2.0))
        keys = [
            {cell.key for cell in study_cells(STUDIES["french"], RunSettings(deltas=d), [ROW])}
            for d in ((2,), (2.0,))
        ]
        assert keys[0] == keys[1]

    def test_more_samples_than_the_papers(self):
        def samples(study):
            cells = study_cells(STUDIES[study], RunSettings(samples=12), [ROW])
            return {cell.sample for cell in cells if cell.condition == Condition()}

        assert samples("french") == set(range(12))
        assert samples("delta_limit") == {0}


class TestTheModel:
    def test_a_device_that_is_not_there_is_no_fault_of_a_cell(self, tmp_path, settings):
        with pytest.raises(ValueError, match="device must be one of this machine"):
            runner.run_studies(settings, tmp_path / "run", device="cuda:99")
        assert not (tmp_path / "run" / folder.CELLS).exists()
        assert runner.run_studies(settings, tmp_path / "run")["failures"] == []

    @pytest.mark.parametrize(
        ("dtype", "found"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)]
    )
    def test_the_type_of_its_weights(self, dtype, found):
        assert model_of_run(RunSettings(dtype=dtype))[0].dtype is found

    def test_a_type_that_is_none(self):
        with pytest.raises(ValueError, match=r"dtype must be one of 'auto', .*, got 'int3'"):
            RunSettings(dtype="int3")

    def test_a_model_that_does_not_fit_into_memory(self, tmp_path, settings, monkeypatch):
        def full(*arguments):
            raise torch.OutOfMemoryError("80 GiB")

        monkeypatch.setattr(run_engine, "model_of_run", full)
        with pytest.raises(ValueError, match="80 GiB"):
            runner.run_studies(settings, tmp_path / "run")
        assert not (tmp_path / "run" / folder.CELLS).exists()

    def test_a_batch_that_does_not_fit_into_memory_is_halved(self, tmp_path):
        run = folder.RunFolder(tmp_path)
        batch = [Cell(ANSWER, ROW, Condition(delta=delta)) for delta in range(5)]
        engine = Answers(most=2)
        assert run_batch(batch, lambda cell: True, run, engine) == 5
        assert engine.sizes == [5, 2, 2, 1]
        assert {run.record(cell)["status"] for cell in batch} == {"done"}
        assert run_batch(batch[:1], lambda cell: True, run, Answers(most=0)) == 1
        assert "must fit into the memory of the device: 16 GiB" in run.record(batch[0])["error"]

    def test_an_engine_of_ones_own_does_not_run_on_ray(self, tmp_path, settings):
        with pytest.raises(ValueError, match="engine must be left out with ray_workers"):
            runner.run_studies(settings, tmp_path / "run", engine=Answers(), ray_workers=2)

    def test_no_answer_is_cut_off_by_its_neighbour(self):
        """How long an answer may be does not depend on the longest prompt of its batch."""
        model, tokenizer = integration.load_embedded()
        short, long = "Summarize: the cat.", "the cat sleeps " * 330
        length = len(tokenizer(long)["input_ids"])
        assert 1024 - 60 < length < 1024
        how = {"max_new_tokens": 60, "temperature": 1000.0}
        assert answer_rows(model, tokenizer, [short], seeds=[1], **how)[0][1] > 1024 - length
        with pytest.raises(ValueError, match=r"within the 1024 positions .* behind \d+ tokens"):
            answer_rows(model, tokenizer, [short, long], seeds=[1, 2], **how)


class TestRay:
    """What a worker of Ray does, without Ray."""

    @pytest.fixture(autouse=True)
    def _ray(self):
        pytest.importorskip("ray")

    def worker(self, path, **options):
        from guide_ext.studies.run.ray_runner import BatchWorker

        return BatchWorker(str(path), options.pop("device", "cpu"), 1, **options)

    def test_failed_cells_are_tried_again_when_asked(self, tmp_path, settings):
        class Failing:
            def run(self, cells):
                raise ValueError("refused")

        runner.run_studies(settings, tmp_path / "run", engine=Failing())
        assert self.worker(tmp_path / "run")({"batch": [0]})["cells"] == [0]
        assert self.worker(tmp_path / "run", retry_failed=True)({"batch": [0]})["cells"] == [2]

    def test_errors_come_back_in_words(self, tmp_path, settings):
        nowhere = self.worker(tmp_path / "none")({"batch": [0]})
        assert "must be a folder with a manifest.json" in nowhere["error"][0]
        runner.run_studies(settings, tmp_path / "run")
        for shard in (tmp_path / "run" / folder.CELLS).glob("*/*.json"):
            shard.unlink()
        found = self.worker(tmp_path / "run", device="cuda:99")({"batch": [0, 1]})
        assert found["cells"] == [0, 0]
        assert all("device must be one of this machine" in error for error in found["error"])
        assert found["is_of_system"] == [False, False]
