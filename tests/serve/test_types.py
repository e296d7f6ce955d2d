# SPDX-License-Identifier: MIT
"""The types of the page's scripts, as `make lint` checks them: they hold, and errors are seen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DENO = shutil.which("deno", path=Path(sys.executable).parent) or shutil.which("deno")
PAGE, SHARED = "guide_ext/serve/page", "guide_ext/report/influence/values.js"
pytestmark = pytest.mark.skipif(DENO is None, reason="no deno: pip install --group lint")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where deno keeps what it knows of its own libraries."""
    return tmp_path_factory.mktemp("deno")


def check(folder, kept):
    return subprocess.run(
        [DENO, "check", "--quiet", PAGE], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "DENO_DIR": str(kept), "DENO_NO_UPDATE_CHECK": "1",
             "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture
def copied(tmp_path):
    for part in ("deno.json", PAGE, SHARED):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return tmp_path


def test_they_hold(copied, kept):
    done = check(copied, kept)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (f"{PAGE}/sources.js", "number(weight)", "number(String(weight))", "Argument of type"),
        (f"{PAGE}/main.js", "told.layers", "told.layer", "Property 'layer' does not exist"),
        (f"{PAGE}/tokens.js", "(token, isStop) {", "(token, isStop, more) {", "implicitly"),
        (SHARED, "@param {number} top", "@param {string} top", "Argument of type"),
    ],
)
def test_errors_are_seen(copied, kept, file, old, new, said):
    path = copied / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = check(copied, kept)
    assert done.returncode != 0
    assert said in done.stderr
