# SPDX-License-Identifier: MIT
"""One thread that generates, and the queue in front of it.

What waits at the same time runs as one batch. A model is used by this thread alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from guide_ext.integration.answer_rows import (
    Ended,
    Row,
    can_be_compiled,
    generate,
    padding_is_free,
)
from guide_ext.integration.compiled import CompiledSteps
from guide_ext.integration.inputs import encode
from guide_ext.integration.kept import KeptTexts
from guide_ext.serve.errors import ApiError
from guide_ext.serve.prompts import Prepared, Prompts
from guide_ext.serve.settings import Settings

T = TypeVar("T")


class Watch(Protocol):
    """What wants to know how the engine fares."""

    def waiting(self, jobs: int) -> None:
        """Take the number of requests that wait."""

    def batch(self, rows: int) -> None:
        """Take the number of answers that begin together."""

    def reused(self, tokens: int) -> None:
        """Take the number of tokens of a prompt that need not be computed again."""


@dataclass(eq=False)
class _Job:
    """What one request wants: answers, or some work that must be alone with the model."""

    rows: Sequence[Row] = ()
    work: Callable[[], None] | None = None
    refused: Callable[[Exception], None] | None = None
    left: Callable[[], bool] | None = None

    def is_gone(self) -> bool:
        """Return whether nobody waits for it any more."""
        if self.left is not None:
            return self.left()
        return all(row.gone.is_set() for row in self.rows)

    def fail(self, error: Exception) -> None:
        """Tell all that wait for it that it will not be done."""
        for row in self.rows:
            row.end(error)
        if self.refused is not None:
            self.refused(error)


class Engine:
    """Answers requests, several at a time.

    Args:
        prompts: The model and its tokenizer.
        settings: The limits.
        watch: Told how long the queue is and how large the batches are.

    Attributes:
        positions: How many positions the model knows; None if it does not say.
        compiled: What runs single answers compiled; None if nothing does.

    Raises:
        ValueError: If the model is to be compiled and cannot be.

    """

    def __init__(self, prompts: Prompts, settings: Settings, watch: Watch | None = None) -> None:
        self._prompts, self._settings, self._watch = prompts, settings, watch
        self._jobs: deque[_Job] = deque()
        self._kept = KeptTexts(prompts.model, settings.cached_tokens)
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="guide-engine", daemon=True)
        config = prompts.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        self.positions = positions if isinstance(positions, int) and positions > 0 else None
        self.compiled: CompiledSteps | None = None
        if settings.compile:
            slots = min(settings.compile, self.positions or settings.compile)
            self.compiled = CompiledSteps(prompts.model, slots)
        self._most_slots = None if padding_is_free(prompts.model) else self.positions

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._jobs)

    def is_alive(self) -> bool:
        """Return whether requests are answered."""
        return self._thread.is_alive() and not self._is_closing

    def room(self, prompt: Prepared, wanted: int | None) -> int:
        """Return how many tokens an answer may have.

        Raises:
            ApiError: If more are wanted than the server gives, or the prompt leaves none.

        """
        most = self._settings.max_tokens
        if wanted is not None and wanted > most:
            raise ApiError(
                400, f"max_tokens must be at most {most} on this server, got {wanted}", "max_tokens"
            )
        wanted = most if wanted is None else wanted
        if self.positions is None:
            return wanted
        if prompt.tokens >= self.positions:
            raise ApiError(
                400, f"a prompt must have fewer tokens than the {self.positions} positions that "
                f"the model knows, got {prompt.tokens}; shorten it", code="context_length_exceeded",
            )  # fmt: skip
        return min(wanted, self.positions - prompt.tokens)

    def submit(self, rows: Sequence[Row]) -> None:
        """Let answers of one request be generated, in one batch if they fit into one.

        Raises:
            ApiError: If too many requests wait, or the server stops.

        """
        parts: list[list[Row]] = []
        for row in rows:
            if parts and self._fit([*parts[-1], row]):
                parts[-1].append(row)
            else:
                parts.append([row])
        self._add([_Job(part) for part in parts])

    def alone(self, work: Callable[[], T]) -> Future[T]:
        """Let something be done that uses the model.

        Returns:
            Its result, in the future. A cancelled future is not begun.

        Raises:
            ApiError: If too many requests wait, or the server stops.

        """
        result: Future[T] = Future()

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                found = work()
            except Exception as error:
                result.set_exception(error)
            else:
                result.set_result(found)

        def fail(error: Exception) -> None:
            # It may be running, when something ends the thread in the middle of it.
            if not result.done() and (result.running() or result.set_running_or_notify_cancel()):
                result.set_exception(error)

        self._add([_Job(work=run, refused=fail, left=result.cancelled)])
        return result

    def compile(self, prompt: Prepared) -> None:
        """Compile for single answers, if it is to be done; only for `alone`."""
        if self.compiled is not None:
            model, tokenizer = self._prompts.model, self._prompts.tokenizer
            self.compiled.warm_up(encode(model, tokenizer, [prompt.encoding], delta=prompt.delta))

    def close(self, seconds: float | None = None) -> None:
        """Refuse what waits, and wait for what has begun."""
        with self._changed:
            self._is_closing = True
            left = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in left:
            job.fail(ApiError(503, "the server stops; ask again later"))
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _add(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            if self._is_closing or not self._thread.is_alive():
                raise ApiError(503, "the server stops; ask again later")
            gone = [job for job in self._jobs if job.is_gone()]
            for job in gone:
                self._jobs.remove(job)
                for row in job.rows:
                    row.end(Ended("gone", 0))
            if self._jobs and len(self._jobs) + len(jobs) > self._settings.queue:
                raise ApiError(
                    429, f"{len(self._jobs)} requests wait already, which is the most here; ask "
                    "again later",
                )  # fmt: skip
            self._jobs += jobs
            self._tell_waiting()
            self._changed.notify_all()

    def _tell_waiting(self) -> None:
        if self._watch is not None:
            self._watch.waiting(len(self._jobs))

    def _run(self) -> None:
        taken: list[_Job] = []
        try:
            self._serve(taken)
        except BaseException:
            # Not an error of a request; whoever waits must not wait for ever.
            with self._changed:
                self._is_closing = True
                left = [*taken, *self._jobs]
                self._jobs.clear()
            for job in left:
                with suppress(Exception):  # the others are told all the same
                    job.fail(ApiError(503, "the server stops; ask again later"))
            raise

    def _serve(self, taken: list[_Job]) -> None:
        """Work until the end; `taken` holds what is being worked on."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing)
                if not self._jobs:
                    return
                taken[:] = self._taken()
                self._tell_waiting()
            self._answer(taken)

    def _taken(self) -> list[_Job]:
        """Take the oldest request from the queue, and all that can run with it."""
        first = self._jobs.popleft()
        taken = [first]
        if first.work is not None:
            return taken
        rows = list(first.rows)
        for job in list(self._jobs):
            if job.work is None and self._fit([*rows, *job.rows]):
                self._jobs.remove(job)
                taken.append(job)
                rows += job.rows
        return taken

    def _fit(self, rows: Sequence[Row]) -> bool:
        """Return whether answers can be one batch, in which all are padded to the longest."""
        length = max(row.tokens for row in rows) + max(row.most for row in rows)
        return (
            len(rows) <= self._settings.batch
            and len(rows) * length <= self._settings.batch_tokens
            and (self._most_slots is None or length <= self._most_slots)
            and len({row.min_share for row in rows}) == 1
        )

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Do the work of some jobs; whatever goes wrong, the thread goes on."""
        if jobs[0].work is not None:
            jobs[0].work()
            return
        rows = []
        for row in (row for job in jobs for row in job.rows):
            if row.gone.is_set():
                row.end(Ended("gone", 0))
            else:
                rows.append(row)
        if not rows:
            return
        if self._watch is not None:
            self._watch.batch(len(rows))
        try:
            self._generate(rows)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            # One request may be to blame, and its words are for its own client.
            for job in jobs:
                if any(row.has_begun for row in job.rows):
                    job.fail(RuntimeError("another request of the batch failed"))
                else:
                    self._answer([job])

    def _generate(self, rows: Sequence[Row]) -> None:
        model, tokenizer = self._prompts.model, self._prompts.tokenizer
        # Several rows begin in different slots, and a share acts on every token.
        row = rows[0]
        begun = None
        steps = self.compiled
        if len(rows) == 1 and steps is not None and can_be_compiled(steps, row):
            generate(model, tokenizer, rows, steps=steps)
            return
        if len(rows) == 1 and row.min_share is None:
            begun = self._kept.begin(row.encoding, row.steering)
        if begun is None:
            generate(model, tokenizer, rows)
            return
        if self._watch is not None:
            self._watch.reused(len(begun.ids))
        ids = generate(model, tokenizer, rows, begun.cache)
        self._kept.keep(begun, ids[0], row.steering.bias(row.encoding).tolist())


def warm_up(engine: Engine, prompt: Prepared) -> None:
    """Compile and generate a token: the first request must not wait for what is made once.

    Raises:
        Exception: Whatever keeps the model from answering.

    """
    engine.alone(lambda: engine.compile(prompt)).result()
    done: Future[Ended] = Future()

    def end(how: Ended | Exception) -> None:
        if done.done():
            return
        if isinstance(how, Exception):
            done.set_exception(how)
        else:
            done.set_result(how)

    engine.submit(
        [
            Row(
                prompt.encoding, prompt.steering, 1, 0.0, 1.0, 0, (), None,
                push=lambda piece, details: None, end=end,
            )
        ]
    )  # fmt: skip
    done.result()
