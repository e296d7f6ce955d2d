# SPDX-License-Identifier: MIT
"""What a process does with the memory that it frees."""

import os
import platform
import subprocess
import sys

import pytest

IS_GLIBC = platform.libc_ver()[0] == "glibc"
# Prints whether memory is kept, and how many pages the system had to hand out anew.
PROGRAM = """
import resource, sys, torch
from guide_ext.machine.memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()

def faults():
    for _ in range(5):
        one = torch.ones(10_000_000)
        other = one + 1
        del one, other
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
print(kept, faults() - before)
"""


def run(how, **variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env={**environment, **variables}, check=True,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not IS_GLIBC, reason="another C library")
def test_what_is_freed_is_used_again():
    """Five times two tensors of 40 MB, in whatever pages; the place of one may be new."""
    kept, faults = run("keep")
    assert kept
    assert run("not")[1] > 4 * max(faults, 50)


@pytest.mark.skipif(not IS_GLIBC, reason="another C library")
def test_settings_of_the_user_stay():
    assert run("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0] is False
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] is False
