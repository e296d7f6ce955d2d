# SPDX-License-Identifier: MIT
"""Make the rows of a task, of the data that a run names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from guide_ext.studies.cells import Row
from guide_ext.studies.data import python_docs
from guide_ext.studies.data.documents import PYTHON_DOCS, BadDocument, Document, read_documents
from guide_ext.studies.data.rows import document_rows, embedded_rows
from guide_ext.studies.data.task import Task
from guide_ext.studies.plan import RunSettings


def rows_of(
    task: Task, settings: RunSettings, tokenizer: Any, bad: list[BadDocument]
) -> tuple[list[Row], list[BadDocument]]:
    """Make the rows of a task.

    Args:
        task: What is asked.
        settings: Settings of the run.
        tokenizer: Tokenizer of the model.
        bad: What was left out for the tasks before.

    Returns:
        The rows; and what was left out: of data that are read, for this task.

    Raises:
        ValueError: If the data have no documents.
        OSError: If they cannot be read.

    """
    count = settings.documents_of(task)
    if settings.data is None:
        return embedded_rows(task, count, settings.seed, tokenizer=tokenizer), bad
    documents: Iterable[Document | BadDocument]
    if settings.data == PYTHON_DOCS:
        documents = python_docs.documents(
            settings.lengths, count, settings.seed, tokenizer=tokenizer
        )
    else:
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
            f"{settings.data!r}: {_in_words(bad)}"
        )
    return rows, bad


def _in_words(bad: Sequence[BadDocument]) -> str:
    if not bad:
        return "no row has one"
    return f"{len(bad)} rows without a text, the first of them {bad[0].id}: {bad[0].error}"
