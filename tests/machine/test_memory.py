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


def started(program, *arguments):
    """Return what a program prints, in a process whose user has set nothing."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, check=True,
        capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip


def run(how):
    kept, faults = started(PROGRAM, how).split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not IS_GLIBC, reason="another C library")
def test_what_is_freed_is_used_again():
    """Five times two tensors of 40 MB, in whatever pages; the place of one may be new."""
    kept, faults = run("keep")
    assert kept
    assert run("not")[1] > 4 * max(faults, 50)


SETTING = """
import os, sys
from guide_ext.machine.memory import keep_freed_memory
print(keep_freed_memory())
os.environ[sys.argv[1]] = sys.argv[2]
print(keep_freed_memory())
"""


@pytest.mark.skipif(not IS_GLIBC, reason="another C library")
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")],
)
def test_settings_of_the_user_stay(name, value):
    assert started(SETTING, name, value).split() == ["True", "False"]
