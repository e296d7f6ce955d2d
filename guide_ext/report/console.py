# SPDX-License-Identifier: MIT
"""Where the command line writes: consoles that show any text they are given, and obey none.

Prompts, answers, file names and messages of errors come from others and may hold the control
characters of a terminal. They are made visible in all that people read here, whether it goes to a
terminal or to a file that is shown on one later. Data (``--json``, a streamed answer that does not
go to a terminal) does not come through here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from guide_ext.support.visible import for_terminal


class _Console(Console):
    """A console whose own sequences (colours, cursor) are the only ones that leave it."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, and make visible what a cell let through."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(for_terminal(text), style)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller: rich would end the program and close standard output."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, err: bool = False) -> Console:
    """Return a console on standard output, or on standard error."""
    return _Console(stderr=err)


def shown(text: object, style: str = "") -> Text:
    r"""Return text of others as a cell of a table: never markup, nothing that a terminal obeys.

    A console would make it harmless, too, but after it has measured the columns.

    Example:
        >>> shown("[b]\x1b[2J").plain
        '[b]␛[2J'

    """
    return Text(for_terminal(str(text)), style=style)


def say(line: str, *, err: bool = False) -> None:
    """Print one line as it is, however long, to standard output or standard error."""
    console(err=err).print(shown(line), soft_wrap=True, highlight=False)


def print_error(message: str) -> None:
    """Print one clean error line (or several, for a message with an excerpt) to standard error."""
    line = Text("error: ", style="bold red").append(for_terminal(message), style="not bold default")
    console(err=True).print(line, soft_wrap=True, highlight=False)
