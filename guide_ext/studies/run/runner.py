# SPDX-License-Identifier: MIT
"""Do what is missing of a run, here or on Ray, and make its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from guide_ext.studies.cells import Row
from guide_ext.studies.plan import RunSettings, tasks_of
from guide_ext.studies.registry import studies_named
from guide_ext.studies.run.adapters import Adapters
from guide_ext.studies.run.batch import run_batch
from guide_ext.studies.run.engine import (
    Engine,
    TransformersEngine,
    model_files,
    tokenizer_of_run,
)
from guide_ext.studies.run.folder import RunFolder
from guide_ext.studies.run.preparation import documents_of_run
from guide_ext.studies.run.progress import Plan
from guide_ext.studies.run.ray_runner import RAY, run_on_ray
from guide_ext.studies.run.write_tables import TABLES, write_tables
from guide_ext.studies.tables.metrics import BERT_SCORE
from guide_ext.studies.training.train import Step
from guide_ext.support.extras import Package

_NOTED = 10  # rows of the data that are left out


OnProgress = Callable[[int, int], None]
"""Called with the number of cells that are done and the number of all cells."""


def run_studies(
    settings: RunSettings,
    path: Path,
    *,
    device: str | None = None,
    retry_failed: bool = False,
    ray_workers: int | None = None,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
    on_training: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Do what is missing of a run, and write its tables.

    It may be killed at any moment: a cell is saved as soon as its batch is done, and the next call
    does what is missing. Interruptions do not change the results.

    Args:
        settings: Settings of the run.
        path: Folder of the run.
        device: Device of the model; None for a GPU if there is one.
        retry_failed: Whether failed cells are tried again.
        ray_workers: Number of workers on Ray, each with a model of its own; None to run here.
        engine: Runs the cells in place of a model of transformers.
        on_progress: Called after every batch.
        on_training: Called after every step of fine-tuning.
        on_note: Called with remarks for the user.

    Returns:
        The tables, as in ``tables.json``.

    Raises:
        ValueError: If the folder holds something else or another run.
        OSError: If something cannot be read or written; what was saved before is kept.
        NotImplementedError: If a library that a study needs, or Ray, is not installed.

    """
    if ray_workers is not None and engine is not None:
        raise ValueError("engine must be left out with ray_workers, whose workers load the model")
    for package in _needed(settings) + [RAY] * (ray_workers is not None):
        package.load()  # before the work, which would be lost
    folder = RunFolder(path)
    with folder.held():
        plan = _begun(folder, settings, retry_failed, on_note or (lambda text: None))
        numbers, total = plan.missing_batches(), len(plan.cells)
        done = sum(not plan.is_missing(cell) for cell in plan.cells.values())
        report = on_progress or (lambda done, total: None)
        report(done, total)

        def finished(numbers: Sequence[int]) -> Iterator[int]:
            if ray_workers is None:
                # An engine for each call, so that none holds memory while a model is trained.
                chosen = engine or TransformersEngine(plan.settings, path, device=device)
                return _run_here(plan, numbers, folder, chosen)
            return run_on_ray(plan, numbers, path, workers=ray_workers, device=device)

        # Training comes last: if it fails, everything else is done.
        for is_trained in (False, True):
            part = [n for n in numbers if (plan.batches[n][0].adapter is not None) == is_trained]
            if is_trained and part:
                tokenizer = tokenizer_of_run(plan.settings)
                Adapters(plan.settings, path, plan.documents.rows, tokenizer).train(
                    device=device, on_step=on_training
                )
            for count in finished(part):
                done += count
                report(done, total)
        return write_tables(path)


def _needed(settings: RunSettings) -> list[Package]:
    """Return the optional packages that a run needs."""
    tasks = [package for task in tasks_of(settings) for package in task.needs]
    studies = [package for one in studies_named(settings.studies) for package in one.needs]
    return [*tasks, *studies, *([BERT_SCORE] if settings.bertscore is not None else [])]


def _begun(
    folder: RunFolder, settings: RunSettings, retry_failed: bool, note: Callable[[str], None]
) -> Plan:
    """Begin a run or go on with it: write its manifest and documents, and plan it."""
    model_files(settings, note)  # a packaged model may have to be converted first
    settings = folder.agreed(settings)
    documents, is_new = documents_of_run(folder, settings, tokenizer_of_run(settings), note)
    _check_kinds(settings, documents.rows)
    folder.begin(settings)
    if is_new:
        folder.save_documents(documents)
    for document in documents.bad[:_NOTED]:
        note(f"left out: {document.id}: {document.error}")
    if len(documents.bad) > _NOTED:
        note(f"left out: {len(documents.bad) - _NOTED} more rows; {TABLES} names all of them")
    plan = Plan(folder, settings, documents, retry_failed=retry_failed)
    for damaged in folder.set_aside:
        note(f"damaged, so its work is done again: {damaged}")
    return plan


def _check_kinds(settings: RunSettings, rows: Sequence[Row]) -> None:
    known = dict.fromkeys(row.kind for row in rows if row.kind)
    unknown = [kind for kind in settings.kinds if kind not in known]
    if unknown:
        raise ValueError(
            f"kinds must be among those of the studies, {', '.join(known) or 'which have none'}, "
            f"got {', '.join(unknown)}"
        )


def _run_here(
    plan: Plan, numbers: Iterable[int], folder: RunFolder, engine: Engine
) -> Iterator[int]:
    for number in numbers:
        yield run_batch(plan.batches[number], plan.is_missing, folder, engine)
