# SPDX-License-Identifier: MIT
"""The progress of a run: its cells in batches, and which of them are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guide_ext.studies.cells import Cell
from guide_ext.studies.plan import RunSettings, all_cells, batches_of
from guide_ext.studies.run.folder import DONE, FAILED, ROWS, Documents, RunFolder


@dataclass(frozen=True)
class Count:
    """The progress of a study or a run, in cells."""

    done: int
    failed: int
    total: int

    @property
    def missing(self) -> int:
        """Number of cells that are still to do."""
        return self.total - self.done - self.failed


class Plan:
    """The cells of a run in their batches, and which of them are missing.

    Args:
        folder: Folder of the run.
        settings: Settings of the run.
        documents: Documents of the run.
        retry_failed: Whether failed cells count as missing.
        repair: Whether to rename damaged shards; else they are an error.

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
        """Return the numbers of the batches with missing cells."""
        return [
            number
            for number, batch in enumerate(self.batches)
            if any(self.is_missing(cell) for cell in batch)
        ]

    def count(self, cells: Iterable[Cell] | None = None) -> Count:
        """Count the cells of a study; without cells, those of the run."""
        keys = {cell.key for cell in cells} if cells is not None else set(self.cells)
        statuses = [self.records[key]["status"] for key in keys if key in self.records]
        return Count(statuses.count(DONE), statuses.count(FAILED), len(keys))


def read_plan(path: Path, *, retry_failed: bool = False) -> Plan:
    """Read a run as it is, and repair nothing.

    Args:
        path: Folder of the run.
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
