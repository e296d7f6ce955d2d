# SPDX-License-Identifier: MIT
"""Run a batch of cells, and save what each of them found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from guide_ext.studies.cells import Cell
from guide_ext.studies.run.engine import Engine, UnusableModelError
from guide_ext.studies.run.folder import DONE, FAILED, RunFolder


def run_batch(
    batch: Sequence[Cell], is_missing: Callable[[Cell], bool], folder: RunFolder, engine: Engine
) -> int:
    """Run a batch, save the cells that were missing, and return how many they were.

    The whole batch runs, done or not: every answer then has the neighbours that it would have had
    without an interruption. If the engine refuses the batch, each cell is tried alone; if the batch
    does not fit into memory, each half is. A cell that still fails is saved as failed.

    Args:
        batch: The cells.
        is_missing: Tells whether a cell is to be saved.
        folder: Folder of the run.
        engine: Runs the cells.

    Raises:
        ValueError: If the model cannot be run at all.
        OSError: If a shard cannot be written.

    """
    try:
        results = _results(batch, engine)
    except UnusableModelError as error:
        raise ValueError(str(error)) from None
    saved = 0
    for cell, (status, result) in zip(batch, results, strict=True):
        if is_missing(cell):
            folder.save(cell, status, result)
            saved += 1
    return saved


def _results(batch: Sequence[Cell], engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    try:
        return [(DONE, result) for result in engine.run(batch)]
    except ValueError as error:
        problem, size = str(error), 1
    except torch.OutOfMemoryError as error:
        problem, size = f"cell must fit into the memory of the device: {error}", len(batch) // 2
    # Only here: inside `except`, the traceback would keep the tensors of the batch alive.
    if len(batch) == 1:
        return [(FAILED, {"error": problem})]
    parts = (batch[start : start + size] for start in range(0, len(batch), size))
    return [result for part in parts for result in _results(part, engine)]
