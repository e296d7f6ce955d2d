# SPDX-License-Identifier: MIT
"""Tables that lose nothing on a narrow terminal: there, each cell gets a line of its own."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# A column of prose (overflow="fold") may break a word that is longer than this; no number is.
_BREAKABLE = 16


class Fitting:
    """Shows a table; or its cells as lines, if columns would have to cut words or numbers.

    Args:
        table: A table with cells of text. Columns of prose have ``overflow="fold"``. In a table
            without a header, the first cell of a row names the others.

    Example:
        >>> table = Table("Δ (nats)", "95 % interval", "right")
        >>> table.add_row("2", "90.1% – 99.9%", "97.5%")
        >>> Console(width=20).print(Fitting(table))
        Δ (nats): 2
        95 % interval: 90.1%
        – 99.9%
        right: 97.5%

    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._may_break = [column.overflow == "fold" for column in table.columns]
        for column in table.columns:
            column.overflow = "fold"  # what is longer than a whole line is folded, not cut off
        # A table wraps its title to its own width, and breaks words for that.
        self._title, table.title = table.title, None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the table, or its lines."""
        if self._title is not None:
            yield _as_text(console, self._title, "italic")
        widths = self._widths(console, options)
        if widths is None:
            yield from self._lines(console)
            return
        for column, width in zip(self._table.columns, widths, strict=True):
            column.width = width
        yield self._table

    def _widths(self, console: Console, options: ConsoleOptions) -> list[int] | None:
        """Return the width of each column, or None if the words of some column do not fit.

        rich itself would shrink the widest column first, even below the length of its words.
        """
        columns = self._table.columns
        for column in columns:
            column.width = None
        unbounded = options.update(max_width=1 << 20)
        least, most = [], []
        for column, may_break in zip(columns, self._may_break, strict=True):
            cells = [*column.cells, *([column.header] if self._table.show_header else [])]
            sizes = [Measurement.get(console, unbounded, cell) for cell in cells]
            longest_word = max((size.minimum for size in sizes), default=1)
            most.append(max((size.maximum for size in sizes), default=1))
            least.append(min(longest_word, _BREAKABLE) if may_break else longest_word)
            column.width = most[-1]
        frame = Measurement.get(console, unbounded, self._table).minimum - sum(most)
        room = options.max_width - frame
        if sum(least) > room:
            return None
        if self._table.expand:
            most = [room] * len(columns)
        # Widen the narrowest column first, so that each gets what it needs or an equal share.
        widths = list(least)
        spare = room - sum(widths)
        while spare and (short := [i for i, width in enumerate(widths) if width < most[i]]):
            widths[min(short, key=widths.__getitem__)] += 1
            spare -= 1
        return widths

    def _lines(self, console: Console) -> Iterator[RenderableType]:
        """Yield a line for every cell, with an empty line between rows."""
        columns = self._table.columns
        rows = zip(*(list(column.cells) for column in columns), strict=True)
        for index, row in enumerate(rows):
            cells = [_as_text(console, cell) for cell in row]
            if not self._table.show_header:
                name, *values = cells
                yield _named(name.plain, Text(" ").join(values))
                continue
            if index:
                yield Text()
            for column, cell in zip(columns, cells, strict=True):
                if cell.plain:
                    yield _named(_as_text(console, column.header).plain, cell)


def _named(name: str, value: Text) -> Text:
    line = Text(name, style="bold").append(": ")
    line = Text().append_text(line).append_text(value)
    line.overflow = "fold"
    return line


def _as_text(console: Console, cell: object, style: str = "") -> Text:
    """Return a cell as text; rich's markup in a plain string counts, as it does in a table."""
    text = cell if isinstance(cell, Text) else console.render_str(str(cell))
    return Text().append_text(text) if not style else Text(style=style).append_text(text)
