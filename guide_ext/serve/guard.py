# SPDX-License-Identifier: MIT
"""What stands in front of every route: the key, the host, the size and the pace of a body."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.middleware.cors import CORSMiddleware

from guide_ext.serve.errors import ApiError
from guide_ext.serve.metrics import Metrics
from guide_ext.serve.settings import Settings, is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_SECONDS_FOR_A_BODY = 30.0
# What a browser may load without a key: the page asks for it, and then sends it.
_OPEN = frozenset({"/", "/health"})
_ASSETS = "/assets/"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """An ASGI application in front of another.

    Args:
        app: The application behind it.
        settings: The key and the limits.
        metrics: Counts requests.

    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self._settings, self._metrics = app, settings, metrics
        self._shared = self._for_origins(app)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._shared(scope, receive, send)
            return
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message.get("headers", ())}
                headers = [*message.get("headers", ())]
                headers += [pair for pair in _HEADERS if pair[0] not in names]
                message = {**message, "headers": headers}
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check(scope, headers)
            body = _Body(receive, headers, self._settings.max_body)

            async def unless_refused(message: Message) -> None:
                # What the routes make of a body that did not arrive is not what was wrong with it.
                if body.error is None:
                    await counted(message)

            await self._shared(scope, body, unless_refused)
            if body.error is not None and not status:
                raise body.error
        except ApiError as error:
            await self._for_origins(_Refusal(error))(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _for_origins(self, app: App) -> App:
        """Tell browsers which pages may read the answers of an application, errors included."""
        if not self._settings.cors:
            return app
        return CORSMiddleware(
            app, allow_origins=list(self._settings.cors), allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )  # fmt: skip

    def _check(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        """Check host and key.

        Raises:
            ApiError: If one of them is wrong.

        """
        key = self._settings.api_key
        if key is None:
            # A page from elsewhere could let its own name point to this machine, and read answers.
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if not is_loopback(name.strip("[]")):
                raise ApiError(
                    403, f"host must be this machine, as the server has no key, got {host!r}"
                )
            return
        path = scope["path"]
        if path in _OPEN or path.startswith(_ASSETS) or scope["method"] == "OPTIONS":
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode()):
            raise ApiError(401, "authorization must be 'Bearer KEY' with the key of this server")


class _Body:
    """Receives a body, if it is small enough and comes soon enough.

    Attributes:
        error: What was wrong with it; None if nothing was.

    """

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], most: int) -> None:
        self._receive, self._most, self._bytes, self._is_whole = receive, most, 0, False
        self.error: ApiError | None = None
        self._deadline: float | None = None
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > most:
            raise _too_large(most, int(said))

    async def __call__(self) -> Message:
        """Return the next part.

        Raises:
            ApiError: If it makes the body too large, or does not come.

        """
        if self._is_whole:  # what comes now is that the client has left
            return await self._receive()
        try:
            now = asyncio.get_running_loop().time()
            if self._deadline is None:
                self._deadline = now + _SECONDS_FOR_A_BODY
            message = await asyncio.wait_for(self._receive(), max(self._deadline - now, 0))
        except asyncio.TimeoutError:
            self.error = ApiError(
                408, f"a body must come within {_SECONDS_FOR_A_BODY:g} seconds, got a part"
            )
            raise self.error from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._bytes > self._most:
                self.error = _too_large(self._most, self._bytes)
                raise self.error
        return message


def _too_large(most: int, got: int) -> ApiError:
    return ApiError(413, f"a body must have at most {most} bytes, got {got}")


class _Refusal:
    """An application that answers everything with an error."""

    def __init__(self, error: ApiError) -> None:
        self._error = error

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer."""
        body = json.dumps(self._error.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # What is left of a body is not read.
            (b"connection", b"close"),
        ]
        if self._error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        status = self._error.status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
