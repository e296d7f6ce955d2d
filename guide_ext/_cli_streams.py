# SPDX-License-Identifier: MIT
"""The edges of the command line: standard streams that are closed, arguments that cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from typer.core import TyperGroup

from guide_ext._visible import for_terminal


class Commands(TyperGroup):
    """The commands; what is wrong with an option is told without obeying what it holds."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse what stands before a command."""
        with _tame_messages():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run."""
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


def open_what_is_closed() -> None:
    """Give standard streams that were closed (``>&-``) a place, or files that are opened take it.

    What is printed is lost then, as was asked; what is saved is not. Standard input stays None:
    `read_prompt` says that there is none.
    """
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
