# SPDX-License-Identifier: MIT
"""The types of the page's scripts, as `make lint` checks them: they hold, and errors are seen."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DENO = shutil.which("deno", path=Path(sys.executable).parent) or shutil.which("deno")
PAGE, SHARED = "guide_ext/serve/page", "guide_ext/report/influence/values.js"
pytestmark = pytest.mark.skipif(DENO is None, reason="no deno: pip install --group lint")


# File, what stands there, what is written in its place; the file of the error, and its words.
ERRORS = {
    "a wrong type": (f"{PAGE}/sources.js", "number(weight)", "number(String(weight))",
                     f"{PAGE}/sources.js", "'string' is not assignable to parameter of type 'numb"),
    "no such field": (f"{PAGE}/main.js", "told.layers", "told.layer",
                      f"{PAGE}/main.js", "Property 'layer' does not exist"),
    "no type": (f"{PAGE}/tokens.js", "(token, isStop) {", "(token, isStop, more) {",
                f"{PAGE}/tokens.js", "Parameter 'more' implicitly"),
    "what the page shares": (SHARED, "@param {number} top", "@param {string} top",
                             f"{PAGE}/influence.js", "'number' is not assignable to parameter"),
}  # fmt: skip


def check(folder):
    """Check the types of a copy of the scripts. Deno keeps beside it what it knows of its own."""
    return subprocess.run(
        [DENO, "check", "--quiet", PAGE], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "DENO_DIR": str(folder.parent / "deno"), "DENO_NO_UPDATE_CHECK": "1",
             "NO_COLOR": "1"},
    )  # fmt: skip


def copied(folder):
    for part in ("deno.json", PAGE, SHARED):
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return folder


@pytest.fixture(scope="module")
def with_errors(tmp_path_factory):
    """What is said of all errors at once: a check takes seconds, and tells every error."""
    folder = copied(tmp_path_factory.mktemp("types") / "wrong")
    for file, old, new, _, _ in ERRORS.values():
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    return check(folder)


def test_they_hold(tmp_path):
    done = check(copied(tmp_path / "right"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("seen_in", "said"), [error[3:] for error in ERRORS.values()], ids=ERRORS)
def test_errors_are_seen(with_errors, seen_in, said):
    assert with_errors.returncode != 0
    # An error is its words, the line, and where that is.
    found = re.findall(r"\[ERROR\]: (.+)\n(?:.*\n){2} +at file://(.+?):", with_errors.stderr)
    assert [words for words, file in found if said in words and file.endswith(f"/{seen_in}")]
