# SPDX-License-Identifier: MIT
"""The package without its compiled library, with a broken one, and with one of other sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "guide_ext"
SOURCES = ("**/*.py", "py.typed")
USE = """
import torch, guide_ext
from guide_ext.op.libraries import library_status
query = torch.ones(1, 2, 3, 8)
out, influence_out, lse = guide_ext.biased_attention(query, query, query, is_causal=True)
print(guide_ext.explain_dispatch(query, query, query).kernel, "|", library_status().reason)
"""


@pytest.fixture
def copy(tmp_path):
    """Copy the Python sources alone; compiled libraries and model files are not needed."""
    for pattern in SOURCES:
        for source in PACKAGE.glob(pattern):
            target = tmp_path / "guide_ext" / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return tmp_path / "guide_ext"


def _use(copy):
    return subprocess.run(  # the working directory comes first on the path: the copy is used
        [sys.executable, "-c", USE],
        cwd=copy.parent,
        env={**os.environ, "PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_library_pure_pytorch_serves_and_says_why(copy):
    run = _use(copy)
    assert run.returncode == 0, run.stderr
    kernel, reason = run.stdout.split("|")
    assert kernel.strip() == "chunked PyTorch"
    assert "was not built" in reason


def test_a_library_that_cannot_be_loaded_is_named(copy):
    (copy / "libguide_ext.so").write_bytes(b"not a library")
    run = _use(copy)
    assert run.returncode == 0, run.stderr
    assert "was built but cannot be loaded" in run.stdout


@pytest.mark.skipif(shutil.which("c++") is None, reason="no c++ to make a library with")
def test_a_library_of_other_sources_is_refused(copy):
    library = copy / "libguide_ext.so"
    subprocess.run(["c++", "-shared", "-x", "c++", os.devnull, "-o", str(library)], check=True)
    run = _use(copy)
    assert run.returncode != 0
    assert "was built from other sources than these" in run.stderr
