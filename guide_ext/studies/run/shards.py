# SPDX-License-Identifier: MIT
"""Small files of plain data that are either whole or not there.

A shard is written beside its place and then renamed: a process that is killed leaves the old file
or the new one. It carries a hash of its content, so damage by a crash, a full disk or an editor is
noticed, and the file is not used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from guide_ext.support import files

_SHORT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


class CorruptShardError(ValueError):
    """A file does not hold what was written into it."""


def write_shard(path: Path, record: dict[str, Any]) -> None:
    """Write a record to a file, whole or not at all.

    Args:
        path: The file; its folder is made if there is none.
        record: Plain data.

    Raises:
        OSError: If the file cannot be written; the message says that earlier files are safe.

    """
    content = _canonical(record)
    text = f'{{"sha256": "{_hash(content)}", "record": {content}}}\n'
    save_text(path, text)


def read_shard(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        CorruptShardError: If the file is not what `write_shard` wrote.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shard(Path(folder) / "a.json", {"delta": 2.0})
        ...     read_shard(Path(folder) / "a.json")
        {'delta': 2.0}

    """
    try:
        value = json.loads(path.read_bytes())
        record = value["record"]
        is_whole = value["sha256"] == _hash(_canonical(record))
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CorruptShardError(f"{path} must hold a record as it was written, got other content")
    return dict(record)


def save_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: If the file cannot be written; the message says that earlier files are safe.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file that a power cut emptied is noticed by its hash and written again.
        files.write_text(path, text)
    except OSError as error:
        advice = "free some space" if error.errno in _SHORT_OF_SPACE else "make it writable"
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno or 0)}; {advice} and run the same command again: what was "
            "saved before is kept",
            str(path),
        ) from None


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and return its new path."""
    aside = path.with_name(f"{path.name}.corrupt")
    os.replace(path, aside)
    return aside


def _canonical(record: dict[str, Any]) -> str:
    return files.json_text(record, sort_keys=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
