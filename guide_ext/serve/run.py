# SPDX-License-Identifier: MIT
"""Run the server until it is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from guide_ext.serve.app import build
from guide_ext.serve.settings import Settings, check_host

# Seconds that answers have to come to their end once the server is told to stop.
_GRACE = 60
_MOST_CONNECTIONS = 2000


def run(
    model: Any,
    tokenizer: Any,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a model until SIGINT or SIGTERM comes; answers that have begun are finished.

    Args:
        model: An enabled decoder.
        tokenizer: Its fast tokenizer.
        settings: Name and limits.
        host: Address to listen at.
        port: Port; 0 for any that is free.
        on_ready: Called with the address of the server once it answers.

    Raises:
        ValueError: If others could reach the server and there is no key, the port is taken, or the
            model cannot be served.

    """
    check_host(host, settings.api_key)
    app = build(model, tokenizer, settings)
    listener = _listener(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",  # a log of requests would have their addresses
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=_MOST_CONNECTIONS,
        server_header=False,
    )
    shown = f"[{host}]" if ":" in host else host
    server = _Server(config, lambda: on_ready and on_ready(f"http://{shown}:{_port(listener)}"))
    with listener, _signals_end_here():
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it has begun to answer."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


@contextmanager
def _signals_end_here() -> Iterator[None]:
    """Let the signals that stop the server not stop the process, too: uvicorn hands them on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: If the address cannot be had.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(
            f"--host and --port must be an address that is free, got {host}:{port}: {reason}"
        ) from None
    return listener


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
