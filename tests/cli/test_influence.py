# SPDX-License-Identifier: MIT
"""`guide-ext influence`, run as its users run it."""

import io
import json

import pytest
from pages import DOCUMENT, STEERED, TWO_GROUPS, Reader, hostile_record, pixels
from rich.console import Console
from typer.testing import CliRunner

from guide_ext.cli import app
from guide_ext.cli.terminal import influence_table
from guide_ext.integration.compare import END_TOKENS
from guide_ext.report.influence.page import InfluenceReport

pytest_plugins = ["influence_record"]


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(
        app.app, ["influence", *map(str, arguments)], input=stdin, env={"COLUMNS": "120"}
    )


def test_the_command_writes_page_picture_and_numbers(run, tmp_path):
    files = [tmp_path / f"report{suffix}" for suffix in (".html", ".png", ".json")]
    outs = [argument for file in files for argument in ("--out", file)]
    result = run(TWO_GROUPS, "--max-new-tokens", "8", *outs)
    assert result.exit_code == 0, result.output
    for word in ("rule", "place", "plain", "guided (Δ = 2)", "answer", f"last {END_TOKENS} tokens"):
        assert word in result.output
    Reader(files[0].read_text(encoding="utf-8"))
    assert pixels(files[1]).std() > 0
    saved = json.loads(files[2].read_text(encoding="utf-8"))
    assert saved["model"] == "embedded"
    summary = saved["runs"][1]["summary"][0]
    assert f"{summary['end_of_prompt']:.4f}" in result.output
    assert all(str(file) in result.output for file in files)


def test_json_on_standard_output_is_the_record(run, tmp_path):
    file = tmp_path / "a.json"
    result = run(STEERED, "--json", "--delta", "1", "--form", "exact", "--out", file)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(file.read_text(encoding="utf-8"))
    assert (found["settings"]["form"], found["settings"]["delta"]) == ("exact", 1.0)


def test_help_teaches(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in ("<?->", "<!!->", "report.html", "--form", "rollout"):
        assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((DOCUMENT,), "prompt must mark the text whose Influence is wanted"),
        (("<?-> never closed",), "never closed"),
        ((STEERED, "--form", "best"), "form must be one of 'paper', 'exact'"),
        ((STEERED, "--delta", "inf"), "delta must be"),
        (
            (STEERED, "--out", "report.pdf"),
            "--out must end in .html, .png, .json, got 'report.pdf'",
        ),
        ((STEERED, "--out", "report"), "--out must end in"),
        ((STEERED, "--out", "no-such-folder/a.html"), "--out must be in a folder that exists"),
        ((STEERED, "--max-new-tokens", "0"), "--max-new-tokens"),
        ((STEERED, "--temperature", "1e-40"), "temperature must be 0 (greedy) or"),
        ((STEERED, "--model", "./no-such-folder"), "no-such-folder"),
    ],
)
def test_bad_input_is_one_clean_message_and_exit_code_2(run, arguments, expected):
    result = run(*arguments)
    assert result.exit_code == app.BAD_INPUT, result.output
    assert expected in result.output
    assert "Traceback" not in result.output


def test_out_is_checked_before_a_model_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr("guide_ext.integration.load", None)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.html", tmp_path / "file" / "a.png"):
        result = run(STEERED, "--out", path)
        assert result.exit_code == app.BAD_INPUT
        assert "--out must be" in result.output


def test_a_disk_that_refuses_is_told(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(InfluenceReport, "save", refuse)
    result = run(STEERED, "--max-new-tokens", "1", "--out", tmp_path / "a.html")
    assert result.exit_code == app.BAD_INPUT
    assert "--out cannot be written" in result.output
    assert "No space left" in result.output


def test_texts_in_the_terminal_are_never_read_as_markup(record):
    hostile = hostile_record(record)
    name = hostile["groups"][0]
    hostile["groups"][0] = "[b][/zz]"
    hostile["prompt"]["groups"]["[b][/zz]"] = hostile["prompt"]["groups"].pop(name)
    hostile["settings"]["form"] = "[/zz]"
    for run in hostile["runs"]:
        run["summary"][0]["group"] = "[b][/zz]"
    hostile["runs"][0]["answer"] = "[/zz]\x1b[31m"
    console = Console(width=100, file=io.StringIO())
    console.print(influence_table(hostile))
    assert "[b][/zz]" in console.file.getvalue()
    assert "\x1b" not in console.file.getvalue()
