# SPDX-License-Identifier: MIT
"""Progress of a command on standard error: bars on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from guide_ext.report.console import console, say, shown

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_OF_SILENCE = 60.0  # after this time without a line, one says that the work goes on

Advance = Callable[..., None]
"""Called with the number of things done and, if it is known, the total."""


@dataclass
class _Step:
    """The current step of the work. Without `first`, nothing is counted in it.

    Attributes:
        name: What is being done.
        began: Time of its beginning, seconds.
        at_most: Whether it may end before its total.
        first: The first count.
        done: The last count.
        total: The expected count, if it is known.

    """

    name: str
    began: float
    at_most: bool = False
    first: int | None = None
    done: int = 0
    total: int | None = None

    def line(self, now: float) -> str:
        if self.first is None:
            return f"{self.name}, for {_clock_time(now - self.began)}"
        of = "" if self.total is None else f" of {'at most ' * self.at_most}{self.total}"
        parts = [f"{self.name}: {self.done}{of}"]
        seconds, made = now - self.began, self.done - self.first
        if made > 0 and seconds > 0:
            rate = made / seconds
            parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self.total is not None and self.done < self.total:
                parts.append(f"{_clock_time((self.total - self.done) / rate)} left")
        elif seconds >= 1:
            parts.append(f"for {_clock_time(seconds)}")
        return ", ".join(parts)


class Lines:
    """Progress as plain lines: the first at once, the last, and one every few seconds in between.

    Args:
        write: Writes a line.
        clock: Returns the time in seconds.

    Example:
        >>> now = iter([0.0, 0.0, 2.0, 8.0, 10.0])
        >>> lines = Lines(print, clock=lambda: next(now))
        >>> advance = lines.counted("cells")
        >>> for done in (10, 20, 50, 60):
        ...     advance(done, 60)
        cells: 10 of 60
        cells: 50 of 60, 5/s, 0:02 left
        cells: 60 of 60, 5/s

    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._last = clock()
        self._now_doing: _Step | None = None
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Write a remark."""
        with self._lock:
            self._write(text)

    def begin(self, name: str) -> None:
        """Begin a step in which nothing can be counted, and write its name."""
        now = self._clock()
        with self._lock:
            self._now_doing, self._last = _Step(name, now), now
            self._write(name)

    def counted(self, name: str, *, at_most: bool = False) -> Advance:
        """Begin a step in which something is counted, and return the function that takes counts.

        Args:
            name: What is counted.
            at_most: Whether the step may end before its total.

        """
        step = _Step(name, 0.0, at_most)

        def advance(done: int, total: int | None = None) -> None:
            now = self._clock()
            with self._lock:
                is_new = step.first is None
                if step.first is None:
                    step.began, step.first = now, done
                ends = done == total and (is_new or step.done != done)
                step.done, step.total = done, total
                self._now_doing = step
                if is_new or ends or now - self._last >= _SECONDS_BETWEEN_LINES:
                    self._last = now
                    self._write(step.line(now))

        return advance

    def still_there(self) -> None:
        """Write a line if there has been none for a long time."""
        now = self._clock()
        with self._lock:
            if self._now_doing is not None and now - self._last >= _SECONDS_OF_SILENCE:
                self._last = now
                self._write(self._now_doing.line(now))


class Bars:
    """Progress as bars that go away when the work is done.

    Args:
        bars: A display that is running.

    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._uncounted: TaskID | None = None

    def note(self, text: str) -> None:
        """Write a remark above the bars."""
        self._bars.console.print(shown(text), soft_wrap=True)

    def begin(self, name: str) -> None:
        """Begin a step in which nothing can be counted, and show a bar with its name."""
        self._end_uncounted()
        self._uncounted = self._bars.add_task(name, total=None, counts=False)

    def counted(self, name: str, *, at_most: bool = False) -> Advance:
        """Begin a step in which something is counted, and return the function that takes counts.

        Args:
            name: What is counted; its bar appears with the first count.
            at_most: Whether the step may end before its total.

        """
        task: TaskID | None = None

        def advance(done: int, total: int | None = None) -> None:
            nonlocal task
            if task is None:
                self._end_uncounted()
                task = self._bars.add_task(name, total=total, at_most=at_most)
            self._bars.update(task, completed=done, total=total)

        return advance

    def _end_uncounted(self) -> None:
        if self._uncounted is not None:
            self._bars.remove_task(self._uncounted)
            self._uncounted = None


class _Count(ProgressColumn):
    """A column with the count, the total and the speed."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        if not task.fields.get("counts", True):
            return Text()
        count = f"{task.completed:.0f}"
        if task.total is not None:
            count += f"/{'≤' * bool(task.fields.get('at_most'))}{task.total:.0f}"
        speed = "" if task.speed is None else f" {task.speed:.1f}/s"
        return Text(count + speed, style="progress.download")


def on_terminal() -> bool:
    """Return whether bars can be drawn on standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress() -> Iterator[Lines | Bars]:
    """Show the progress of the work in a ``with`` block.

    It goes to standard error, so that standard output holds only the result. If standard error
    fails, for example because its reader is gone, lines are lost and the work goes on.
    """
    if on_terminal():
        columns = (TextColumn("{task.description}"), BarColumn(), _Count(), TimeElapsedColumn())
        with Progress(
            *columns, TimeRemainingColumn(), console=console(err=True), transient=True
        ) as bars:
            yield Bars(bars)
        return
    lines = Lines(_write)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_OF_SILENCE / 4):
            lines.still_there()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lines
    finally:
        ended.set()
        watcher.join()


def _write(line: str) -> None:
    try:
        say(line, err=True)
    except (OSError, ValueError):  # its reader is gone, or it is closed
        return


def _clock_time(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    Example:
        >>> _clock_time(3725.2)
        '1:02:05'

    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
