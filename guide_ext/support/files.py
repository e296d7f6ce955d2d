# SPDX-License-Identifier: MIT
"""Write files whole or not at all; every file of this package is written here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

_SCRATCH = ".tmp"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write a text as UTF-8, whole or not at all.

    Args:
        path: See `write_bytes`.
        text: What to write.

    Raises:
        ValueError: If the text holds half of a surrogate pair, which UTF-8 cannot encode.
        OSError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "a.txt", "old")
        ...     try:
        ...         write_text(Path(folder) / "a.txt", "new \ud800")
        ...     except ValueError as error:
        ...         print(error)
        ...     (Path(folder) / "a.txt").read_text()
        text must be valid Unicode to be written to a.txt, got half of a
        surrogate pair at character 4
        'old'

    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode to be written to {Path(path).name}, got half of a "
            f"surrogate pair at character {error.start}"
        ) from None
    write_bytes(path, content)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under another name and rename it, so that a kill leaves the old one or the new.

    Args:
        path: Where to write; the folder must exist. An existing file is replaced, even a read-only
            one, as only the folder must be writable; the new file gets its mode. Through a link,
            the file that it points to is replaced. A pipe or a device is written to directly.
        content: What to write.

    Raises:
        OSError: If it cannot be written. Its ``filename`` is the path, and the old file is kept.

    """
    place = os.path.realpath(path)
    scratch = ""
    try:
        mode = _mode(place)
        if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            Path(place).write_bytes(content)
            return
        # With a random part, because processes of two machines or containers may have the same
        # number. Without the file's own name, which may be as long as names can be.
        name = f".guide_ext-{os.getpid()}-{secrets.token_hex(4)}{_SCRATCH}"
        scratch = os.path.join(os.path.dirname(place), name)
        # No fsync: a file that a power cut empties is small, and the same command makes it again.
        Path(scratch).write_bytes(content)
        if mode is not None and stat.S_ISREG(mode):
            os.chmod(scratch, stat.S_IMODE(mode))
        os.replace(scratch, place)
    except BaseException as error:
        if scratch:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        if isinstance(error, OSError):
            raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from None
        raise


def is_scratch(path: Path) -> bool:
    """Return whether a file is a half-written one that a killed process left behind."""
    return path.name.startswith(".") and path.name.endswith(_SCRATCH)


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    r"""Return JSON in which characters beyond ASCII are readable.

    Only halves of surrogate pairs, which UTF-8 cannot encode, stay escaped.

    Args:
        value: Plain data.
        indent: As for `json.dumps`.
        sort_keys: As for `json.dumps`.

    Raises:
        ValueError: If the data hold NaN or an infinity.
        TypeError: If they are not plain data.

    Example:
        >>> print(json_text({"é": "\ud800"}))
        {"é": "\ud800"}

    """
    text = json.dumps(
        value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _mode(place: str) -> int | None:
    try:
        return os.stat(place).st_mode
    except FileNotFoundError:
        return None
