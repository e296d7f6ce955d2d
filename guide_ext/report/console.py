# SPDX-License-Identifier: MIT
"""Print for people: consoles that make control characters visible instead of obeying them.

Prompts, answers, file names and error messages come from others and may hold control characters
that a terminal acts on. Everything that people read is printed here, whether it goes to a terminal
or to a file that a terminal shows later. Data (``--json``, a streamed answer that does not go to a
terminal) is not.
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
    """A console that writes its own control sequences (colours, cursor) and no others."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, and make the control characters in every segment of text visible."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(for_terminal(text), style)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; rich would close standard output and end the program."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, err: bool = False) -> Console:
    """Return a console on standard output, or on standard error."""
    return _Console(stderr=err)


def shown(text: object, style: str = "") -> Text:
    r"""Return text from others as a table cell: never markup, with control characters visible.

    A console makes them visible, too, but only after it has measured the columns.

    Example:
        >>> shown("[b]\x1b[2J").plain
        '[b]␛[2J'

    """
    return Text(for_terminal(str(text)), style=style)


def say(line: str, *, err: bool = False) -> None:
    """Print one line, unwrapped and without highlighting, to standard output or standard error."""
    console(err=err).print(shown(line), soft_wrap=True, highlight=False)


def print_error(message: str) -> None:
    """Print ``error:`` and a message to standard error."""
    line = Text("error: ", style="bold red").append(for_terminal(message), style="not bold default")
    console(err=True).print(line, soft_wrap=True, highlight=False)
