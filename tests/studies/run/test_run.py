# SPDX-License-Identifier: MIT
"""Runs of studies on the embedded model: killed and resumed, damaged, full disks, bad rows."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import study_process
from study_process import shards_of

from guide_ext.embedded import model_path
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run import folder, runner, shards, write_tables
from guide_ext.studies.run.engine import TransformersEngine
from guide_ext.studies.study import STRESSED

SETTINGS = RunSettings(studies=("french", "json", "norms"), documents=1, samples=1, batch_size=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    runner.run_studies(SETTINGS, path, device="cpu")
    return path


@pytest.fixture
def copied(whole, tmp_path):
    """Return a copy of it that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def tables_of(path):
    return (path / write_tables.TABLES).read_bytes(), (path / write_tables.TABLES_TEXT).read_bytes()


class TestInterrupted:
    @pytest.mark.long
    def test_killed_three_times(self, whole, tmp_path):
        total = len(shards_of(whole))
        study_process.killed(SETTINGS, tmp_path / "run", total, seed=1)
        assert tables_of(tmp_path / "run") == tables_of(whole)
        found = [(path.name, path.read_bytes()) for path in shards_of(tmp_path / "run")]
        assert found == [(path.name, path.read_bytes()) for path in shards_of(whole)]

    def test_only_what_is_missing_runs(self, copied):
        before = tables_of(copied)
        lost = shards_of(copied)[::5]
        for path in lost:
            path.unlink()
        seen = []
        runner.run_studies(
            SETTINGS, copied, on_progress=lambda done, total: seen.append((done, total))
        )
        total = len(shards_of(copied))
        assert seen[0] == (total - len(lost), total)
        assert seen[-1] == (total, total)
        assert tables_of(copied) == before

        class Nothing:
            def run(self, cells):
                raise AssertionError("everything is done")

        runner.run_studies(SETTINGS, copied, engine=Nothing())
        assert tables_of(copied) == before

    def test_a_run_grows_by_studies(self, copied):
        grown = dataclasses.replace(SETTINGS, studies=("needle",))
        tables = runner.run_studies(grown, copied)
        assert tables["settings"]["studies"] == ["french", "needle", "json", "norms"]
        names = [table["name"] for table in tables["tables"]]
        assert {"french", "needle", "json", "norms"} <= set(names)


class TestDamaged:
    def test_a_corrupt_shard_is_done_again(self, copied):
        before = tables_of(copied)
        damaged, emptied = shards_of(copied)[3], shards_of(copied)[7]
        damaged.write_bytes(damaged.read_bytes().replace(b'"sample": 0', b'"sample": 1'))
        emptied.write_bytes(b"")
        with pytest.raises(shards.CorruptShardError, match="study run' again"):
            write_tables.write_tables(copied)
        notes = []
        runner.run_studies(SETTINGS, copied, on_note=notes.append)
        assert [note.partition(":")[0] for note in notes] == [
            "damaged, so its work is done again"
        ] * 2
        assert tables_of(copied) == before
        assert damaged.with_name(f"{damaged.name}.corrupt").exists()

    def test_corrupt_documents_are_made_again(self, copied):
        before = tables_of(copied)
        (copied / folder.ROWS).write_text("{")
        notes = []
        runner.run_studies(SETTINGS, copied, on_note=notes.append)
        assert tables_of(copied) == before
        assert "rows.json" in notes[0]

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", '{"kind": "other"}', '{"kind": "guide_ext study run", "format": 1}'],
    )
    def test_a_manifest_of_something_else(self, copied, content):
        (copied / folder.MANIFEST).write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json must (be|have)"):
            runner.run_studies(SETTINGS, copied)

    def test_a_full_disk(self, tmp_path, monkeypatch):
        """What was saved before the disk is full stays, and the run goes on from there."""
        write, written = Path.write_bytes, []

        def write_until_full(path, content):
            if path.parent.parent.name == folder.CELLS:
                if len(written) == 11:
                    write(path, b"half of")
                    raise OSError(28, os.strerror(28))
                written.append(path)
            return write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", write_until_full)
            with pytest.raises(OSError, match=r"No space left.*; free some space") as caught:
                runner.run_studies(SETTINGS, tmp_path / "run")
        assert caught.value.filename.endswith(".json")
        assert len(shards_of(tmp_path / "run")) == 11
        seen = []
        runner.run_studies(
            SETTINGS, tmp_path / "run", on_progress=lambda done, _: seen.append(done)
        )
        assert seen[0] == 11


