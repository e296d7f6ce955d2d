# SPDX-License-Identifier: MIT
"""Read documents from a JSONL or Parquet file, or from a data set of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from guide_ext.support.extras import require

HUB = "hub:"
SUFFIXES = (".jsonl", ".parquet")
PYTHON_DOCS = "python-docs"
_LONGEST = 80  # of a wrong value in a message


@dataclass(frozen=True)
class Document:
    """A text with its reference summary.

    Attributes:
        id: File or data set, and line or row, from 1.
        text: The text.
        reference: The reference summary; empty if there is none.

    """

    id: str
    text: str
    reference: str = ""


@dataclass(frozen=True)
class BadDocument:
    """A line or row that cannot be used as a document.

    Attributes:
        id: File or data set, and line or row, from 1.
        error: What is wrong with it.

    """

    id: str
    error: str


def read_documents(
    source: str, *, text_column: str = "text", reference_column: str | None = None
) -> Iterator[Document | BadDocument]:
    """Read documents one by one, and go on after a bad row.

    Args:
        source: A ``.jsonl`` or ``.parquet`` file, or ``hub:NAME`` or ``hub:NAME:SPLIT``.
        text_column: Column of the texts.
        reference_column: Column of the reference summaries; None if there are none.

    Yields:
        Documents and bad rows, in the order of the source.

    Raises:
        ValueError: If the source is of no known kind.
        OSError: If it cannot be read.
        NotImplementedError: If a library that reads it is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "texts.jsonl"
        ...     _ = file.write_text('{"text": "The cat sleeps."}' + chr(10) + '{"txt": 1}')
        ...     good, bad = read_documents(str(file))
        >>> good.text, bad.error
        ('The cat sleeps.', "column 'text' must be there, got the columns: txt")

    """
    for name, record in _records(source):
        if isinstance(record, str):
            yield BadDocument(name, record)
            continue
        try:
            text = _column(record, text_column)
            reference = "" if reference_column is None else _column(record, reference_column)
        except ValueError as error:
            yield BadDocument(name, str(error))
        else:
            yield Document(name, text, reference)


def _column(record: dict[str, Any], column: str) -> str:
    if column not in record:
        raise ValueError(
            f"column {column!r} must be there, got the columns: {', '.join(record) or 'none'}"
        )
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        shown = repr(value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
        raise ValueError(f"column {column!r} must be text, got {shown}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"column {column!r} must be valid Unicode: {error}") from None
    return value


def _records(source: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield the name and columns of every row; in place of the columns, what is wrong with it."""
    if source.startswith(HUB):
        return _of_hub(source.removeprefix(HUB))
    if source == PYTHON_DOCS:
        raise ValueError(
            f"data must have rows to read, got {source!r}; python_docs.documents makes documents"
        )
    path = Path(source)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"data must be a .jsonl or .parquet file, hub:NAME or {PYTHON_DOCS}, got {source!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"data must be a file that exists, got {source!r}")
    # The first row now, so that a file that cannot be read fails before anything else is done.
    rows = _of_jsonl(path) if path.suffix == ".jsonl" else _of_parquet(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"data must have at least one row, got none in {source!r}")
    return chain([first], rows)


def _of_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name = f"{path.name}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield name, f"line must be JSON: {error}"
                continue
            if isinstance(value, dict):
                yield name, value
            else:
                yield name, f"line must be a JSON object, got {type(value).__name__}"


def _of_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    parquet = require("pyarrow.parquet", "to read Parquet")
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise ValueError(f"data must be a Parquet file, got {str(path)!r}: {error}") from None
    number = 0
    for batch in file.iter_batches(batch_size=256):
        for value in batch.to_pylist():
            number += 1
            yield f"{path.name}:{number}", value


def _of_hub(name: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    datasets = require("datasets", "to load a data set of the hub")
    dataset, _, split = name.partition(":")
    if not dataset:
        raise ValueError("data must name a data set after 'hub:', got none")
    try:
        rows = datasets.load_dataset(dataset, split=split or "train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"data must be a data set that can be loaded, got {name!r}: {error}"
        ) from None
    for number, value in enumerate(rows, 1):
        yield f"{dataset}:{number}", dict(value)
