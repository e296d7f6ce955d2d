# SPDX-License-Identifier: MIT
"""A server in a thread of the tests, and clients for it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from openai import OpenAI

from guide_ext.serve.app import build

MODEL = "embedded"


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        address: Where it listens.
        engine: Its engine.
        guard: The application.
        key: What it asks for.

    """

    address: str
    engine: object
    guard: object
    key: str | None

    def client(self):
        return OpenAI(
            base_url=f"{self.address}/v1", api_key=self.key or "none", max_retries=0, timeout=60
        )

    def http(self, **options):
        return httpx.Client(base_url=self.address, timeout=60, **options)


@contextmanager
def running(model, tokenizer, settings, *, seconds=60, **options):
    """Run a server while the block runs; it has some seconds to begin."""
    guard = build(model, tokenizer, settings)
    config = uvicorn.Config(guard, port=0, log_level="critical", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), seconds)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        engine = guard.app.state.engine
        yield Running(f"http://127.0.0.1:{port}", engine, guard, settings.api_key)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def held(engine):
    """Keep the thread that generates busy, so that requests wait."""
    free, busy = threading.Event(), threading.Event()

    def wait():
        busy.set()
        free.wait(60)

    done = engine.alone(wait)
    assert busy.wait(60)
    try:
        yield
    finally:
        free.set()
        done.result(60)


def until(holds, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
