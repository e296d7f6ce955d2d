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

from guide_ext.integration.model.state import table_size
from guide_ext.integration.side_by_side import Step
from guide_ext.machine.facts import machine_facts
from guide_ext.serve.engine import Engine
from guide_ext.serve.errors import ApiError, of_exception
from guide_ext.serve.measuring import (
    answers_of,
    calibrated,
    measured,
    scored,
    sources_of,
    streamed,
    tokens_of,
    told,
)
from guide_ext.serve.prompts import Prepared, Prompts
from guide_ext.serve.schemas import (
    CalibrateRequest,
    GuideOptions,
    InfluenceRequest,
    PromptRequest,
    ScoreRequest,
    SourcesRequest,
)
from guide_ext.serve.settings import Settings
from guide_ext.serve.wire import DONE, event
from guide_ext.support.version import VERSION

T = TypeVar("T")
GoOn = Callable[..., None]  # called in the middle of some work; raises where nobody waits for it
_MOST_NUMBERS = 1 << 22  # of one answer about sources: some 40 MB of JSON
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
            stream = _begun_stream(prompts, engine, prompt, body, most)
            return StreamingResponse(stream, media_type="text/event-stream")

        def work(go_on: GoOn) -> dict[str, Any]:
            return measured(prompts, prompt, body, most, go_on)

        found = await _unless_it_leaves(engine, work, request)
        return JSONResponse(found if most else {**found, "tokens": tokens_of(prompts, prompt)})

    @app.post("/v1/guide/sources")
    async def where_from(body: SourcesRequest, request: Request) -> Response:
        prompt = await prepared(body)
        if prompt.min_share is not None:
            raise ApiError(400, "guide must have a delta to look at its attention", "guide")
        layers, heads = table_size(prompts.model)
        wanted = body.layers or []
        if wanted and max(wanted) >= layers:
            raise ApiError(400, f"layers must be below {layers}, got {max(wanted)}", "layers")
        answer = await run_in_threadpool(_answer_ids, prompts, engine, prompt, body)
        numbers = (layers + len(set(wanted)) * heads) * (prompt.tokens + len(answer))
        if numbers > _MOST_NUMBERS:
            raise ApiError(
                400, f"the answer to a request must have at most {_MOST_NUMBERS} numbers, got "
                f"{numbers}; ask for the heads of fewer layers", "layers",
            )  # fmt: skip

        def work(go_on: GoOn) -> dict[str, Any]:
            return sources_of(prompts, prompt, answer, body)  # one forward pass

        return JSONResponse(await _unless_it_leaves(engine, work, request))

    @app.post("/v1/guide/score")
    async def how_likely(body: ScoreRequest, request: Request) -> dict[str, Any]:
        prompt = await prepared(body)
        rows = _strengths(body, prompt, settings.max_nats)
        targets = await run_in_threadpool(answers_of, prompts, body)
        room, longest = engine.room(prompt, None), max(map(len, targets))
        if longest > room:
            raise ApiError(
                400, f"answers must have at most {room} tokens, got {longest}", "answers"
            )

        def work(go_on: GoOn) -> list[float]:
            return scored(prompts, prompt, rows, targets, settings.batch_tokens, go_on)

        found = await _unless_it_leaves(engine, work, request)
        name, values = ("deltas", body.deltas) if body.deltas else ("factors", body.factors)
        return {name: values, "logprobs": found}

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

        def work(go_on: GoOn) -> dict[str, Any]:
            found = calibrated(
                prompts, text, tuple(roles), body.target, body.form, body.max_delta, go_on
            )
            data: dict[str, Any] = json.loads(found.to_json())
            return data

        return await _unless_it_leaves(engine, work, request)


def _answer_ids(
    prompts: Prompts, engine: Engine, prompt: Prepared, body: SourcesRequest
) -> list[int]:
    """Return the tokens of an answer that a request gives.

    Raises:
        ApiError: If they are over a limit, or the model does not know one of them.

    """
    given = body.answer
    if isinstance(given, str):
        given = list(prompts.tokenizer.encode(given, add_special_tokens=False)) if given else []
    known = prompts.model.get_input_embeddings().weight.shape[0]
    if given and max(given) >= known:
        raise ApiError(
            400, f"answer must have tokens that the model knows, below {known}, got {max(given)}",
            "answer",
        )  # fmt: skip
    room = engine.room(prompt, None)
    if len(given) > room:
        raise ApiError(400, f"answer must have at most {room} tokens, got {len(given)}", "answer")
    return given


def _strengths(body: ScoreRequest, prompt: Prepared, most: float) -> list[list[float]]:
    """Return the nats of every token of a prompt at each strength.

    Raises:
        ApiError: If a token would get more nats than the server allows.

    """
    if body.deltas is not None:
        rows = [prompt.encoding.nats(delta) for delta in body.deltas]
    else:
        rows = [[factor * nats for nats in prompt.nats] for factor in body.factors or ()]
    largest = max((abs(nats) for row in rows for nats in row), default=0.0)
    if not largest <= most:
        raise ApiError(
            400, f"a token must have a bias from -{most:g} to {most:g} nats, got {largest:g}",
            "deltas" if body.deltas is not None else "factors",
        )  # fmt: skip
    return rows


def _begun_stream(
    prompts: Prompts, engine: Engine, prompt: Prepared, body: InfluenceRequest, most: int
) -> AsyncIterator[str]:
    """Begin to measure, and return a stream of it.

    Raises:
        ApiError: If the server is busy or stops.

    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    left = threading.Event()

    def on_step(step: Step) -> None:
        if left.is_set():
            raise CancelledError
        loop.call_soon_threadsafe(events.put_nowait, told(step))

    def work() -> dict[str, Any]:
        return streamed(prompts, prompt, body, most, on_step)

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


async def _unless_it_leaves(engine: Engine, work: Callable[[GoOn], T], request: Request) -> T:
    """Return what the thread that generates computes, until the client leaves.

    Args:
        engine: Runs the work.
        work: Gets what it must call between its steps, which ends it when the client has left.
        request: The client.

    Raises:
        ApiError: If there is no result.

    """
    left = threading.Event()

    def go_on(*_: object) -> None:
        if left.is_set():
            raise CancelledError

    future = engine.alone(lambda: work(go_on))
    result = asyncio.wrap_future(future)
    try:
        while not result.done():
            await asyncio.wait([result], timeout=_LEAVES_EVERY)
            if not result.done() and await request.is_disconnected():
                raise ApiError(499, "the client has left")
        return await _told(result)
    finally:
        left.set()
        result.cancel()  # or its error would be logged as one that nobody saw
        future.cancel()


async def _told(result: asyncio.Future[T]) -> T:
    """Return a result; what kept the thread from it is told to the client.

    Raises:
        ApiError: If there is no result.

    """
    try:
        return await result
    except Exception as error:
        raise of_exception(error) from None
