# SPDX-License-Identifier: MIT
"""Standard streams that are closed or broken, and files that are none: a sentence, or it works."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import pytest
from hostile import MAIN
from typer.testing import CliRunner

from guide_ext.cli import app
from guide_ext.cli.options import read_prompt

EMBEDDED_FOLDER = str(files("guide_ext").joinpath("embedded", "model"))
PROMPT = "<!!->Summarize<-!!> the barn."


def shell(line, *arguments):
    """Run a line of shell in which G is the command line and $1, … its arguments."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; G() {{ {sys.executable} -c '{MAIN}' \"$@\"; }}; {line}",
         "bash", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip


@pytest.mark.parametrize("prompt", [None, "-"])
def test_a_prompt_from_closed_standard_input(monkeypatch, prompt):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input must be open to read the prompt from"):
        read_prompt(prompt, None)


@pytest.mark.long
def test_closed_standard_input():
    done = shell("G spans <&-")
    assert done.returncode == app.BAD_INPUT
    assert done.stderr.startswith("error: standard input must be open to read the prompt from")


@pytest.mark.long
def test_a_prompt_of_its_own_needs_no_standard_input():
    done = shell('G spans "$1" --json <&-', PROMPT)
    assert done.returncode == 0, done.stderr
    assert "barn" in json.loads(done.stdout)["text"]


@pytest.mark.long
def test_closed_standard_output_is_told_and_what_is_saved_is_saved(tmp_path):
    saved = tmp_path / "found.json"
    done = shell('G calibrate "$1" --target 1.5 --out "$2" >&-', PROMPT, saved)
    assert done.returncode == 0, done.stderr
    assert "note: standard output is closed: nothing is shown" in done.stderr
    assert json.loads(saved.read_text(encoding="utf-8"))["delta"] > 0


def test_everything_closed(tmp_path):
    saved = tmp_path / "found.json"
    done = shell('G calibrate "$1" --target 1.5 --out "$2" <&- >&- 2>&-', PROMPT, saved)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(saved.read_text(encoding="utf-8"))["delta"] > 0


@pytest.mark.long
def test_closed_standard_error():
    done = shell('G spans "$1" --nonsense 2>&-; echo "$?"; G spans "$1" --json 2>&-', PROMPT)
    code, record = done.stdout.splitlines()
    assert int(code) == app.BAD_INPUT
    assert "barn" in json.loads(record)["text"]


def test_what_is_opened_does_not_take_the_place_of_a_closed_stream(tmp_path):
    program = (
        "import os, sys\n"
        "from guide_ext.cli.streams import open_what_is_closed\n"
        "open_what_is_closed()\n"
        "file = open(sys.argv[1], 'w')\n"
        "assert file.fileno() > 2, file.fileno()\n"
        "os.write(1, b'a library prints'); print('so do we', file=sys.stderr)\n"
    )
    file = tmp_path / "file"
    done = shell(f'{sys.executable} -c "$1" "$2" <&- >&- 2>&-', program, file)
    assert done.returncode == 0
    assert file.read_text() == ""


@pytest.mark.parametrize("form", [pytest.param("--json", marks=pytest.mark.long), "--chat"])
def test_a_reader_that_leaves(form):
    line = f'G spans "$1" {form} | true; echo "${{PIPESTATUS[0]}}"'
    done = shell(line, PROMPT + " x" * 200)
    assert done.stderr == ""
    assert done.stdout.strip() == "1"


def _unreadable(tmp_path):
    (tmp_path / "binary").write_bytes(b"\x89PNG\xff\x00")
    return {
        tmp_path: "must be a file, got the folder",
        tmp_path / "missing": "must be a file that exists, got",
        tmp_path / "binary": "must be UTF-8 text",
        # There, readable by its owner as ls says, and no byte of it can be read.
        "/proc/self/mem": "must be a file that can be read, got '/proc/self/mem': ",
    }


@pytest.mark.parametrize("command", ["generate", "spans", "influence", "calibrate"])
def test_prompts_in_what_is_no_text_file(tmp_path, command):
    for path, expected in _unreadable(tmp_path).items():
        result = CliRunner().invoke(app.app, [command, "--file", str(path)])
        assert result.exit_code == app.BAD_INPUT, result.output
        assert expected in result.stderr
        assert str(path) in result.stderr
        assert "Errno" not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("generate", PROMPT, "--delta-from", "{folder}"), "--delta-from must be a file, got the"),
        (("generate", PROMPT, "--delta-from", "{folder}/no"), "--delta-from must be a file that e"),
        (("calibrate", PROMPT, "--out", "{folder}"), "--out must be a file, got the folder"),
        (("influence", PROMPT, "--out", "{folder}/no/a.html"), "--out must be in a folder that"),
        (("study", "run", "--out", "{file}"), "--out must be a folder"),
        (("study", "status", "{file}"), "run must be a folder with a manifest.json"),
        (("study", "report", "{file}"), "run must be a folder with a manifest.json"),
        (("study", "report", "{folder}", "--out", "{file}"), "--out must be a folder, got the fi"),
        (
            ("study", "run", "--data", "{folder}", "-m", EMBEDDED_FOLDER),
            "data must be a .jsonl or .parquet",
        ),
    ],
)
def test_other_paths(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)  # where a run without --out would begin
    file = tmp_path / "file"
    file.touch()
    arguments = [argument.format(folder=tmp_path, file=file) for argument in arguments]
    result = CliRunner().invoke(app.app, arguments)
    assert result.exit_code == app.BAD_INPUT, result.output
    assert expected in " ".join(result.stderr.split())
    assert "Errno" not in result.output


@pytest.mark.parametrize("command", ["generate", "influence", "calibrate", "spans", "study"])
@pytest.mark.parametrize("kind", ["file", "folder", "missing"])
def test_models_that_are_none(tmp_path, command, kind):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    words = [PROMPT]
    if command == "study":
        (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
        words = ["run", "json", "--data", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app.app, [command, *words, "--model", str(tmp_path / kind)])
    assert result.exit_code == app.BAD_INPUT, result.output
    assert "error: model must be a checkpoint folder" in result.stderr
    assert str(tmp_path / kind) in result.stderr
