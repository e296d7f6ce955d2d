# SPDX-License-Identifier: MIT
"""Progress where there is no terminal: plain lines on standard error, not too many, data apart."""

import json
import os
import subprocess
import sys

import pytest
from hostile import MAIN
from typer.testing import CliRunner

from guide_ext.cli import app as cli
from guide_ext.cli import progress as cli_progress
from guide_ext.cli.progress import Lines, progress

PROMPT = "<!!->Summarize in French<-!!>\nYesterday, the old baker hides the key in the barn."


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return []


def test_lines_are_few_however_many_steps_there_are(clock, written):
    advance = Lines(written.append, clock).counted("cells")
    for done in range(10_001):
        clock.now = done / 100  # 100 a second for 100 seconds
        advance(done, 10_000)
    assert written[0] == "cells: 0 of 10000"
    assert written[1] == "cells: 500 of 10000, 100/s, 1:35 left"
    assert written[-1] == "cells: 10000 of 10000, 100/s"
    assert len(written) == 21


def test_slow_steps_have_a_line_each(clock, written):
    advance = Lines(written.append, clock).counted("answer, tokens", at_most=True)
    for done in (1, 2, 3):
        advance(done, 200)
        clock.now += 8
    assert written == [
        "answer, tokens: 1 of at most 200",
        "answer, tokens: 2 of at most 200, 0.12/s, 26:24 left",
        "answer, tokens: 3 of at most 200, 0.12/s, 26:16 left",
    ]


def test_what_has_no_total_is_counted(clock, written):
    advance = Lines(written.append, clock).counted("forward passes")
    for done in (1, 2):
        advance(done)
        clock.now += 10
    assert written == ["forward passes: 1", "forward passes: 2, 0.1/s"]


def test_a_resumed_run_is_timed_by_what_it_does_itself(clock, written):
    advance = Lines(written.append, clock).counted("cells")
    advance(900, 1000)
    clock.now = 10
    advance(910, 1000)
    assert written[-1] == "cells: 910 of 1000, 1/s, 1:30 left"


def test_the_end_is_told_once(clock, written):
    advance = Lines(written.append, clock).counted("cells")
    for _ in range(3):
        advance(5, 5)
    assert written == ["cells: 5 of 5"]


def test_long_silence_is_broken(clock, written):
    lines = Lines(written.append, clock)
    lines.still_there()  # nothing has begun
    lines.begin("loading the model x")
    clock.now = 59
    lines.still_there()
    clock.now = 61
    lines.still_there()
    lines.still_there()
    assert written == ["loading the model x", "loading the model x, for 1:01"]
    advance = lines.counted("cells")
    advance(0, 8)
    clock.now = 125
    lines.still_there()
    assert written[2:] == ["cells: 0 of 8", "cells: 0 of 8, for 1:04"]


def test_a_silent_command_says_that_it_goes_on(monkeypatch, capfd):
    monkeypatch.setattr(cli_progress, "_SECONDS_OF_SILENCE", 0.02)
    with progress() as shown:
        shown.begin("thinking")
        while capfd.readouterr().err.count("thinking, for 0:00") < 1:
            pass


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (("generate", PROMPT), ("guided answer, tokens: 1 of at most 200",)),
        (("generate", PROMPT, "--compare"), ("plain answer, tokens: 1 of", "guided answer")),
        (("influence", PROMPT), ("plain answer, tokens: 1 of at most 60", "guided answer, tok")),
        (("calibrate", PROMPT, "--target", "1.5"), ("forward passes: 1",)),
        (
            ("demo", "--documents", "2", "--out", "{}"),
            ("guided answers: 2 of 36", "guided answers: 36 of 36", "timed calls: 0 of 24"),
        ),
        (
            ("study", "run", "json", "--documents", "1", "--deltas", "0", "--out", "{}"),
            ("cells: 0 of 18", "cells: 18 of 18"),
        ),
    ],
)
def test_commands_tell_how_far_they_are_and_keep_data_apart(tmp_path, arguments, steps):
    arguments = [argument.format(tmp_path / "out") for argument in arguments]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    lines = result.stderr.splitlines()
    for step in steps:
        assert any(line.startswith(step) for line in lines), lines
    assert len(lines) < 15
    assert "\r" not in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.long
def test_lines_do_not_fall_into_an_answer_that_goes_to_the_same_place(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        subprocess.run(
            [sys.executable, "-c", MAIN, "generate", PROMPT],
            stdout=log, stderr=log, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, check=True,
        )  # fmt: skip
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert text == "loading the model embedded\n Le boulanger cache la clé dans la grange.\n"


def test_work_goes_on_where_nobody_reads_the_progress():
    program = (
        "from guide_ext.cli.progress import progress\n"
        "import sys\n"
        "with progress() as shown:\n"
        "    shown.begin('working')\n"
        "    sys.stdin.read()\n"
        "    advance = shown.counted('steps')\n"
        "    advance(0, 2); advance(2, 2)\n"
        "print('done')\n"
        "sys.stderr = None\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr.readline() == "working\n"
        process.stderr.close()
        process.stdin.close()
        assert process.stdout.read() == "done\n"
