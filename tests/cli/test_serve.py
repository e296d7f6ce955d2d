# SPDX-License-Identifier: MIT
"""``guide-ext serve`` as a process: it says where it is, answers, and stops when it is told to."""

import re
import select
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from typer.testing import CliRunner

from guide_ext.cli.app import app

MAIN = [sys.executable, "-c", "from guide_ext.cli import main; main()", "serve", "embedded"]
BODY = {"model": "embedded", "prompt": "The cat", "temperature": 5.0, "seed": 1, "max_tokens": 400}


def start(*options):
    return subprocess.Popen(
        [*MAIN, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_from_the_start_to_the_end():
    with start() as process:
        assert select.select([process.stdout], [], [], 120)[0]
        line = process.stdout.readline()
        address = re.fullmatch(
            r"guide-ext serves 'embedded' at (http://127\.0\.0\.1:\d+)/v1\n", line
        )[1]
        answers = []

        def ask():
            answers.append(httpx.post(f"{address}/v1/completions", json=BODY, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        while "guide_batch_rows_count 2.0" not in httpx.get(f"{address}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        asking.join()
        # What had begun was finished.
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] > 100
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


WRONG = [
    (["--host", "0.0.0.0"], "--host must be this machine (127.0.0.1) unless --api-key"),
    (["--host", "192.0.2.1", "--api-key", "k"], "must be an address that is free, got 192.0"),
    (["--delta", "nan"], "delta must be a number of nats from -20 to 20"),
    (["--queue", "0"], "--queue"),
    (["--compile", "3"], "compile must be 0 or a whole number from 16, got 3"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message):
    done = CliRunner().invoke(app, ["serve", "embedded", *options])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
