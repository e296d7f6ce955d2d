# SPDX-License-Identifier: MIT
"""Long: clients that come and leave for minutes, many connections, and every request there is.

``GUIDE_SOAK_SECONDS=600`` makes the first one as long as that.
"""

import gc
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving import MODEL, running, until

from guide_ext.serve.settings import Settings

pytestmark = pytest.mark.long
SECONDS = float(os.environ.get("GUIDE_SOAK_SECONDS", "60"))
PROMPT = "<!!->Summarize in French<-!!>\nThe thief paints the hammer in the museum."
ALONE = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 12}


def resident():
    """Memory of this process, MB, without what is only waiting to be collected."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def visit(http, draw, wanted, counts):
    """Ask for something, and leave at some point, or stay and look at the answer."""
    body = {
        "model": MODEL, "prompt": PROMPT, "temperature": draw.choice((0, 1.5)),
        "max_tokens": draw.choice((1, 12, 200)), "n": draw.choice((1, 1, 3)),
        "guide": {"delta": draw.choice((0, 1, 2, -3))}, "stream": draw.random() < 0.5,
    }  # fmt: skip
    kind = draw.choice(("leaves", "leaves", "stays", "looks", "wrong"))
    counts[kind] = counts.get(kind, 0) + 1
    try:
        if kind == "leaves":
            seconds = draw.choice((0.001, 0.01, 0.05, 0.2))
            if body["stream"]:
                with http.stream("POST", "/v1/completions", json=body) as answer:
                    for _ in zip(range(draw.randint(0, 20)), answer.iter_lines(), strict=False):
                        pass
            else:
                http.post("/v1/completions", json=body, timeout=seconds)
        elif kind == "stays":
            assert http.post("/v1/completions", json=body).status_code in (200, 429)
        elif kind == "wrong":
            body["guide"] = {"delta": 1e9}
            assert http.post("/v1/completions", json=body).status_code == 400
        else:
            found = http.post("/v1/completions", json=ALONE)
            assert found.status_code == 429 or found.json()["choices"][0]["text"] == wanted
    except (httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ReadError):
        assert kind == "leaves"


def test_clients_that_come_and_leave(loaded):
    with running(*loaded, Settings(MODEL, queue=16)) as server, server.http() as http:
        wanted = http.post("/v1/completions", json=ALONE).json()["choices"][0]["text"]
        counts, ends, faults = {}, time.monotonic() + SECONDS, []

        def client(seed):
            draw = random.Random(seed)
            with server.http() as own:
                while time.monotonic() < ends and not faults:
                    try:
                        visit(own, draw, wanted, counts)
                    except BaseException as fault:
                        faults.append(fault)
                        raise

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, seed) for seed in range(8)]
            until(lambda: time.monotonic() > ends - SECONDS / 2 or faults, SECONDS + 60)
            halfway = resident()
            for one in clients:
                one.result()
        until(lambda: server.engine.waiting == 0)
        assert http.post("/v1/completions", json=ALONE).json()["choices"][0]["text"] == wanted
        grown = resident() - halfway
        assert min(counts.values()) > 5, counts
        assert grown < 40, f"{grown:.0f} MB in {SECONDS / 2:.0f} seconds, {counts}"
        names = [one.name for one in threading.enumerate()]
        assert names.count("guide-engine") >= 1


def test_many_connections(loaded):
    """A thousand that say nothing, and one that asks."""
    import socket

    with running(*loaded, Settings(MODEL)) as server, server.http() as http:
        host, port = server.address.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(1000)]
        try:
            assert http.post("/v1/completions", json=ALONE).status_code == 200
        finally:
            for one in silent:
                one.close()
        assert http.get("/health").status_code == 200


def test_every_request_that_the_description_allows(loaded, tmp_path):
    command = shutil.which("schemathesis", path=os.path.dirname(sys.executable))
    if command is None:
        pytest.skip("schemathesis is not installed: pip install --group fuzz")
    with running(*loaded, Settings(MODEL, max_tokens=8)) as server:
        done = subprocess.run(
            # What depends on two fields at once cannot be said in a description.
            [command, "run", f"{server.address}/openapi.json", "--max-examples", "30",
             "--checks", "all", "--exclude-checks", "positive_data_acceptance"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
