# SPDX-License-Identifier: MIT
"""The same runs on a local Ray: equal tables, killed and resumed."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import study_process
from study_process import shards_of

from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run import progress, ray_runner, runner, write_tables

pytest.importorskip("ray")

SETTINGS = RunSettings(studies=("french", "norms"), documents=1, samples=1, batch_size=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run without Ray that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    runner.run_studies(SETTINGS, path, device="cpu")
    return path


@pytest.mark.long
def test_killed(whole, tmp_path):
    """A kill takes the driver and its Ray; what workers had saved is kept.

    Once: Ray takes twenty seconds to start. Runs without it are killed three times.
    """
    total = len(shards_of(whole))
    saved = study_process.killed(SETTINGS, tmp_path / "run", total, seed=2, kills=1, ray_workers=2)
    assert saved[0] >= 1
    for name in (write_tables.TABLES, write_tables.TABLES_TEXT):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    found = [(path.name, path.read_bytes()) for path in shards_of(tmp_path / "run")]
    assert found == [(path.name, path.read_bytes()) for path in shards_of(whole)]


def test_a_worker_does_what_is_missing(whole, tmp_path):
    """What a worker of Ray does, without Ray."""
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    plan = progress.read_plan(path)
    lost = [plan.batches[0][0], plan.batches[-1][-1]]
    for cell in lost:
        next(shard for shard in shards_of(path) if shard.stem == cell.key).unlink()
    worker = ray_runner.BatchWorker(str(path), "cpu", 1)
    found = worker({"batch": [0, len(plan.batches) - 1]})
    assert (found["cells"], found["error"]) == ([1, 1], ["", ""])
    assert len(shards_of(path)) == len(shards_of(whole))


def test_no_workers(whole, tmp_path):
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    with pytest.raises(ValueError, match="--ray must be a number of workers from 1, got 0"):
        runner.run_studies(SETTINGS, path, ray_workers=0)
    with pytest.raises(ValueError, match="seed must be 42"):
        runner.run_studies(dataclasses.replace(SETTINGS, seed=1), path, ray_workers=0)
