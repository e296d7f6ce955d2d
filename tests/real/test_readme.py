# SPDX-License-Identifier: MIT
"""What the README and the page of good practice show of a real model is what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

from shown_numbers import assert_shown

ROOT = Path(__file__).parents[2]


def test_the_example_prints_what_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```python\n(.*?)```\s+```\n(.*?)```", readme, re.DOTALL)[0]
    assert 'load("smollm2")' in code
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == printed


def test_the_page_of_good_practice_shows_what_the_command_prints():
    page = (ROOT / "docs" / "practice.md").read_text(encoding="utf-8")
    command, shown = re.findall(r"```\n\$ guide-ext (.*?)\n(.*?)```", page, re.DOTALL)[0]
    run = subprocess.run(
        [sys.executable, "-c", "from guide_ext.cli import main; main()", *command.split()],
        cwd=ROOT, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert_shown(run.stdout, shown)