class TestWrongPlaces:
    def test_other_settings(self, copied):
        other = dataclasses.replace(SETTINGS, seed=43)
        with pytest.raises(ValueError, match=r"seed must be 42 as in the run in .*, got 43"):
            runner.run_studies(other, copied)

    def test_other_weights(self, copied, tmp_path):
        model = Path(shutil.copytree(model_path(), tmp_path / "model"))
        (tmp_path / "texts.jsonl").write_text('{"text": "The cat sleeps."}\n')
        settings = dataclasses.replace(
            SETTINGS, model=str(model), data=str(tmp_path / "texts.jsonl"), studies=("json",)
        )
        runner.run_studies(settings, tmp_path / "other", engine=Failing())
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        with pytest.raises(ValueError, match=r"weights that the run in .* began with"):
            runner.run_studies(settings, tmp_path / "other", engine=Failing())

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(ValueError, match="empty folder or hold a run"):
            runner.run_studies(SETTINGS, tmp_path)

    def test_a_library_that_is_not_there_is_told_before_the_work(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "py3langid", None)
        with pytest.raises(NotImplementedError, match=r"py3langid must be installed .*\[studies\]"):
            runner.run_studies(SETTINGS, tmp_path / "run", engine=Failing())
        assert not (tmp_path / "run").exists()

    def test_a_file(self, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(ValueError, match="--out must be a folder"):
            runner.run_studies(SETTINGS, tmp_path / "run")

    def test_no_run(self, tmp_path):
        with pytest.raises(ValueError, match=r"must be a folder with a manifest\.json"):
            write_tables.write_tables(tmp_path)

    def test_a_model_that_is_not_there(self, tmp_path):
        (tmp_path / "texts.jsonl").write_text('{"text": "The cat sleeps."}\n')
        settings = RunSettings(
            studies=("json",), model=str(tmp_path / "none"), data=str(tmp_path / "texts.jsonl")
        )
        with pytest.raises(OSError, match="none"):
            runner.run_studies(settings, tmp_path / "run")


class Failing:
    """An engine that refuses everything."""

    def run(self, cells):
        raise ValueError("refused")


class TestBadRows:
    def test_only_those_at_fault_fail(self, tmp_path):
        """A text beyond the model's positions fails alone; the rest of its batch is answered."""
        lines = [{"text": "The cat sleeps. " * count} for count in (3, 4, 5)]
        lines.append({"text": "The dog runs far away. " * 400})
        texts = tmp_path / "texts.jsonl"
        texts.write_text("\n".join(map(json.dumps, lines)) + "\nbroken\n")
        settings = RunSettings(
            studies=("french",), data=str(texts), documents=3, samples=1, deltas=(2.0,), windows=5,
            batch_size=8,
        )  # fmt: skip
        notes = []
        tables = runner.run_studies(settings, tmp_path / "run", on_note=notes.append)
        assert notes == [
            "left out: texts.jsonl:5: line must be JSON: Expecting value: line 1 column 1 (char 0)"
        ]
        conditions = ["Δ = 0", "Δ = 2", "upper case", "“Important:”", *(c.name for c in STRESSED)]
        failed = [f for f in tables["failures"] if f["row"] == "texts.jsonl:4"]
        assert [f["condition"] for f in failed] == conditions
        assert all("1024 positions" in f["error"] for f in failed)
        assert [f["row"] for f in tables["failures"] if f not in failed] == ["texts.jsonl:5"]
        french = tables["tables"][0]
        assert french["name"] == "french"
        assert [row[:5] for row in french["rows"]] == [
            ["Δ = 0", "plain", 0.0, 3, 3],
            ["Δ = 2", "plain", 2.0, 3, 3],
            ["upper case", "upper", 0.0, 3, 3],
            ["“Important:”", "important", 0.0, 3, 3],
            *([one.name, one.way, 0.0, 3, 3] for one in STRESSED),
        ]
        assert tables["progress"]["french"] == {"done": 24, "failed": 8, "total": 32}

    def test_failed_cells_are_tried_again_when_asked(self, tmp_path):
        settings = dataclasses.replace(SETTINGS, studies=("norms",))
        tables = runner.run_studies(settings, tmp_path / "run", engine=Failing())
        assert {failure["error"] for failure in tables["failures"]} == {"refused"}
        assert tables["tables"] == []
        again = runner.run_studies(settings, tmp_path / "run")
        assert again["failures"] == tables["failures"]
        mended = runner.run_studies(settings, tmp_path / "run", retry_failed=True)
        assert mended["failures"] == []
        assert [table["name"] for table in mended["tables"]] == ["norms", "norms_by_length"]

    def test_other_errors_stop_the_run(self, tmp_path):
        class Broken(TransformersEngine):
            def run(self, cells):
                raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            runner.run_studies(SETTINGS, tmp_path / "run", engine=Broken(SETTINGS, tmp_path))
        assert shards_of(tmp_path / "run") == []
