# SPDX-License-Identifier: MIT
"""Run batches on Ray Data. Each worker has a model, and writes its shards itself.

Results do not pass through Ray, so a run that is killed keeps them. The shards are those of a run
without Ray: each can go on with what the other began. All machines must see the folder of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from guide_ext.machine.memory import keep_freed_memory
from guide_ext.studies.run.batch import run_batch
from guide_ext.studies.run.engine import TransformersEngine
from guide_ext.studies.run.folder import RunFolder
from guide_ext.studies.run.progress import Plan, read_plan
from guide_ext.support.extras import Package, require

RAY = Package("ray.data", "to run on Ray")


def run_on_ray(
    plan: Plan, numbers: Sequence[int], path: Path, *, workers: int, device: str | None
) -> Iterator[int]:
    """Run batches on Ray, and yield how many cells each batch finished.

    Args:
        plan: Plan of the run.
        numbers: Numbers of the batches to do.
        path: Folder of the run; the same on every machine.
        workers: Number of workers that run at once, each with a model of its own.
        device: Device of the models; None for one GPU each, if Ray has any.

    Raises:
        ValueError: If the number of workers is not positive, or a worker cannot use the model or
            read the run.
        OSError: If a worker cannot read or write a file; what was saved before is kept.
        NotImplementedError: If Ray is not installed.

    """
    if workers < 1:
        raise ValueError(f"--ray must be a number of workers from 1, got {workers}")
    ray = require("ray", "to run on Ray")
    data = RAY.load()
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
            fn_constructor_args=(
                str(path.resolve()),
                device,
                torch.get_num_threads(),
                plan.retry_failed,
            ),
        )
        for row in finished.iter_rows():
            if row["error"]:
                raise (OSError if row["is_of_system"] else ValueError)(row["error"])
            yield int(row["cells"])
    finally:
        if begun_here:
            ray.shutdown()


class BatchWorker:
    """Runs batches of a run by their numbers, in a process of its own.

    Args:
        path: Folder of the run.
        device: Device of the model.
        threads: Number of threads, as without Ray: another number may change the last bits.
        retry_failed: Whether failed cells are tried again.

    """

    def __init__(
        self, path: str, device: str | None, threads: int, retry_failed: bool = False
    ) -> None:
        # Nothing is loaded yet: an error raised here would reach the user as a traceback of Ray.
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._path, self._device, self._retry_failed = Path(path), device, retry_failed

    @cached_property
    def _plan(self) -> Plan:
        return read_plan(self._path, retry_failed=self._retry_failed)

    @cached_property
    def _engine(self) -> TransformersEngine:
        return TransformersEngine(self._plan.settings, self._path, device=self._device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Run batches by number; return how many cells each finished, or its error."""
        found: dict[str, list[Any]] = {"cells": [], "error": [], "is_of_system": []}
        for number in batch["batch"]:
            saved, error = 0, None
            try:
                cells = self._plan.batches[int(number)]
                saved = run_batch(cells, self._plan.is_missing, RunFolder(self._path), self._engine)
            except (ValueError, OSError, NotImplementedError) as caught:
                error = caught
            found["cells"].append(saved)
            found["error"].append("" if error is None else str(error))
            found["is_of_system"].append(isinstance(error, OSError))
        return found
