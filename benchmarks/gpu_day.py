# SPDX-License-Identifier: MIT
"""Everything that needs a GPU, in about ten minutes: `make gpu`.

Builds with this machine's torch, runs the tests of the op on the GPU, sanitizes, checks graphs and
streams, and times. Every part has a time limit and a log; one that fails does not stop the next,
and one that passed is not repeated until --again. The folder of results is ready to be committed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
NO_GPU = 2


@dataclass(frozen=True)
class Part:
    """A step: commands run one after another, and what their logs say.

    Attributes:
        name: For --only, and of its log.
        seconds: Time limit of all its commands together.
        commands: As for subprocess.
        summarise: From the folder of results and the log, facts for the summary.
        needs: Program without which the part is skipped.

    """

    name: str
    seconds: float
    commands: Sequence[Sequence[str]]
    summarise: Callable[[Path, str], dict[str, Any]] = lambda folder, log: {}
    needs: str | None = None


def parts(folder: Path) -> list[Part]:
    """List every part, in the order in which they run."""
    build_dir = str(ROOT / "build" / "gpu")
    pytest = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    tests = str(folder / "tests.xml")
    return [
        Part(
            "build",
            100,
            [
                [
                    *("cmake", "-S", str(ROOT), "-B", build_dir, "-G", "Ninja"),
                    f"-DPython_EXECUTABLE={PYTHON}",
                    "-DGUIDE_CUDA=ON",
                    "-DGUIDE_CUDA_ARCHITECTURES=80;90",
                ],
                ["cmake", "--build", build_dir],
                ["cmake", "--install", build_dir, "--prefix", str(ROOT)],
            ],
        ),
        Part(
            "tests",
            110,
            [
                [
                    *(*pytest, "tests/test_attention.py", "tests/test_autograd.py"),
                    *("-k", "cuda", f"--junitxml={tests}"),
                ]
            ],
            lambda folder, log: count_tests(folder / "tests.xml"),
        ),
        Part(
            "probes",
            40,
            [[*pytest, "tests/test_cuda_probes.py"]],
            lambda folder, log: _read_json(folder / "probes.json"),
        ),
        Part("checks", 60, [[PYTHON, "benchmarks/gpu_checks.py"]], lambda f, log: last_json(log)),
        Part(
            "sanitize",
            120,
            [
                [
                    *("compute-sanitizer", f"--tool={tool}", "--error-exitcode=9"),
                    *(PYTHON, "benchmarks/gpu_checks.py", "--calls"),
                ]
                for tool in SANITIZERS
            ],
            lambda folder, log: {"errors": re.findall(r"ERROR SUMMARY: (\d+)", log)},
            needs="compute-sanitizer",
        ),
        Part(
            "bench",
            165,
            [[PYTHON, "benchmarks/gpu_bench.py", "--out", str(folder), "--seconds", "140"]],
        ),
    ]


def run_part(part: Part, folder: Path) -> dict[str, Any]:
    """Run the commands of a part; every one of them, unless time runs out."""
    if part.needs is not None and shutil.which(part.needs) is None:
        return {"state": "skipped", "why": f"no {part.needs} on PATH"}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks")),
        "PYTHONUNBUFFERED": "1",
        "GUIDE_PROBE_SUMMARY": str(folder / "probes.json"),
    }
    log_path, begin, codes = folder / f"{part.name}.log", time.monotonic(), []
    with log_path.open("w") as log:
        for command in part.commands:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            left = part.seconds - (time.monotonic() - begin)
            codes.append(_run(command, log, max(left, 1.0), environment))
    text = log_path.read_text(errors="replace")
    record: dict[str, Any] = {
        "state": "passed" if not any(codes) else "failed",
        "exit_codes": codes,
        "seconds": round(time.monotonic() - begin, 1),
    }
    try:
        record |= {"found": part.summarise(folder, text)}
    except (OSError, ValueError, ElementTree.ParseError) as error:
        record |= {"found": f"no summary: {error}"}
    if record["state"] == "failed":
        record["last_lines"] = text.splitlines()[-12:]
    return record


def _run(command: Sequence[str], log: Any, seconds: float, environment: dict[str, str]) -> int:
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        log.write(f"stopped after {seconds:.0f} s\n")
        return 124
    except OSError as error:
        log.write(f"{error}\n")
        return 127
    return done.returncode


def count_tests(path: Path) -> dict[str, Any]:
    """Read a JUnit file: how many ran, and which failed."""
    suite = ElementTree.parse(path).getroot()
    cases = suite.iter("testcase")
    outcome: dict[str, list[str]] = {"failed": [], "skipped": [], "passed": []}
    for case in cases:
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else ""
        outcome[kind or "passed"].append(f"{case.get('classname')}::{case.get('name')}")
    return {
        "passed": len(outcome["passed"]),
        "skipped": len(outcome["skipped"]),
        "failed": outcome["failed"],
    }


def last_json(log: str) -> dict[str, Any]:
    """Return the JSON object that ends a log."""
    begin = log.rfind("\n{")
    found: dict[str, Any] = json.loads(log[begin + 1 :])
    return found


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def summary_page(state: dict[str, Any], machine: dict[str, str]) -> str:
    """Write what failed first, then the machine, then every part."""
    failed = [name for name, record in state.items() if record["state"] == "failed"]
    verdict = f"Failed: {', '.join(failed)}." if failed else "Nothing failed."
    lines = ["# A run on a GPU", "", verdict, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine.items()]
    lines += ["", "| part | | seconds | |", "|---|---|---:|---|"]
    for name, record in state.items():
        found = json.dumps(record.get("found", record.get("why", "")))
        short = found if len(found) < 400 else f"{found[:400]}…"
        seconds = record.get("seconds", "")
        lines.append(f"| {name} | {record['state']} | {seconds} | {short.replace('|', '/')} |")
    for name in failed:
        lines += ["", f"## {name}", "", "```", *state[name].get("last_lines", []), "```"]
    return "\n".join([*lines, "", "Times: [bench.md](bench.md).", ""])


def run_all(chosen: Sequence[Part], folder: Path, again: bool) -> dict[str, Any]:
    """Run what was not passed before; keep the state after every part."""
    path = folder / "state.json"
    state: dict[str, Any] = _read_json(path) if path.exists() else {}
    begin = time.monotonic()
    for part in chosen:
        if not again and state.get(part.name, {}).get("state") == "passed":
            sys.stdout.write(f"{part.name}: passed before\n")
            continue
        sys.stdout.write(f"[{time.monotonic() - begin:5.0f} s] {part.name} …\n")
        sys.stdout.flush()
        state[part.name] = run_part(part, folder)
        sys.stdout.write(f"{part.name}: {state[part.name]['state']}\n")
        path.write_text(json.dumps(state, indent=1) + "\n")
    return state


def _machine() -> dict[str, str]:
    """Ask in another process: the library of this one may be older than the build."""
    code = "import json, gpu_facts; print(json.dumps(gpu_facts.gpu_facts()))"
    path = os.pathsep.join(str(ROOT / name) for name in (".", "benchmarks"))
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {"unknown": done.stderr[-200:]}


def main() -> int:
    """Run the parts; 0 if all passed, 1 if one failed, 2 without a GPU."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of results")
    parser.add_argument("--only", help="parts, such as build,tests")
    parser.add_argument("--again", action="store_true", help="repeat parts that passed before")
    parser.add_argument("--dry-run", action="store_true", help="list the parts and their commands")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.dry_run:
        sys.stderr.write(
            "make gpu needs a CUDA device and a torch built with CUDA: there is none\n"
        )
        return NO_GPU
    name = torch.cuda.get_device_name().replace(" ", "-") if has_gpu else "no-gpu"
    day = datetime.date.today().isoformat()
    folder = (options.out or ROOT / "benchmarks" / "results" / f"{name}-{day}").resolve()
    chosen = parts(folder)
    if options.only:
        wanted = options.only.split(",")
        if unknown := set(wanted) - {part.name for part in chosen}:
            parser.error(f"--only must name parts of {[p.name for p in chosen]}, got {unknown}")
        chosen = [part for part in chosen if part.name in wanted]
    if options.dry_run:
        for part in chosen:
            sys.stdout.write(f"{part.name} (at most {part.seconds:.0f} s)\n")
            sys.stdout.writelines(f"    {' '.join(command)}\n" for command in part.commands)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    state = run_all(chosen, folder, options.again)
    (folder / "summary.md").write_text(summary_page(state, _machine()))
    sys.stdout.write(f"results: {folder}\n")
    return int(any(record["state"] == "failed" for record in state.values()))


if __name__ == "__main__":
    sys.exit(main())
