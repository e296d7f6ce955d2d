# SPDX-License-Identifier: MIT
"""Tests of text start at once: neither they nor their helpers import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILES = [TESTS / "conftest.py", *sorted((TESTS / "marking").glob("*.py"))]
IMPORT = """
import importlib.util, sys
path, *sys.path[:0] = sys.argv[1:]
spec = importlib.util.spec_from_file_location("tests_of_text", path)
module = sys.modules["tests_of_text"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_no_torch(path):
    command = [sys.executable, "-c", IMPORT, str(path), str(TESTS), str(TESTS / "helpers")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
