# SPDX-License-Identifier: MIT
"""Runs of studies in processes of their own, which can be killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

_PROGRAM = """
import json, sys
from pathlib import Path
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run.runner import run_studies
settings = RunSettings.from_json(json.loads(sys.argv[1]))
run_studies(settings, Path(sys.argv[2]), device="cpu", ray_workers=json.loads(sys.argv[3]))
"""


def start(settings, folder, *, ray_workers=None):
    """Start a run in a session of its own."""
    arguments = [json.dumps(settings.to_json()), str(folder), json.dumps(ray_workers)]
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """Wait for a run to end well."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-4000:]


def shards_of(folder):
    """List the shards of a run."""
    return sorted((folder / "cells").glob("??/*.json"))


def kill_after(process, folder, cells):
    """Kill a run and what it started when so many cells are saved; say whether it was alive."""
    end = time.monotonic() + 240
    while len(shards_of(folder)) < cells and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    was_alive = process.poll() is None
    if was_alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return was_alive


def killed(settings, folder, total, *, seed, kills=3, ray_workers=None):
    """Run to the end after kills at random points; return after how many cells they were."""
    rng = random.Random(seed)
    saved = []
    for number in range(kills):
        before = len(shards_of(folder))
        wanted = before + 1 + rng.randrange(max(1, (total - before) // (kills + 1 - number)))
        process = start(settings, folder, ray_workers=ray_workers)
        assert kill_after(process, folder, wanted), process.stderr
        saved.append(len(shards_of(folder)))
    assert saved[0] < total
    assert saved == sorted(saved)
    finish(start(settings, folder, ray_workers=ray_workers))
    return saved
