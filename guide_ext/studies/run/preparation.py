# SPDX-License-Identifier: MIT
"""The documents of a run: those that it has, and new ones for new tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guide_ext.studies.plan import RunSettings, tasks_of, training_study
from guide_ext.studies.run.adapters import Adapters
from guide_ext.studies.run.folder import ROWS, Documents, RunFolder
from guide_ext.studies.run.rows import rows_of
from guide_ext.studies.run.shards import CorruptShardError, set_aside


def documents_of_run(
    folder: RunFolder, settings: RunSettings, tokenizer: Any, note: Callable[[str], None]
) -> tuple[Documents, bool]:
    """Return the documents of a run, with those of new tasks, and whether some are new.

    Nothing is written. A damaged file is renamed, though.

    Args:
        folder: Folder of the run.
        settings: Settings of the run.
        tokenizer: Tokenizer of the model.
        note: Called with remarks for the user.

    Raises:
        ValueError: If the data have no documents, or none to fine-tune on for a study that does.
        OSError: If they cannot be read.

    """
    found = Documents()
    try:
        found = folder.documents()
    except FileNotFoundError:
        pass
    except CorruptShardError:
        note(f"damaged, so it is made again: {set_aside(folder.path / ROWS)}")
    new = [task for task in tasks_of(settings) if task.name not in found.tasks]
    for task in new:
        rows, found.bad = rows_of(task, settings, tokenizer, found.bad)
        found.rows += rows
        found.tasks.append(task.name)
    needs_adapters = training_study(settings) is not None and not found.adapters
    if needs_adapters:
        found.adapters = Adapters(settings, folder.path, found.rows, tokenizer).tokens()
    return found, bool(new or needs_adapters)
