# SPDX-License-Identifier: MIT
"""Run what is missing of a run, here or on Ray, and make its tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guide_ext.experiments.studies import tables, tables_measured
from guide_ext.experiments.studies.adapters import Adapters
from guide_ext.experiments.studies.documents import BadDocument, read_documents
from guide_ext.experiments.studies.engine import Engine, TransformersEngine, load_tokenizer
from guide_ext.experiments.studies.extras import require_all
from guide_ext.experiments.studies.folder import DONE, FAILED, ROWS, Documents, RunFolder
from guide_ext.experiments.studies.plan import (
    SFT,
    RunSettings,
    all_cells,
    batches_of,
    tasks_of,
)
from guide_ext.experiments.studies.prompts import document_rows, embedded_rows
from guide_ext.experiments.studies.sft import Step
from guide_ext.experiments.studies.shards import CorruptShardError, set_aside, write_text
from guide_ext.experiments.studies.study import Cell, Row, studies_named

TABLES, TABLES_TEXT = "tables.json", "tables.md"
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
    note = on_note or (lambda text: None)
    bertscore = ["bertscore"] if settings.bertscore is not None else []
    require_all([*tasks_of(settings), *settings.studies, *bertscore])
    folder = RunFolder(path)
    settings = folder.begin(settings)
    tokenizer = load_tokenizer(settings)
    documents = _documents(folder, settings, tokenizer, note)
    for document in documents.bad:
        note(f"left out: {document.id}: {document.error}")
    plan = Plan(folder, settings, documents, retry_failed=retry_failed)
    for damaged in folder.set_aside:
        note(f"damaged, so its work is done again: {damaged}")
    numbers = plan.missing_batches()
    before, total = sum(not plan.is_missing(cell) for cell in plan.cells.values()), len(plan.cells)
    if on_progress is not None:
        on_progress(before, total)
    if any(cell.adapter is not None for number in numbers for cell in plan.batches[number]):
        Adapters(settings, path, documents.rows, tokenizer).train(
            device=device, on_step=on_training
        )
    done = before
    if ray_workers is not None and engine is None:
        from guide_ext.experiments.studies.ray_runner import run_on_ray

        finished = run_on_ray(plan, numbers, path, workers=ray_workers, device=device)
    else:
        finished = _run_here(
            plan, numbers, folder, engine or TransformersEngine(settings, path, device=device)
        )
    for count in finished:
        done += count
        if on_progress is not None:
            on_progress(done, total)
    return write_tables(path)


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
    had in one go. Where the engine refuses it, each cell is tried alone, and those at fault are
    recorded as failed.

    Raises:
        OSError: If a shard cannot be written.

    """
    try:
        results: list[tuple[str, dict[str, Any]]] = [(DONE, r) for r in engine.run(batch)]
    except ValueError:
        results = [_alone(cell, engine) for cell in batch]
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"batch_size must be smaller for this device, got {len(batch)}, which does not fit "
            f"into its memory: {error}"
        ) from None
    saved = 0
    for cell, (status, result) in zip(batch, results, strict=True):
        if is_missing(cell):
            folder.save(cell, status, result)
            saved += 1
    return saved


def _alone(cell: Cell, engine: Engine) -> tuple[str, dict[str, Any]]:
    try:
        return DONE, engine.run([cell])[0]
    except ValueError as error:
        return FAILED, {"error": str(error)}


def read_plan(path: Path, *, repair: bool = False) -> Plan:
    """Read a run as it is; nothing is run.

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
    return Plan(folder, settings, documents, repair=repair)


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
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path / TABLES, text + "\n")
    write_text(path / TABLES_TEXT, _markdown(made))
    return result


def _documents(
    folder: RunFolder, settings: RunSettings, tokenizer: Any, note: Callable[[str], None]
) -> Documents:
    """Return the documents of a run; those of tasks that are new to it are made."""
    found = Documents()
    try:
        found = folder.documents()
    except FileNotFoundError:
        pass
    except CorruptShardError:
        note(f"damaged, so it is made again: {set_aside(folder.path / ROWS)}")
    new = [task for task in tasks_of(settings) if task not in found.tasks]
    for task in new:
        rows, found.bad = _rows_of(task, settings, tokenizer, found.bad)
        found.rows += rows
        found.tasks.append(task)
    needs_adapters = SFT in settings.studies and not found.adapters
    if needs_adapters:
        found.adapters = Adapters(settings, folder.path, found.rows, tokenizer).tokens()
    if new or needs_adapters:
        folder.save_documents(found)
    return found


def _rows_of(
    task: str, settings: RunSettings, tokenizer: Any, bad: list[BadDocument]
) -> tuple[list[Row], list[BadDocument]]:
    count = settings.documents_of(task)
    if settings.data is None:
        return embedded_rows(task, count, settings.seed, tokenizer=tokenizer), bad
    documents = read_documents(
        settings.data,
        text_column=settings.text_column,
        reference_column=settings.reference_column,
    )
    rows, bad = document_rows(
        task, documents, count, settings.seed, lengths=settings.lengths, tokenizer=tokenizer
    )
    if not rows:
        raise ValueError(
            f"data must have texts of up to {settings.lengths[-1][1]} tokens, got none in "
            f"{settings.data!r}: {len(bad)} bad rows"
        )
    return rows, bad


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
