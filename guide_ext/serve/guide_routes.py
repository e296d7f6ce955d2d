# SPDX-License-Identifier: MIT
"""Routes that OpenAI's API does not have: what marks hit, how far they reach, which Δ to take."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from torch import Tensor

from guide_ext.integration.model.state import table_size
from guide_ext.machine.facts import machine_facts
from guide_ext.serve.engine import Engine
from guide_ext.serve.errors import ApiError
from guide_ext.serve.measuring import calibrated, measured, rounded, tokens_of
from guide_ext.serve.prompts import Prepared, Prompts
from guide_ext.serve.schemas import (
    CalibrateRequest,
    GuideOptions,
    InfluenceRequest,
    PromptRequest,
)
from guide_ext.serve.settings import Settings
from guide_ext.serve.wire import DONE, event
from guide_ext.support.version import VERSION

T = TypeVar("T")
_LEAVES_EVERY = 0.2  # seconds between two looks at whether a client is still there


def add_guide_routes(app: FastAPI, prompts: Prompts, engine: Engine, settings: Settings) -> None:
    """Add ``/v1/guide`` and what is below it."""

    async def prepared(body: PromptRequest) -> Prepared:
        if body.model != settings.name:
            raise ApiError(
                404, f"model must be {settings.name!r}, got {body.model[:80]!r}", "model"
            )
        return await run_in_threadpool(prompts.of_request, body.messages, body.prompt, body.guide)

    @app.get("/v1/guide")
    async def about() -> dict[str, Any]:
        layers, heads = table_size(prompts.model)
        return {
            "version": VERSION,
            "model": settings.name,
            "delta": settings.delta,
            "trusted_roles": list(settings.trusted_roles),
            "has_chat_template": bool(getattr(prompts.tokenizer, "chat_template", None)),
            "layers": layers,
            "heads": heads,
            "dtype": str(prompts.model.dtype).removeprefix("torch."),
            "machine": machine_facts(),
            "limits": {
                "nats": settings.max_nats,
                "spans": settings.max_spans,
                "answer_tokens": settings.max_tokens,
                "prompt_tokens": min(
                    settings.max_prompt_tokens, engine.positions or settings.max_prompt_tokens
                ),
                "body_bytes": settings.max_body,
                "waiting_requests": settings.queue,
            },
        }

    @app.post("/v1/guide/tokens")
    async def tokens(body: PromptRequest) -> dict[str, Any]:
        prompt = await prepared(body)
        return {
            "guide": prompt.said(),
            "tokens": await run_in_threadpool(tokens_of, prompts, prompt),
        }

    @app.post("/v1/guide/influence")
    async def how_far(body: InfluenceRequest, request: Request) -> Response:
        prompt = await prepared(body)
        if not prompt.encoding.token_spans:
            raise ApiError(
                400, "a prompt must have marks to be measured: <?-> ... <-?>, or those that steer; "
                "got none",
            )  # fmt: skip
        if prompt.min_share is not None or prompt.layers is not None:
            raise ApiError(400, "guide must have a delta alone to be measured", "guide")
        most = min(body.max_tokens, engine.room(prompt, body.max_tokens or 1))
        if body.stream:
            if not most:
                raise ApiError(400, "max_tokens must be at least 1 in a stream", "max_tokens")
            stream = _begun_stream(prompts, engine, prompt, body.form, most, settings.name)
            return StreamingResponse(stream, media_type="text/event-stream")

        def work() -> dict[str, Any]:
            return measured(prompts, prompt, body.form, most, settings.name, while_it_waits)

        left = threading.Event()

        def while_it_waits(run: str, values: Tensor) -> None:
            if left.is_set():
                raise CancelledError

        found = await _unless_it_leaves(engine, work, request, left)
        return JSONResponse(found if most else {**found, "tokens": tokens_of(prompts, prompt)})

    @app.post("/v1/guide/calibrate")
    async def calibration(body: CalibrateRequest, request: Request) -> dict[str, Any]:
        await prepared(body)  # raises where a limit is exceeded
        guide = body.guide
        if guide != GuideOptions.model_validate({"trusted_roles": guide.trusted_roles}):
            raise ApiError(
                400, "guide must have tags in the prompt alone to be calibrated", "guide"
            )
        if body.max_delta > settings.max_nats:
            raise ApiError(
                400, f"max_delta must be at most {settings.max_nats:g}, got {body.max_delta:g}",
                "max_delta",
            )  # fmt: skip
        roles = settings.trusted_roles if guide.trusted_roles is None else guide.trusted_roles
        text = await run_in_threadpool(prompts.as_read, body.messages, body.prompt, guide)

        def work() -> dict[str, Any]:
            found = calibrated(prompts, text, tuple(roles), body.target, body.form, body.max_delta)
            data: dict[str, Any] = json.loads(found.to_json())
            return data

        return await _unless_it_leaves(engine, work, request, threading.Event())


def _begun_stream(
    prompts: Prompts, engine: Engine, prompt: Prepared, form: str, most: int, name: str
) -> AsyncIterator[str]:
    """Begin to measure, and return a stream of it.

    Raises:
        ApiError: If the server is busy or stops.

    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    left = threading.Event()

    def on_values(run: str, values: Tensor) -> None:
        if left.is_set():
            raise CancelledError
        found = {"object": "guide.influence.values", "run": run, "values": rounded(values[0])}
        loop.call_soon_threadsafe(events.put_nowait, found)

    def work() -> dict[str, Any]:
        return measured(prompts, prompt, form, most, name, on_values)

    result = asyncio.wrap_future(engine.alone(work))
    result.add_done_callback(lambda _: events.put_nowait(None))

    async def stream() -> AsyncIterator[str]:
        try:
            while (one := await events.get()) is not None:
                yield event(one)
            yield event({"object": "guide.influence", "record": await _told(result)})
            yield DONE
        except ApiError as error:
            yield event(error.body())
        finally:
            left.set()
            result.cancel()

    return stream()


async def _unless_it_leaves(
    engine: Engine, work: Callable[[], T], request: Request, left: threading.Event
) -> T:
    """Return what the thread that generates computes; tell it if the client leaves.

    Raises:
        ApiError: If there is no result.

    """
    future = engine.alone(work)
    result = asyncio.wrap_future(future)
    try:
        while not result.done():
            await asyncio.wait([result], timeout=_LEAVES_EVERY)
            if not result.done() and await request.is_disconnected():
                raise ApiError(499, "the client has left")
        return await _told(result)
    finally:
        left.set()
        future.cancel()


async def _told(result: asyncio.Future[T]) -> T:
    """Return a result; what kept the thread from it is told to the client.

    Raises:
        ApiError: If there is no result.

    """
    try:
        return await result
    except ApiError:
        raise
    except ValueError as error:
        raise ApiError(400, str(error)) from None
