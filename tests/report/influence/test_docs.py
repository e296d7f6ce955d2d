# SPDX-License-Identifier: MIT
"""docs/influence.md says what happens: its examples and its command are executed."""

import doctest
import re
from pathlib import Path

import pytest
import typer
from shown_numbers import assert_shown
from typer.testing import CliRunner

from guide_ext.cli import app
from guide_ext.influence.forms import FORMS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "influence.md"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_examples(tmp_path):
    failed, attempted = doctest.testfile(
        str(PAGE),
        module_relative=False,
        globs={"folder": tmp_path},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 0


def test_the_command_prints_what_the_page_says(tmp_path):
    block = re.search(r"```\n\$ guide-ext (.*?)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    arguments, printed = block.groups()
    files = re.findall(r"--out (\S+)", arguments)
    for file in files:
        arguments = arguments.replace(file, str(tmp_path / Path(file).name))
    result = CliRunner().invoke(app.app, arguments.split(), env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    shown, said = (text.rstrip().rpartition("\n") for text in (result.stdout, printed))
    assert_shown(shown[0], said[0])
    assert said[2] == f"saved: {', '.join(files)}"


def test_every_form_is_described():
    commands = typer.main.get_command(app.app).commands
    for form in FORMS:
        assert f"\n| `{form}` | " in PAGE.read_text("utf-8")
        for command in ("influence", "calibrate"):
            (option,) = (p for p in commands[command].params if p.name == "form")
            assert form in re.findall(r"\w+", option.help)
