# SPDX-License-Identifier: MIT
"""The parts of `make gpu`: their commands, and what the outputs of these say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SECONDS = "{seconds}"  # in a command: what is left for it

Findings = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A step: commands run one after another, and what their outputs say.

    Attributes:
        name: For --only, and in the log.
        seconds: Time limit of all its commands together.
        commands: As for subprocess.
        summarise: From the folder of results and the output of every command, facts for the
            summary. A "state" among them replaces the one that the exit codes give.
        needs: Program without which the part is skipped.
        needs_kernels: Whether the part means nothing unless the CUDA kernels serve: chunked PyTorch
            would take their place, and be right.
        still_holds: Command that fails if the part must be repeated although it passed before.
        environment: Variables.

    """

    name: str
    seconds: float
    commands: Sequence[Sequence[str]]
    summarise: Callable[[Path, list[str]], Findings] = lambda folder, outputs: {}
    needs: str | None = None
    needs_kernels: bool = False
    still_holds: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def parts(folder: Path, scratch: Path) -> list[Part]:
    """List every part, in the order in which they run."""
    build_dir = str(ROOT / "build" / "gpu")
    pytest = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--maxfail=50")
    checks = (PYTHON, "benchmarks/gpu_checks.py")
    tests, probes, probe_tests = (scratch / n for n in ("tests.xml", "probes.json", "probes.xml"))
    configure = (
        *(
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            build_dir,
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={PYTHON}",
        ),
        *("-DGUIDE_CUDA=ON", "-DGUIDE_CUDA_ARCHITECTURES=80;90"),
    )
    op_tests = (
        *(
            "tests/op/test_attention.py",
            "tests/op/test_bias_range.py",
            "tests/op/test_derivatives.py",
        ),
        *("-k", "cuda"),
    )
    # Kernels of this package alone: their mangled names hold its namespace.
    sanitizer = ("compute-sanitizer", "--error-exitcode=9", "--kernel-regex=kns=guide")
    profiler = (
        *("ncu", "--clock-control=none", "--kernel-name=regex:forward_kernel"),
        *("--launch-count=1", "--set=detailed"),
    )
    return [
        Part(
            "build",
            150,
            [
                configure,
                ("cmake", "--build", build_dir),
                ("cmake", "--install", build_dir, "--prefix", str(ROOT)),
                SERVES,
            ],
            still_holds=SERVES,
        ),
        Part("checks", 90, [checks], lambda _, outputs: last_json(outputs[0]), needs_kernels=True),
        Part(
            "tests",
            180,
            [(*pytest, *op_tests, f"--junitxml={tests}")],
            lambda _, outputs: count_tests(tests),
            needs_kernels=True,
        ),
        Part(
            "probes",
            60,
            [(*pytest, "tests/cuda/test_probes.py", f"--junitxml={probe_tests}")],
            lambda _, outputs: count_tests(probe_tests) | json.loads(probes.read_text()),
            environment={"GUIDE_PROBE_SUMMARY": str(probes)},
        ),
        Part(
            "sanitize",
            150,
            [(*sanitizer, f"--tool={t}", *checks, "--only", "small_calls") for t in SANITIZERS],
            lambda _, outputs: sanitizer_findings(outputs),
            needs="compute-sanitizer",
            needs_kernels=True,
            # Every tensor an allocation of its own: what is beside one is then nobody's.
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        ),
        Part(
            "bench",
            240,
            [(PYTHON, "benchmarks/gpu_bench.py", "--out", str(folder), "--seconds", SECONDS)],
            needs_kernels=True,
        ),
        Part(
            "profile",
            60,
            [(PYTHON, "benchmarks/gpu_sass.py"), (*profiler, *checks, "--only", "large_call")],
            lambda _, outputs: profile_findings(outputs),
            needs_kernels=True,
        ),
    ]


TOOLS = "GUIDE_GPU_TOOLS"  # folders, written as in PATH
SERVES = (PYTHON, "benchmarks/gpu_checks.py", "--only", "dispatch")


def search_path() -> str:
    """Extend PATH by where cmake, ninja, and the tools of CUDA may be besides.

    The folder of nvcc is that of the toolkit; `TOOLS` names others, as of a profiler that is
    installed apart from it.
    """
    nvcc = subprocess.run(
        [PYTHON, str(ROOT / "cmake" / "find_nvcc.py")], capture_output=True, text=True, check=False
    ).stdout
    folders = [
        sysconfig.get_path("scripts"),
        os.environ["PATH"],
        *([str(Path(nvcc).parent)] if nvcc else []),
        os.environ.get(TOOLS, ""),
    ]
    return os.pathsep.join(filter(None, folders))


def is_missing(program: str | None, path: str) -> bool:
    """Say whether a program is needed and not there."""
    return program is not None and shutil.which(program, path=path) is None


def count_tests(path: Path) -> Findings:
    """Read a JUnit file: how many ran, and which failed. None at all is a failure."""
    outcome: dict[str, list[str]] = {"failed": [], "skipped": [], "passed": []}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else ""
        outcome[kind or "passed"].append(f"{case.get('classname')}::{case.get('name')}")
    found: Findings = {
        "passed": len(outcome["passed"]),
        "skipped": len(outcome["skipped"]),
        "failed": outcome["failed"],
    }
    return found if outcome["passed"] else found | {"state": "failed"}


def last_json(output: str) -> Findings:
    """Return the JSON object that ends an output."""
    found: Findings = json.loads(output[output.rfind("\n{") + 1 :])
    return found


def profile_findings(outputs: list[str]) -> Findings:
    """Give the hashes, and whether the profiler could read counters; the run needs neither."""
    profiled = len(outputs) > 1 and "Duration" in outputs[1]
    found: Findings = {"ncu": "in the log" if profiled else "no counters", "state": "passed"}
    try:
        return found | {"SASS": last_json(outputs[0])}
    except (ValueError, IndexError):
        return found | {"SASS": "no cuobjdump"}


_REFUSALS = re.compile(r"Device not supported|not supported on this|Unable to find injection", re.I)
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")


def sanitizer_findings(outputs: list[str]) -> Findings:
    """Say of every tool what it counted.

    A summary of no errors is worth nothing unless the program that was watched came to its end.
    """
    found: Findings = {}
    for tool, output in zip(SANITIZERS, outputs, strict=False):
        summary = _SUMMARY.search(output)
        if refusal := _REFUSALS.search(output):
            found[tool] = f"refused: {refusal[0]}"
        elif '"small_calls": "passed"' not in output:
            found[tool] = "the calls did not pass"
        else:
            found[tool] = summary[1] if summary else "no summary"
    clean = [word for word in found.values() if word.startswith(("0 errors", "0 hazards"))]
    refused = [word for word in found.values() if word.startswith("refused")]
    if len(clean) + len(refused) < len(SANITIZERS):
        return found | {"state": "failed"}
    return found | {"state": "passed" if clean else "skipped"}
