# SPDX-License-Identifier: MIT
"""Tests of text start at once: neither they nor their helpers import torch."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FILES = [TESTS / "conftest.py", *sorted((TESTS / "marking").glob("*.py"))]
IMPORT = """
import importlib.util, sys
sys.path[:0] = sys.argv[1:3]
for path in sys.argv[3:]:
    spec = importlib.util.spec_from_file_location("tests_of_text", path)
    module = sys.modules["tests_of_text"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "torch" not in sys.modules, f"{path} imports torch"
"""


def test_no_file_imports_torch():
    assert len(FILES) > 9
    command = [sys.executable, "-c", IMPORT, TESTS, TESTS / "helpers", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
