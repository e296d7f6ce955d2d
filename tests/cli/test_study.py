# SPDX-License-Identifier: MIT
"""`guide-ext study`, run as its users run it."""

import json

import pytest
from typer.testing import CliRunner

from guide_ext.cli import app, complete
from guide_ext.studies.registry import STUDIES
from guide_ext.studies.run.folder import RunFolder


@pytest.fixture
def kept(monkeypatch):
    """Record that memory is to be kept, a setting that would outlive the test."""
    calls = []
    monkeypatch.setattr("guide_ext.machine.memory.keep_freed_memory", lambda: calls.append(1))
    return calls


@pytest.fixture
def run(monkeypatch, kept):
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app.app, ["study", *map(str, arguments)])


def test_help_and_list(run):
    for command in ("list", "run", "status", "report", "heads"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "--debug" in result.output
    listed = run("list")
    for name, one in STUDIES.items():
        assert name in listed.output
        assert one.paper in listed.output
    assert [one["name"] for one in json.loads(run("list", "--json").stdout)] == list(STUDIES)


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


def test_python_docs_from_run_to_report(run, tmp_path):
    folder = tmp_path / "run"
    arguments = (
        "run", "json", "--data", "python-docs", "--documents", 1, "--deltas", "0,2",
        "--windows", 2, "--window-tokens", 150, "--out", folder,
    )  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    before = (folder / "tables.json").read_bytes()
    for shard in sorted((folder / "cells").rglob("*.json"))[::3]:
        shard.unlink()
    assert run(*arguments).exit_code == 0
    assert (folder / "tables.json").read_bytes() == before
    rows = RunFolder(folder).documents().rows
    assert [row.length for row in rows] == [(0, 150), (150, 300)]
    assert run("report", folder).exit_code == 0


def test_heads_are_chosen_and_then_used(run, kept, tmp_path):
    file, texts = tmp_path / "heads.json", ("--data", "python-docs", "--documents", 1)
    result = run("heads", "needle", *texts, "--window-tokens", 100, "--keep", 3, "--out", file)
    assert result.exit_code == 0, result.output
    assert "3 of 16 heads" in result.output
    assert kept == [1]
    chosen = json.loads(file.read_text())["heads"]
    printed = run("heads", "needle", *texts, "--window-tokens", 100, "--keep", 3, "--out", file,
                  "--json")  # fmt: skip
    assert printed.stdout == file.read_text()
    short = ("--windows", 1, "--window-tokens", 100, "--deltas", "0", "--max-new-tokens", 2)
    folder = tmp_path / "run"
    used = run("run", "needle", *texts, *short, "--heads", file, "--out", folder)
    assert used.exit_code == 0, used.output
    assert len(kept) == 3
    settings = RunFolder(folder).settings()
    assert [list(place) for place in settings.heads] == chosen
    rows = next(
        table["rows"]
        for table in json.loads((folder / "tables.json").read_text())["tables"]
        if table["name"] == "needle"
    )
    assert {"Δ = 2, chosen heads", "Δ = 2, PASTA, chosen heads"} <= {
        value for row in rows for value in (row.values() if isinstance(row, dict) else row)
    }
    refused = run(
        "run", "needle", *texts, *short, "--heads", file, "--seed", 7, "--out", tmp_path / "none"
    )
    assert refused.exit_code == 2
    assert "seed must differ" in " ".join(refused.output.split())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["python-docs", "hub:", "more/", "texts.jsonl"]),
        ("py", ["python-docs"]),
        ("te", ["texts.jsonl"]),
        ("more/", ["more/b.parquet"]),
        (".", [".hidden/"]),
        ("none/", []),
    ],
)
def test_the_shell_completes_data(tmp_path, monkeypatch, typed, offered):
    monkeypatch.chdir(tmp_path)
    for name in ("more", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("texts.jsonl", "notes.txt", "more/b.parquet"):
        (tmp_path / name).touch()
    assert complete.complete_data(typed) == offered
    command = f"guide-ext study run --data {typed}"
    completed = CliRunner().invoke(
        app.app,
        prog_name="guide-ext",
        env={"_GUIDE_EXT_COMPLETE": "complete_bash", "COMP_WORDS": command, "COMP_CWORD": "4"},
    )
    assert completed.output.split() == offered


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
        (["heads", "frnch"], "study must be one of french"),
        (["heads", "json", "--data", "python-docs"], "one right answer"),
        (["heads", "needle", "--model", "x/y"], "data must be given"),
        (["heads", "needle", "--keep", 99, "--documents", 1], "keep must be at most"),
        (["heads", "needle", "--out", "{out}/a.json"], "--out must be in a folder that exists"),
        (["status", "{out}"], "must be a folder with a manifest.json"),
        (["report", "{out}"], "must be a folder with a manifest.json"),
    ],
)
def test_errors_are_clean(run, tmp_path, arguments, message):
    result = run(*(str(argument).format(out=tmp_path / "none") for argument in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
