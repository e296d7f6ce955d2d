# SPDX-License-Identifier: MIT
"""The application: OpenAI's routes. Those of our own are in `guide_routes`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteError

from guide_ext.serve.answering import Answering
from guide_ext.serve.assets import add_page
from guide_ext.serve.engine import Engine, warm_up
from guide_ext.serve.errors import NO_JSON, ApiError, of_validation
from guide_ext.serve.guard import Guard
from guide_ext.serve.guide_routes import add_guide_routes
from guide_ext.serve.metrics import Metrics
from guide_ext.serve.prompts import Prompts
from guide_ext.serve.schemas import ChatRequest, CompletionRequest, GuideOptions
from guide_ext.serve.settings import Settings
from guide_ext.serve.wire import ChatWire, TextWire
from guide_ext.support.version import VERSION

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; the message says where."},
    401: {"description": "The key is missing or wrong."},
    403: {"description": "The request names another host than this machine."},
    404: {"description": "There is no such model or route."},
    405: {"description": "There is no such method here."},
    408: {"description": "The body did not come in time."},
    413: {"description": "The body is too large."},
    429: {"description": "Too many requests wait."},
    503: {"description": "The server stops."},
}


def build(model: Any, tokenizer: Any, settings: Settings) -> Guard:
    """Return the server of a model, as an ASGI application.

    Args:
        model: An enabled decoder, in evaluation mode. The server alone uses it from now on.
        tokenizer: Its fast tokenizer.
        settings: Name and limits.

    Raises:
        ValueError: If the model has an encoder, is not enabled, ends texts by ``stop_strings``, or
            is to be compiled and cannot be.

    """
    _check(model)
    metrics = Metrics()
    prompts = Prompts(model, tokenizer, settings)
    engine = Engine(prompts, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            # What cannot answer must not begin to listen; and the first request waits for nothing.
            await run_in_threadpool(
                warm_up, engine, prompts.of_text("a", GuideOptions.model_validate({}))
            )
            yield
        finally:
            await run_in_threadpool(engine.close)

    app = FastAPI(
        title="guide_ext", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        responses=_ERRORS,
        description="A language model whose prompts can be marked: tags in them act.",
    )  # fmt: skip
    app.state.engine = engine
    _describe_errors(app)
    _add_handlers(app)
    _add_routes(app, prompts, engine, metrics, settings)
    add_guide_routes(app, prompts, engine, settings)
    add_page(app)
    return Guard(app, settings, metrics)


def _check(model: Any) -> None:
    """Check that a model can be served.

    Raises:
        ValueError: If it cannot.

    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"a served model must be a decoder, got a {type(model).__name__}, which has two texts"
        )
    if getattr(model.generation_config, "stop_strings", None):
        raise ValueError(
            "a served model must end its texts by tokens, got stop_strings in its "
            "generation_config; set them to None, and send 'stop' with requests"
        )


def _describe_errors(app: FastAPI) -> None:
    """Leave the status of FastAPI's own errors out of the description: ours are 400."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        found = describe()
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return found

    app.openapi = described  # type: ignore[method-assign]


def _add_handlers(app: FastAPI) -> None:
    """Give every error OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def wrong_body(request: Request, error: RequestValidationError) -> Response:
        found = of_validation(error.errors())
        return JSONResponse(found.body(), found.status)

    @app.exception_handler(StarletteError)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        texts = {400: NO_JSON, 404: f"there is no {what} here", 405: f"there is no {what} here"}
        found = ApiError(error.status_code, texts.get(error.status_code, str(error.detail)))
        return JSONResponse(found.body(), found.status, getattr(error, "headers", None))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        found = ApiError(500, f"the server made a mistake: {type(error).__name__}")
        return JSONResponse(found.body(), found.status)


def check_model(settings: Settings, model: str) -> None:
    """Check that a request names the model that is served.

    Raises:
        ApiError: If it names another.

    """
    if model != settings.name:
        raise ApiError(404, f"model must be {settings.name!r}, got {model[:80]!r}", "model")


def _add_routes(
    app: FastAPI, prompts: Prompts, engine: Engine, metrics: Metrics, settings: Settings
) -> None:
    began = int(time.time())

    @app.get("/health")
    async def health() -> Response:
        alive = engine.is_alive()
        status = {"status": "ok" if alive else "stops", "waiting": engine.waiting}
        return JSONResponse(status, 200 if alive else 503)

    @app.get("/metrics", response_class=Response)
    async def counts() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(settings.name, began)]}

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        check_model(settings, model)
        return _model(settings.name, began)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        check_model(settings, body.model)
        prompt = await run_in_threadpool(prompts.of_chat, body.messages, body.guide)
        wire = ChatWire(settings.name, prompts.tokenizer)
        return await Answering(body, [prompt], engine, metrics, wire).answer(request)

    @app.post("/v1/completions")
    async def text(body: CompletionRequest, request: Request) -> Response:
        check_model(settings, body.model)
        texts = body.prompts()
        found = [await run_in_threadpool(prompts.of_text, text, body.guide) for text in texts]
        wire = TextWire(settings.name, prompts.tokenizer)
        return await Answering(body, found, engine, metrics, wire).answer(request)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "guide_ext"}
