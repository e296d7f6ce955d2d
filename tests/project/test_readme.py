# SPDX-License-Identifier: MIT
"""What the README shows is what happens: its example runs, its table is the saved run's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LABELS = {"upper": "0, in UPPER CASE", "important": "0, after “Important: ”"}


EXAMPLES = re.findall(r"```python\n(.*?)```\s+```\n(.*?)```", README, re.DOTALL)


# The example of the real model runs with the tests that have it, in tests/real.
HERE = [(code, printed) for code, printed in EXAMPLES if "smollm2" not in code]
# One process for all: it imports transformers first, which takes seconds.
RUN = """
import contextlib, io, json, sys
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {"__name__": "__main__"})
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def test_examples_print_what_the_readme_says():
    run = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps([code for code, _ in HERE]), cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [printed for _, printed in HERE]


@pytest.fixture
def rows():
    saved = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    return saved["tasks"][0]["rows"]


def test_the_table_is_the_one_of_the_saved_demo(rows):
    for row in rows:
        low, high = row["success_interval"]
        label = LABELS.get(row["variant"], f"{row['delta']:g}")
        line = (
            f"| {label} | {row['success']:.1%} | {low:.1%} – {high:.1%} "
            f"| {row['well_formed']:.1%} |"
        )
        assert line in README


def test_the_saved_demo_shows_the_effect_and_its_end(rows):
    guided = {row["delta"]: row for row in rows if row["variant"] == "tags"}
    plain, best = (
        guided[0.0],
        max((guided[delta] for delta in (1.0, 2.0, 3.0)), key=lambda row: row["success"]),
    )
    widths = sum(row["success_interval"][1] - row["success_interval"][0] for row in (plain, best))
    assert best["success"] - plain["success"] > widths
    assert guided[9.0]["success"] < plain["success"]


def test_every_python_block_is_an_example_with_its_output():
    assert len(EXAMPLES) == README.count("```python") == 3


def test_the_first_screen_is_a_sentence_and_an_example():
    before, _, rest = README.partition("## ")
    assert before.count("```python") == before.count('smollm2")') == 1
    assert before.count("![") == 2
    assert len(before.splitlines()) <= 30
    assert rest.startswith("Installation")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_the_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
