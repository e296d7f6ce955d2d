# SPDX-License-Identifier: MIT
"""Run what is missing of a run, here or on Ray, and make its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from guide_ext.studies.plan import RunSettings, tasks_of
from guide_ext.studies.run.adapters import Adapters
from guide_ext.studies.run.batch import run_batch
from guide_ext.studies.run.engine import (
    Engine,
    TransformersEngine,
    load_tokenizer,
)
from guide_ext.studies.run.folder import RunFolder
from guide_ext.studies.run.preparation import documents_of_run
from guide_ext.studies.run.progress import Plan
from guide_ext.studies.run.ray_runner import run_on_ray
from guide_ext.studies.run.write_tables import TABLES, write_tables
from guide_ext.studies.sft.train import Step
from guide_ext.support.extras import require_all

_NOTED = 10  # rows of the data that are left out


OnProgress = Callable[[int, int], None]
"""Called with the cells that are done and the number of all."""


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

    It may be killed at any moment: every cell is saved as soon as its batch is done, and the next
    call does what is missing. Results depend neither on interruptions nor on where cells ran.

    Args:
        settings: What the run is.
        path: Its folder.
        device: Where the model runs; None for a GPU if there is one.
        retry_failed: Try cells again that failed.
        ray_workers: Run on Ray with so many workers, each with a model of its own.
        engine: Another engine than transformers with guide.
        on_progress: Called after every batch.
        on_training: Called after every step of fine-tuning.
        on_note: Called with remarks for the user.

    Returns:
        The tables, as in ``tables.json``.

    Raises:
        ValueError: If the folder holds something else or another run.
        OSError: If something cannot be read or written; what was saved before is kept.
        NotImplementedError: If a library that a study needs is not installed.

    """
    if ray_workers is not None and engine is not None:
        raise ValueError("engine must be left out with ray_workers, whose workers load the model")
    bertscore = ["bertscore"] if settings.bertscore is not None else []
    require_all([*tasks_of(settings), *settings.studies, *bertscore])
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

        # Training comes last: a model that cannot be trained loses nothing else.
        for is_trained in (False, True):
            part = [n for n in numbers if (plan.batches[n][0].adapter is not None) == is_trained]
            if is_trained and part:
                tokenizer = load_tokenizer(plan.settings)
                Adapters(plan.settings, path, plan.documents.rows, tokenizer).train(
                    device=device, on_step=on_training
                )
            for count in finished(part):
                done += count
                report(done, total)
        return write_tables(path)


def _begun(
    folder: RunFolder, settings: RunSettings, retry_failed: bool, note: Callable[[str], None]
) -> Plan:
    """Write down that a run starts or goes on, and plan it."""
    settings = folder.agreed(settings)
    documents, is_new = documents_of_run(folder, settings, load_tokenizer(settings), note)
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


def _run_here(
    plan: Plan, numbers: Iterable[int], folder: RunFolder, engine: Engine
) -> Iterator[int]:
    for number in numbers:
        yield run_batch(plan.batches[number], plan.is_missing, folder, engine)
