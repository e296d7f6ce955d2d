# SPDX-License-Identifier: MIT
"""Run what is missing of a run, here or on Ray, and make its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guide_ext._files import json_text
from guide_ext.experiments.studies import tables, tables_measured
from guide_ext.experiments.studies.adapters import Adapters
from guide_ext.experiments.studies.engine import (
    Engine,
    TransformersEngine,
    UnusableModelError,
    load_tokenizer,
)
from guide_ext.experiments.studies.extras import require_all
from guide_ext.experiments.studies.folder import DONE, FAILED, ROWS, Documents, RunFolder
from guide_ext.experiments.studies.plan import (
    RunSettings,
    all_cells,
    batches_of,
    tasks_of,
)
from guide_ext.experiments.studies.preparation import documents_of_run
from guide_ext.experiments.studies.sft import Step
from guide_ext.experiments.studies.shards import write_text
from guide_ext.experiments.studies.study import Cell, studies_named

TABLES, TABLES_TEXT = "tables.json", "tables.md"
_NOTED = 10  # rows of the data that are left out
_TABLES_OF = {
    "french": (tables.french, tables_measured.french_quality),
    "needle": (tables.needle,),
    "json": (tables.json_template,),
    "predictor": (tables_measured.predictor,),
    "norms": (tables_measured.norms,),
    "delta_limit": (tables.delta_limit,),
    "sft": (tables_measured.sft,),
}


@dataclass(frozen=True)
class Count:
    """How far a study, or a run, is."""

    done: int
    failed: int
    total: int

    @property
    def missing(self) -> int:
        """Cells that are still to do."""
        return self.total - self.done - self.failed


OnProgress = Callable[[int, int], None]
"""Called with the cells that are done and the number of all."""


class Plan:
    """The cells of a run in their batches, and which of them are missing.

    Args:
        folder: Of the run.
        settings: Of the run.
        documents: Of the run.
        retry_failed: Whether failed cells count as missing.
        repair: Whether damaged shards are put aside, or an error.

    """

    def __init__(
        self,
        folder: RunFolder,
        settings: RunSettings,
        documents: Documents,
        *,
        retry_failed: bool = False,
        repair: bool = True,
    ) -> None:
        """Look at every shard."""
        self.settings = settings
        self.documents = documents
        self.retry_failed = retry_failed
        self.by_study = all_cells(settings, documents.rows, documents.adapters)
        self.cells = {cell.key: cell for cells in self.by_study.values() for cell in cells}
        found = {key: folder.record(cell, repair=repair) for key, cell in self.cells.items()}
        self.records = {key: record for key, record in found.items() if record is not None}
        self._retried = {
            key
            for key, record in self.records.items()
            if retry_failed and record["status"] == FAILED
        }
        self.batches = batches_of(list(self.cells.values()), settings.batch_size)

    def is_missing(self, cell: Cell) -> bool:
        """Tell whether a cell is still to do."""
        return cell.key not in self.records or cell.key in self._retried

    def missing_batches(self) -> list[int]:
        """Return the numbers of the batches in which something is missing."""
        return [
            number
            for number, batch in enumerate(self.batches)
            if any(self.is_missing(cell) for cell in batch)
        ]

    def count(self, cells: Iterable[Cell] | None = None) -> Count:
        """Count cells; all of the run by default."""
        keys = {cell.key for cell in cells} if cells is not None else set(self.cells)
        statuses = [self.records[key]["status"] for key in keys if key in self.records]
        return Count(statuses.count(DONE), statuses.count(FAILED), len(keys))


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
            from guide_ext.experiments.studies.ray_runner import run_on_ray

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


def read_plan(path: Path, *, retry_failed: bool = False) -> Plan:
    """Read a run as it is; nothing is run, and nothing repaired.

    Args:
        path: Its folder.
        retry_failed: Whether failed cells count as missing.

    Raises:
        ValueError: If the folder holds no run, or a damaged one.

    """
    folder = RunFolder(path)
    settings = folder.settings()
    try:
        documents = folder.documents()
    except FileNotFoundError:
        raise ValueError(
            f"run must have its documents in {ROWS}, got none in {str(path)!r}; run "
            "'guide-ext study run' again"
        ) from None
    return Plan(folder, settings, documents, retry_failed=retry_failed, repair=False)


def write_tables(path: Path) -> dict[str, Any]:
    """Make the tables of a run from its shards, and save them beside.

    Args:
        path: Folder of the run, finished or not.

    Returns:
        What ``tables.json`` holds.

    Raises:
        ValueError: If the folder holds no run, or a shard is damaged.
        OSError: If the tables cannot be written.

    """
    plan = read_plan(path)
    settings = plan.settings
    done = {key: record for key, record in plan.records.items() if record["status"] == DONE}
    results = tables.Results(settings, plan.by_study, done)
    made = []
    for study in studies_named(settings.studies):
        if results.cells(study):
            for make in _TABLES_OF[study.name]:
                made += make(results)
    result = {
        "kind": "guide_ext study tables",
        "format": 1,
        "model": settings.model,
        "world": "embedded" if settings.is_embedded else "documents",
        "settings": settings.to_json(),
        "progress": {name: vars(plan.count(cells)) for name, cells in plan.by_study.items()},
        "failures": _failures(plan),
        "tables": made,
        "samples": tables.samples(results) if "delta_limit" in plan.by_study else [],
    }
    text = json_text(result, indent=1)
    write_text(path / TABLES, text + "\n")
    write_text(path / TABLES_TEXT, _markdown(made))
    return result


def _failures(plan: Plan) -> list[dict[str, str]]:
    """List what failed, in the order of the plan."""
    found = []
    for study, cells in plan.by_study.items():
        for cell in cells:
            record = plan.records.get(cell.key)
            if record is not None and record["status"] == FAILED:
                found.append(
                    {
                        "study": study,
                        "row": cell.row.id,
                        "condition": cell.condition.name,
                        "error": record["error"],
                    }
                )
    found += [
        {"study": "", "row": document.id, "condition": "", "error": document.error}
        for document in plan.documents.bad
    ]
    return found


def _markdown(made: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for table in made:
        lines += [f"## {table['title']}", ""]
        lines.append(f"| {' | '.join(table['columns'])} |")
        lines.append("|" + "---|" * len(table["columns"]))
        for row in table["rows"]:
            cells = ("–" if value is None else str(value) for value in row)
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", table["note"], ""] if table["note"] else [""]
    return "\n".join(lines)
