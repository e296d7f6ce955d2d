# SPDX-License-Identifier: MIT
"""Versions of transformers that nobody has tried are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("version", ["5.22.1", "5.25.0"])
def test_other_versions_of_transformers_are_refused(version):
    program = (
        f"import transformers; transformers.__version__ = {version!r}; import guide_ext.integration"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f">= 5.23 and < 5.25, got {version}" in done.stderr
