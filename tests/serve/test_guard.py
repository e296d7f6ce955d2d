# SPDX-License-Identifier: MIT
"""The key, the host, the pace of a body, pages from elsewhere."""

import contextlib
import socket
import time

import httpx
import pytest
from serving import MODEL, running

from guide_ext.serve import guard
from guide_ext.serve.settings import Settings

KEY = "a key of our own"
BODY = {"model": MODEL, "prompt": "Hi", "max_tokens": 1}


@pytest.fixture(scope="module")
def locked(loaded):
    with running(*loaded, Settings(MODEL, api_key=KEY, cors=("https://example.org",))) as found:
        yield found


class TestKey:
    def test_the_right_one(self, locked):
        assert locked.client().completions.create(**BODY).choices[0].finish_reason == "length"

    @pytest.mark.parametrize("given", [None, "Bearer", "Bearer no", f"Basic {KEY}", f"bearer{KEY}"])
    @pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/guide", "/openapi.json"])
    def test_wrong_ones(self, locked, given, path):
        headers = {} if given is None else {"authorization": given}
        with locked.http(headers=headers) as http:
            found = http.get(path)
        assert found.status_code == 401
        assert found.json()["error"]["type"] == "authentication_error"
        assert found.headers["www-authenticate"] == "Bearer"
        assert KEY not in found.text

    def test_health_is_open(self, locked):
        with locked.http() as http:
            assert http.get("/health").json() == {"status": "ok", "waiting": 0}

    def test_other_hosts_may_be_named(self, locked):
        with locked.http(headers={"host": "model.example.org"}) as http:
            assert http.get("/health").status_code == 200


class TestWithoutAKey:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "127.0.0.1.nip.io"])
    def test_other_names_for_this_machine(self, http, host):
        found = http.get("/v1/models", headers={"host": host})
        assert found.status_code in (400, 403), host

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "[::1]"])
    def test_its_own(self, http, host):
        assert http.get("/v1/models", headers={"host": host}).status_code == 200


class TestPagesFromElsewhere:
    ASK = {  # noqa: RUF012
        "access-control-request-method": "POST", "access-control-request-headers": "authorization",
    }  # fmt: skip

    def test_that_may(self, locked):
        with locked.http() as http:
            found = http.options(
                "/v1/chat/completions", headers={"origin": "https://example.org", **self.ASK}
            )
        assert found.headers["access-control-allow-origin"] == "https://example.org"

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"headers": {"authorization": "Bearer no"}}, 401),
            ({"content": b" " * ((1 << 20) + 1)}, 413),
            ({"json": {**BODY, "model": "other"}}, 404),
            ({"json": {**BODY, "n": 0}}, 400),
            ({"json": BODY}, 200),
        ],
    )
    def test_they_can_read_errors(self, locked, change, status):
        """Without the header a browser shows none of the sentence."""
        sent = {"authorization": f"Bearer {KEY}", "origin": "https://example.org"}
        sent |= {"content-type": "application/json", **change.get("headers", {})}
        change = {name: value for name, value in change.items() if name != "headers"}
        with locked.http(headers=sent) as http:
            found = http.post("/v1/completions", **(change or {"json": BODY}))
        assert found.status_code == status
        assert found.headers.get_list("access-control-allow-origin") == ["https://example.org"]
        assert found.headers["vary"] == "Origin"
        if status == 401:
            assert found.headers["www-authenticate"] == "Bearer"

    def test_they_can_read_faults(self, loaded, monkeypatch):
        with running(*loaded, Settings(MODEL, cors=("https://example.org",))) as server:
            monkeypatch.setattr(server.engine, "is_alive", lambda: 1 / 0)

            def get(path, **headers):
                # After a fault the server closes the connection.
                headers = {"origin": "https://example.org", **headers}
                return httpx.get(f"{server.address}{path}", headers=headers, timeout=60)

            found, other = get("/health"), get("/health", origin="https://evil.example")
            unasked = get("/v1/models", host="evil.example")
        assert (found.status_code, other.status_code, unasked.status_code) == (500, 500, 403)
        assert found.headers["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-origin" not in other.headers
        assert unasked.headers["access-control-allow-origin"] == "https://example.org"

    def test_they_may_ask_with_a_key(self, locked):
        """The question itself has none; the request that follows must."""
        with locked.http() as http:
            asked = http.options("/v1/guide", headers={"origin": "https://example.org", **self.ASK})
            assert asked.status_code == 200
            assert "authorization" in asked.headers["access-control-allow-headers"].lower()
            assert asked.headers["x-content-type-options"] == "nosniff"
            assert (
                http.get("/v1/guide", headers={"origin": "https://example.org"}).status_code == 401
            )

    def test_that_may_not(self, locked, http):
        with locked.http() as other:
            for one in (other, http):
                found = one.options(
                    "/v1/chat/completions", headers={"origin": "https://evil.example", **self.ASK}
                )
                assert "access-control-allow-origin" not in found.headers


def test_a_body_that_does_not_come(server, monkeypatch):
    monkeypatch.setattr(guard, "_SECONDS_FOR_A_BODY", 0.2)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n"
            b"content-type: application/json\r\n\r\n{"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"a body must come within 0.2 seconds" in answer


def test_a_body_that_comes_slowly(server, monkeypatch):
    """The time is that of the whole body, whatever comes in it."""
    monkeypatch.setattr(guard, "_SECONDS_FOR_A_BODY", 0.4)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n"
            b"content-type: application/json\r\n\r\n"
        )
        connection.settimeout(0.1)
        answer, begin = b"", time.monotonic()
        while not answer:
            assert time.monotonic() - begin < 10
            connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")


def test_headers(http):
    found = http.get("/health").headers
    assert found["x-content-type-options"] == "nosniff"
    assert found["cache-control"] == "no-store"
    assert "server" not in found or "guide" not in found["server"]
