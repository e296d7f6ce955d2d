# SPDX-License-Identifier: MIT
"""Closed standard streams, and messages of libraries that quote text from elsewhere."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from typer.core import TyperGroup

from guide_ext.report.console import say
from guide_ext.support.visible import for_terminal

_BOLD = re.compile("\x1b\\[[0-9;]*m")


class Commands(TyperGroup):
    """The commands; error messages about options make control characters visible."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse the options before a command."""
        with _tame_messages():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command."""
        with _tame_messages():
            return super().invoke(ctx)


@contextmanager
def _tame_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own errors about options
            message = for_terminal(str(getattr(error, "message", "")))
            error.message = message  # type: ignore[attr-defined]
        raise


def is_one_place(first: IO[str], second: IO[str]) -> bool:
    """Return whether two streams go to the same terminal, pipe or file.

    Example:
        >>> with open(os.devnull) as one, open(os.devnull) as two, open(__file__) as other:
        ...     is_one_place(one, two), is_one_place(one, other)
        (True, False)

    """
    try:
        return os.path.sameopenfile(first.fileno(), second.fileno())
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


def tame_libraries() -> None:
    """Make control characters visible in the logs and warnings of every library.

    transformers quotes the configurations of checkpoints, and writes some words in bold.
    """
    make_record, make_text = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **options: Any) -> logging.LogRecord:
        made = make_record(*args, **options)
        with suppress(TypeError, ValueError):  # wrong arguments: logging reports them later
            made.msg, made.args = for_terminal(_BOLD.sub("", made.getMessage())), None
        return made

    logging.setLogRecordFactory(record)
    warnings.formatwarning = lambda *args, **options: for_terminal(make_text(*args, **options))


def told(error: Exception) -> str:
    """Return the message of an error; for an OSError the file and the reason, without the errno.

    Example:
        >>> told(PermissionError(13, "Permission denied", "a.txt")), told(ValueError("no prompt"))
        ("'a.txt': Permission denied", 'no prompt')

    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def open_what_is_closed() -> None:
    """Connect standard streams that are closed (``>&-``) to the null device.

    Otherwise the next files that are opened would get the numbers of these streams. What is printed
    is lost, and a note on standard error says so; what is saved is not lost. ``sys.stdin`` stays
    None, and `read_prompt` reports that.
    """
    is_shown = sys.stdout is not None
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is not None:
            continue
        with suppress(OSError):
            os.fstat(descriptor)
            continue  # taken by something else
        while (taken := os.open(os.devnull, os.O_RDWR)) < descriptor:
            pass
        if taken != descriptor:
            os.close(taken)
        if descriptor:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if not is_shown:
        say("note: standard output is closed: nothing is shown", err=True)
