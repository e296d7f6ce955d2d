# SPDX-License-Identifier: MIT
"""The study `sft` as a run: trained, evaluated with the right adapter, killed and resumed."""

import json
import shutil
from pathlib import Path

import pytest

from guide_ext.integration.lora import load_adapted
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run import adapters, folder, progress, runner, write_tables
from guide_ext.studies.run.engine import TransformersEngine
from guide_ext.studies.training.data import embedded_examples
from guide_ext.studies.training.settings import SftSettings

pytest.importorskip("peft")

SETTINGS = RunSettings(studies=("sft",), documents=1, batch_size=4)
SHORT = SftSettings(
    rank=4, learning_rate=3e-2, warmup_steps=1, epochs=1, batch_tokens=512, sequence_length=512,
    checkpoints=(0, 500), activation_checkpointing=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(adapters.SftSettings, "embedded", classmethod(lambda cls: SHORT))
    monkeypatch.setattr(
        adapters, "embedded_examples", lambda **options: embedded_examples(12, **options)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters.SftSettings, "embedded", classmethod(lambda cls: SHORT))
        patch.setattr(
            adapters, "embedded_examples", lambda **options: embedded_examples(12, **options)
        )
        runner.run_studies(SETTINGS, path)
    return path


def answers(path):
    """Return the text of every answer by tokens of training, strength and row."""
    plan = progress.read_plan(path)
    return {
        (cell.adapter, cell.condition.delta, cell.row.id): plan.records[key]["text"]
        for key, cell in plan.cells.items()
    }


def test_each_answer_is_of_its_own_adapter(whole):
    plan = progress.read_plan(whole)
    trained = plan.documents.adapters
    assert trained[0] == 0
    assert len(trained) == 3
    assert sorted(path.name for path in (whole / adapters.FOLDER).iterdir()) == [
        f"tokens-{tokens:010d}" for tokens in trained
    ]
    found = answers(whole)
    rows = {row.id for row in plan.documents.rows}
    assert len(found) == len(rows) * (2 + len(trained))
    differ = 0
    for name in rows:
        assert found[0, 0.0, name] == found[None, 0.0, name]  # an untrained adapter does nothing
        differ += found[trained[-1], 0.0, name] != found[None, 0.0, name]
    assert differ > 0


def test_table(whole):
    (made,) = json.loads((whole / write_tables.TABLES).read_text())["tables"]
    rows = [dict(zip(made["columns"], row, strict=True)) for row in made["rows"]]
    trained = progress.read_plan(whole).documents.adapters
    assert [(row["method"], row["tokens"], row["delta"]) for row in rows] == [
        ("plain", None, 0.0),
        ("guide", None, 2.0),
        *(("sft", tokens, None) for tokens in trained),
    ]
    assert {row["answers"] for row in rows} == {6}
    assert rows[2]["right"] == rows[0]["right"]


def test_only_what_is_missing_is_trained_and_answered(whole, tmp_path, monkeypatch):
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    before = (path / write_tables.TABLES).read_bytes()
    plan = progress.read_plan(path)
    last = plan.documents.adapters[-1]
    shutil.rmtree(path / adapters.FOLDER / f"tokens-{last:010d}")
    lost = next(cell for cell in plan.cells.values() if cell.adapter == last)
    (path / folder.CELLS / lost.key[:2] / f"{lost.key}.json").unlink()
    loaded = []

    def load(name, adapter, **options):
        loaded.append(adapter.name)
        return load_adapted(name, adapter, **options)

    monkeypatch.setattr(adapters, "load_adapted", load)
    steps = []
    runner.run_studies(SETTINGS, path, on_training=steps.append)
    assert loaded == [f"tokens-{last:010d}"]
    assert steps[-1].tokens == last
    assert steps[0].index > 1
    assert (path / write_tables.TABLES).read_bytes() == before


def test_the_engine_changes_adapters(whole):
    plan = progress.read_plan(whole)
    row = plan.documents.rows[0]
    cells = [cell for cell in plan.cells.values() if cell.row == row and not cell.condition.delta]
    engine = TransformersEngine(SETTINGS, whole)
    for cell in cells[::-1]:
        assert engine.run([cell])[0]["text"] == plan.records[cell.key]["text"]


def test_a_model_that_cannot_be_trained_loses_nothing_else(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("samples must not see each other")

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "train", refuse)
        with pytest.raises(ValueError, match="must not see each other"):
            runner.run_studies(SETTINGS, tmp_path / "run")
    count = progress.read_plan(tmp_path / "run").count()
    assert (count.done, count.missing) == (12, 18)
    runner.run_studies(SETTINGS, tmp_path / "run")
    assert progress.read_plan(tmp_path / "run").count().missing == 0
