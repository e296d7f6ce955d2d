# SPDX-License-Identifier: MIT
"""The same batches on Ray Data: each worker has a model, and writes its shards itself.

What is done does not pass through Ray, so that a run that is killed keeps it: the shards are those
of a run without Ray, and either goes on with what the other began. All machines must see the folder
of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from guide_ext.experiments.studies.engine import TransformersEngine
from guide_ext.experiments.studies.extras import require
from guide_ext.experiments.studies.folder import RunFolder
from guide_ext.experiments.studies.runner import Plan, read_plan, run_batch


def run_on_ray(
    plan: Plan, numbers: Sequence[int], path: Path, *, workers: int, device: str | None
) -> Iterator[int]:
    """Run batches on Ray, and yield how many cells each of them finished.

    Args:
        plan: Of the run.
        numbers: Of the batches to do.
        path: Folder of the run; the same on every machine.
        workers: How many run at once, each with a model of its own.
        device: Where the models run; None for a GPU for each if Ray has any.

    Raises:
        ValueError: If the number of workers is not positive.
        NotImplementedError: If Ray is not installed.

    """
    if workers < 1:
        raise ValueError(f"--ray must be a number of workers from 1, got {workers}")
    ray = require("ray", "to run on Ray", extra="ray")
    data = require("ray.data", "to run on Ray", extra="ray")
    if not numbers:
        return
    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0 and (device or "cuda") != "cpu"
        batches = data.from_items(
            [{"batch": number} for number in numbers], override_num_blocks=len(numbers)
        )
        finished = batches.map_batches(
            BatchWorker,
            batch_size=1,
            concurrency=min(workers, len(numbers)),
            num_cpus=1,
            num_gpus=1 if has_gpus else 0,
            fn_constructor_args=(str(path.resolve()), device, torch.get_num_threads()),
        )
        for row in finished.iter_rows():
            yield int(row["cells"])
    finally:
        if begun_here:
            ray.shutdown()


class BatchWorker:
    """Runs batches of a run by their numbers, in a process of its own.

    Args:
        path: Folder of the run.
        device: Where the model runs.
        threads: Of each worker, as without Ray: another number may change the last bits.

    """

    def __init__(self, path: str, device: str | None, threads: int) -> None:
        """Read the plan; the model comes with the first batch."""
        torch.set_num_threads(threads)
        self._folder = RunFolder(Path(path))
        self._plan = read_plan(Path(path), repair=False)
        self._engine = TransformersEngine(self._plan.settings, Path(path), device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Run the batches of one call, and return how many cells they finished."""
        saved = [
            run_batch(
                self._plan.batches[int(number)], self._plan.is_missing, self._folder, self._engine
            )
            for number in batch["batch"]
        ]
        return {"cells": saved}
