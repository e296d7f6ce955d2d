# SPDX-License-Identifier: MIT
"""From a request to its rows, and from their events to an answer, whole or in a stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from guide_ext.integration.answer_rows import Ended, Likely, Row
from guide_ext.integration.decoding import PromptSeeds
from guide_ext.serve.engine import Engine
from guide_ext.serve.errors import ApiError, of_exception
from guide_ext.serve.metrics import Metrics
from guide_ext.serve.prompts import Prepared
from guide_ext.serve.schemas import ChatRequest, CompletionRequest
from guide_ext.serve.wire import DONE, Answer, ChatWire, TextWire, event, usage

_LOOKS_EVERY = 0.01  # seconds between two looks for pieces of a stream
_MOST_ANSWERS = 32  # of one request
_LEAVES_EVERY = 0.2  # seconds between two looks at whether a client is still there


@dataclass(frozen=True)
class _Piece:
    index: int
    text: str
    likely: list[Likely]


@dataclass(frozen=True)
class _End:
    index: int
    how: Ended | Exception


class Inbox:
    """Brings events from the thread that generates to the one that answers clients.

    To wake that thread takes the other one as long as a small part of a step, and while one runs
    Python the other waits. So only the first piece of a stream and every end wake it; it looks for
    other pieces by itself, and takes what has come of an answer as one piece.

    Args:
        is_streamed: Whether pieces are wanted before the end.

    """

    def __init__(self, *, is_streamed: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_streamed, self._has_begun = is_streamed, False
        self._events: deque[_Piece | _End] = deque()  # its methods are safe in threads
        self._is_woken = False
        self._waits: asyncio.Future[None] | None = None

    def put(self, one: _Piece | _End) -> None:
        """Take an event, in any thread."""
        self._events.append(one)
        is_first, self._has_begun = not self._has_begun, True
        if isinstance(one, _End) or (is_first and self._is_streamed):
            # RuntimeError: the server has stopped meanwhile, and nobody listens.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self, *, is_called: bool = True) -> None:
        self._is_woken = is_called
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    async def take(self) -> list[_Piece | _End]:
        """Return the events that have come, joined; there may be none yet."""
        if not self._is_woken:
            # Cheaper than asyncio.wait_for, which makes a task.
            self._waits = self._loop.create_future()
            look = None
            if self._is_streamed and self._has_begun:
                look = self._loop.call_later(_LOOKS_EVERY, partial(self._wake, is_called=False))
            try:
                await self._waits
            finally:
                if look is not None:
                    look.cancel()
        self._is_woken = False
        return _joined([self._events.popleft() for _ in range(len(self._events))])


def _joined(events: Sequence[_Piece | _End]) -> list[_Piece | _End]:
    """Return events with the pieces of each answer in one; ends keep their place behind them.

    Example:
        >>> events = [_Piece(0, "a", []), _Piece(1, "x", []), _Piece(0, "b", [])]
        >>> [(piece.index, piece.text) for piece in _joined(events)]
        [(0, 'ab'), (1, 'x')]

    """
    texts: dict[int, list[str]] = {}
    likely: dict[int, list[Likely]] = {}
    ends: list[_End] = []
    for one in events:
        if isinstance(one, _End):
            ends.append(one)
        else:
            texts.setdefault(one.index, []).append(one.text)
            likely.setdefault(one.index, []).extend(one.likely)
    pieces = [_Piece(index, "".join(found), likely[index]) for index, found in texts.items()]
    return [*pieces, *ends]


class Answering:
    """Answers one request.

    Args:
        body: What was asked for.
        prompts: Its prompts.
        engine: Generates.
        metrics: Counts tokens.
        wire: Makes the JSON.

    Raises:
        ApiError: If a limit is exceeded.

    """

    def __init__(
        self,
        body: ChatRequest | CompletionRequest,
        prompts: Sequence[Prepared],
        engine: Engine,
        metrics: Metrics,
        wire: ChatWire | TextWire,
    ) -> None:
        self._body, self._prompts, self._engine = body, prompts, engine
        self._metrics, self._wire = metrics, wire
        self._inbox = Inbox(is_streamed=body.stream)
        self._began = time.monotonic()
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        if len(prompts) * body.n > _MOST_ANSWERS:
            raise ApiError(
                400,
                f"a request must have at most {_MOST_ANSWERS} answers, got {len(prompts)} prompts "
                f"with n = {body.n}",
                "n",
            )
        seeds = PromptSeeds(self._seed)
        self._rows: list[Row] = []
        for prompt in prompts:
            most = engine.room(prompt, body.longest())
            for _ in range(body.n):
                self._rows.append(self._row(len(self._rows), prompt, most, seeds))

    def _row(self, index: int, prompt: Prepared, most: int, seeds: PromptSeeds) -> Row:
        (seed,) = seeds.of(
            {
                "input_ids": torch.tensor([prompt.encoding.input_ids]),
                "attention_mask": torch.ones(1, prompt.tokens),
                "guide_bias": torch.tensor([prompt.nats]),
            }
        )
        return Row(
            prompt.encoding,
            prompt.steering,
            most,
            self._body.temperature,
            self._body.top_p,
            seed,
            self._body.stops(),
            self._body.num_logprobs(),
            push=lambda text, likely: self._inbox.put(_Piece(index, text, likely)),
            end=lambda how: self._inbox.put(_End(index, how)),
            min_share=prompt.min_share,
        )

    async def answer(self, request: Request) -> Response:
        """Return the answer, or the beginning of a stream.

        Raises:
            ApiError: If the server is busy or stops.

        """
        self._engine.submit(self._rows)
        if any(prompt.is_steered() for prompt in self._prompts):
            self._metrics.steered.inc()
        self._metrics.prompt_tokens.inc(sum(prompt.tokens for prompt in self._prompts))
        if self._body.stream:
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        leaver = asyncio.create_task(self._until_it_leaves(request))
        try:
            found = await self._whole()
            return JSONResponse(await run_in_threadpool(found))
        finally:
            leaver.cancel()
            self._leave()

    def _leave(self) -> None:
        for row in self._rows:
            row.gone.set()

    async def _until_it_leaves(self, request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LEAVES_EVERY)
        self._leave()

    async def _events(self) -> AsyncIterator[_Piece | _End]:
        """Return events until every row has ended.

        Raises:
            ApiError: If one has failed.

        """
        left = set(range(len(self._rows)))
        is_first = True
        while left:
            for one in await self._inbox.take():
                if one.index not in left:
                    continue  # an error of a batch reaches rows that had ended, too
                if is_first:
                    is_first = False
                    self._metrics.first_token.observe(time.monotonic() - self._began)
                if isinstance(one, _End):
                    if isinstance(one.how, Exception):
                        raise of_exception(one.how)
                    left.discard(one.index)
                    self._metrics.answer_tokens.inc(one.how.tokens)
                yield one

    async def _whole(self) -> Callable[[], dict[str, Any]]:
        """Wait for all answers, and return what makes their JSON, which may take a while."""
        texts = ["" for _ in self._rows]
        likely: list[list[Likely]] = [[] for _ in self._rows]
        ends: dict[int, Ended] = {}
        async for one in self._events():
            if isinstance(one, _Piece):
                texts[one.index] += one.text
                likely[one.index] += one.likely
            elif isinstance(one.how, Ended):
                ends[one.index] = one.how
        wants = self._body.num_logprobs() is not None
        answers = [
            Answer(index, texts[index], likely[index] if wants else None, ends[index].reason)
            for index in range(len(self._rows))
        ]
        return lambda: self._wire.whole(answers, usage=self._usage(ends), guide=self._said())

    async def _stream(self) -> AsyncIterator[str]:
        """Return the events of a stream; an error is its last one."""
        wants = self._body.num_logprobs() is not None
        ends: dict[int, Ended] = {}
        try:
            for index in range(len(self._rows)):
                more = {"guide": self._said()} if index == 0 else {}
                yield event(self._wire.part([self._wire.begin(index)], **more))
            async for one in self._events():
                if isinstance(one, _Piece):
                    piece = Answer(one.index, one.text, one.likely if wants else None)
                    yield event(self._wire.part([self._wire.piece(piece)]))
                elif isinstance(one.how, Ended):
                    ends[one.index] = one.how
                    yield event(self._wire.part([self._wire.end(one.index, one.how.reason)]))
            if self._body.wants_usage():
                yield event(self._wire.part([], usage=self._usage(ends)))
            yield DONE
        except ApiError as error:
            yield event(error.body())
        finally:
            self._leave()

    def _usage(self, ends: dict[int, Ended]) -> dict[str, int]:
        read = sum(prompt.tokens for prompt in self._prompts)
        return usage(read, sum(end.tokens for end in ends.values()))

    def _said(self) -> dict[str, Any]:
        """Say what was steered: of one prompt, or of each."""
        said = [prompt.said() for prompt in self._prompts]
        sampled = {"seed": self._seed} if self._body.temperature > 0 else {}
        return {**(said[0] if len(said) == 1 else {"prompts": said}), **sampled}
