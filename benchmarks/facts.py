# SPDX-License-Identifier: MIT
"""The machine, the build and the sources behind a measurement."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from ceilings import last_level_cache_bytes

from guide_ext.machine.facts import machine_facts
from guide_ext.op import libraries

ROOT = Path(__file__).resolve().parents[1]
# The fact that figures are not those of the instruction set that the machine would choose.
FORCED = "forced instruction set"


def output(*command: str) -> str:
    """Return what a command prints; nothing if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def common_facts() -> dict[str, str]:
    """Name what any figure depends on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git revision": output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def cpu_facts() -> dict[str, str]:
    """Name what a figure of the CPU depends on, and how busy the machine is before the run."""
    status = libraries.library_status()
    facts = {
        **{name: fact for name, fact in machine_facts().items() if name not in ("gpu", "threads")},
        **_processor_details(),
        "instruction set": status.instruction_set or status.reason,
        FORCED: os.environ.get("GUIDE_EXT_CPU_ISA", ""),
        **common_facts(),
        "compiler": output("c++", "--version").partition("\n")[0],
        "last-level cache": f"{last_level_cache_bytes() / 2**20:.0f} MiB",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _processor_details() -> dict[str, str]:
    """Tell processors of one name apart, where Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return {}
    lines = (line.partition(":") for line in cpuinfo.read_text().partition("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    if "cpu family" not in found:
        return {}
    return {"processor family, model": f"{found['cpu family']}, {found.get('model', '?')}"}
