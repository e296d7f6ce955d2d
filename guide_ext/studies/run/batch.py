# SPDX-License-Identifier: MIT
"""Run one batch of cells, and save each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from guide_ext.studies.run.engine import Engine, UnusableModelError
from guide_ext.studies.run.folder import DONE, FAILED, RunFolder
from guide_ext.studies.study import Cell


def run_batch(
    batch: Sequence[Cell], is_missing: Callable[[Cell], bool], folder: RunFolder, engine: Engine
) -> int:
    """Run a batch and save what was missing of it; return how many cells that were.

    The whole batch runs, done or not, so that every answer has the neighbours that it would have
    had in one go. Where the engine refuses it, each cell is tried alone, and where it does not fit
    into memory, each half; those at fault are recorded as failed.

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
    # Here, where no traceback keeps the tensors of the batch any more.
    if len(batch) == 1:
        return [(FAILED, {"error": problem})]
    parts = (batch[start : start + size] for start in range(0, len(batch), size))
    return [result for part in parts for result in _results(part, engine)]
