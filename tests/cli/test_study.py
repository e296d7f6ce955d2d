# SPDX-License-Identifier: MIT
"""`guide-ext study`, run as its users run it."""

import json

import pytest
from typer.testing import CliRunner

from guide_ext.cli import app
from guide_ext.studies.registry import STUDIES


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app.app, ["study", *map(str, arguments)])


def test_help_and_list(run):
    for command in ("list", "run", "status", "report"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "--debug" in result.output
    listed = run("list")
    for name, study in STUDIES.items():
        assert name in listed.output
        assert study.paper in listed.output
    assert [study["name"] for study in json.loads(run("list", "--json").stdout)] == list(STUDIES)


def test_from_run_to_report(run, tmp_path):
    folder = tmp_path / "run"
    result = run("run", "json", "norms", "--documents", 1, "--deltas", "0,2", "--out", folder)
    assert result.exit_code == 0, result.output
    assert "JSON" in result.output
    assert "guide-ext study report" in result.output
    assert run("status", folder).output.splitlines() == [
        "json         24 of 24 cells done", "norms        24 of 24 cells done"
    ]  # fmt: skip
    counts = json.loads(run("status", folder, "--json").stdout)
    assert counts["json"] == {"done": 24, "failed": 0, "total": 24}
    again = run("run", "json", "--documents", 1, "--deltas", "0,2", "--out", folder, "--json")
    assert json.loads(again.stdout) == json.loads((folder / "tables.json").read_text())
    made = run("report", folder)
    assert made.exit_code == 0, made.output
    assert (folder / "report.html").exists()
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        "json.png", "norms.png", "norms_by_length.png"
    ]  # fmt: skip


def test_failures_show_in_the_exit_code(run, tmp_path):
    texts = tmp_path / "texts.jsonl"
    lines = [{"text": "The cat sleeps."}, {"text": "The dog runs far away. " * 400}]
    texts.write_text("\n".join(map(json.dumps, lines)))
    result = run(
        "run",
        "french",
        "--data",
        texts,
        "--deltas",
        "0",
        "--samples",
        1,
        "--no-baselines",
        "--out",
        tmp_path / "run",
    )
    assert result.exit_code == 1, result.output
    assert "1 cells failed" in result.output
    assert "1 of 2 cells done, 1 failed" in run("status", tmp_path / "run").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "frnch"], "study must be one of french"),
        (["run", "--deltas", "a,b"], "--deltas must be numbers"),
        (["run", "--model", "x/y"], "data must be given"),
        (["run", "--data", "none.jsonl", "--out", "{out}"], "must be a file that exists"),
        (["run", "sft", "--data", "x.jsonl"], "reference_column must be given for the study sft"),
        (["status", "{out}"], "must be a folder with a manifest.json"),
        (["report", "{out}"], "must be a folder with a manifest.json"),
    ],
)
def test_errors_are_clean(run, tmp_path, arguments, message):
    result = run(*(argument.format(out=tmp_path / "none") for argument in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
