# SPDX-License-Identifier: MIT
"""The files of the repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What setuptools adds to the sources.
METADATA = ("PKG-INFO", "setup.cfg", "guide_ext.egg-info/")


def tracked() -> list[str]:
    """Name every file that git tracks, or would; or that came in the source distribution."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
    elif (ROOT / "PKG-INFO").exists():
        listed = (ROOT / "guide_ext.egg-info" / "SOURCES.txt").read_text().splitlines()
    else:
        pytest.skip("neither a git checkout nor a source distribution")
    return [
        name
        for name in listed
        if name and (ROOT / name).is_file() and not name.startswith(METADATA)
    ]
