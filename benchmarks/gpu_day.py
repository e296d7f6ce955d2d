# SPDX-License-Identifier: MIT
"""Everything that needs a GPU, in about ten minutes: `make gpu`.

Builds with this machine's torch, runs the tests of the op on the GPU, sanitizes, checks graphs and
streams, and times. Every part has a time limit; one that fails does not stop the next, and one that
passed is not repeated, unless the sources changed or --again says so. The folder of results is
ready to be committed: summary.md, state.json, log.txt, and the benchmark's bench.md and bench.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent))  # also when it is loaded from its path
from gpu_parts import PYTHON, ROOT, SECONDS, SERVES, TOOLS, Part, is_missing, parts, search_path

NO_GPU = 2
LEAST_SECONDS = 20  # with less, a part is not begun
RESERVE_SECONDS = 30  # what a benchmark needs beyond the time that it is told
KEPT_BYTES = 1 << 20  # of the output of a command
LOG_BYTES = 12 << 20

State = dict[str, dict[str, Any]]


class Day:
    """One run: where results go, when it ends, and what is known of the machine."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """Read what earlier runs left in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.sources = sources_digest()
        self.path = search_path()
        self._state_path = folder / "state.json"
        self.state: State = (
            json.loads(self._state_path.read_text()) if self._state_path.exists() else {}
        )
        self._serves: bool | None = None

    def say(self, text: str) -> None:
        """Print a line with the time."""
        sys.stdout.write(f"[{time.monotonic() - self.begin:5.0f} s] {text}\n")
        sys.stdout.flush()

    def run(self, chosen: Sequence[Part], again: bool = False) -> None:
        """Run what has not passed before; write state and summary after every part."""
        for part in chosen:
            if not again and self._holds(part):
                self.say(f"{part.name}: passed before")
                continue
            if why := self._obstacle(part):
                record = {"state": "skipped" if part.needs and "PATH" in why else "not run"}
                record["why"] = why
            else:
                self.say(f"{part.name} …")
                record = self._run_part(part)
            self.say(f"{part.name}: {record['state']} {record.get('why', '')}")
            self.state[part.name] = record | {"sources": self.sources}
            self._state_path.write_text(json.dumps(self.state, indent=1) + "\n")
            (self.folder / "summary.md").write_text(summary_page(self.state, machine(self)))

    def _holds(self, part: Part) -> bool:
        record = self.state.get(part.name, {})
        if record.get("state") != "passed" or record.get("sources") != self.sources:
            return False
        # What was built on another machine is not here.
        return part.still_holds is None or self._call(part.still_holds, 60)[0] == 0

    def _obstacle(self, part: Part) -> str | None:
        """Say why a part is not begun."""
        if is_missing(part.needs, self.path):
            return f"no {part.needs} on PATH or beside nvcc"
        if self.end - time.monotonic() < LEAST_SECONDS:
            return "out of time"
        if part.needs_kernels:
            if not self._serves:
                self._serves = self._call(SERVES, 60)[0] == 0
            if not self._serves:
                return "the CUDA kernels do not serve; see the part build"
        return None

    def _run_part(self, part: Part) -> dict[str, Any]:
        begin = time.monotonic()
        end = min(begin + part.seconds, self.end)
        codes: list[int | None] = []
        outputs: list[str] = []
        for command in part.commands:
            left = end - time.monotonic()
            if left < 1:
                codes.append(None)  # not begun
                continue
            told = str(max(1, int(left - RESERVE_SECONDS)))
            command = [told if word == SECONDS else word for word in command]
            code, output = self._call(command, left, part.environment)
            codes.append(code)
            outputs.append(output)
            self._log(part.name, command, code, output)
        record: dict[str, Any] = {
            "state": "passed" if all(code == 0 for code in codes) else "failed",
            "exit_codes": codes,
            "seconds": round(time.monotonic() - begin, 1),
        }
        try:
            found = part.summarise(self.folder, outputs)
            record["state"] = found.pop("state", record["state"])
            record["found"] = found
        except (OSError, ValueError, IndexError, ElementTree.ParseError) as error:
            record |= {"state": "failed", "found": f"no summary: {scrubbed(str(error))}"}
        if record["state"] == "failed":
            record["last_lines"] = scrubbed("\n".join(outputs)).splitlines()[-12:]
        return record

    def _call(
        self, command: Sequence[str], seconds: float, variables: Any = None
    ) -> tuple[int, str]:
        """Run a command and everything that it starts, which ends with it."""
        environment = os.environ | {
            "PATH": self.path,
            "PYTHONPATH": os.pathsep.join(
                str(ROOT / n) for n in (".", "tests/helpers", "benchmarks")
            ),
            "PYTHONUNBUFFERED": "1",
            **(variables or {}),
        }
        with (self.folder / "running.log").open("w+b") as output:
            try:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return 127, f"{error}\n"
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = 124
            finally:
                # A tool that watches a program leaves it running, on the GPU, when it is killed.
                _kill_group(process)
            output.seek(0)
            text = output.read().decode(errors="replace")
        (self.folder / "running.log").unlink()
        return code, text + (f"stopped after {seconds:.0f} s\n" if code == 124 else "")

    def _log(self, name: str, command: Sequence[str], code: int, output: str) -> None:
        """Append an output to the log, its middle left out where it is too long."""
        if len(output) > KEPT_BYTES:
            output = f"{output[: KEPT_BYTES // 4]}\n[…]\n{output[-3 * KEPT_BYTES // 4 :]}"
        text = scrubbed(f"==== {name}: {' '.join(command)}\n{output}---- exit status {code}\n\n")
        path = self.folder / "log.txt"
        before = path.read_text() if path.exists() else ""
        path.write_text((before + text)[-LOG_BYTES:])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def scrubbed(text: str) -> str:
    """Take the folders of this machine out of what is published."""
    return text.replace(str(ROOT), ".").replace(sys.prefix, "python")


def sources_digest() -> str:
    """Identify what is built and measured, where there may be no git."""
    digest = hashlib.sha256()
    files = [ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").rglob("*.*"))]
    files += [path for path in sorted((ROOT / "csrc").rglob("*")) if path.is_file()]
    for path in [*files, *sorted((ROOT / "guide_ext").rglob("*.py"))]:
        if "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def machine(day: Day) -> dict[str, str]:
    """Ask in another process: the library of this one may be older than the build."""
    facts = {"sources": day.sources}
    code = "import json, gpu_facts; print('\\n' + json.dumps(gpu_facts.gpu_facts()))"
    status, output = day._call([PYTHON, "-c", code], 60)
    try:
        asked: dict[str, str] = json.loads(output[output.rfind("\n{") + 1 :])
        return facts | asked
    except ValueError:
        return facts | {"unknown": f"exit status {status}: {scrubbed(output)[-200:]}"}


def summary_page(state: State, facts: dict[str, str]) -> str:
    """Write what failed first, then the machine, then every part."""
    failed = [name for name, record in state.items() if record["state"] == "failed"]
    undone = [name for name, record in state.items() if record["state"] == "not run"]
    verdict = f"Failed: {', '.join(failed)}." if failed else "Nothing failed."
    verdict += f" Not run: {', '.join(undone)}." if undone else ""
    lines = ["# A run on a GPU", "", verdict, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "| part | | seconds | |", "|---|---|---:|---|"]
    for name, record in state.items():
        found = json.dumps(record.get("found", record.get("why", "")))
        short = found if len(found) < 400 else f"{found[:400]}…"
        other = "" if record.get("sources") == facts.get("sources") else " (of other sources)"
        row = (name, record["state"] + other, record.get("seconds", ""), short.replace("|", "/"))
        lines.append(f"| {' | '.join(map(str, row))} |")
    for name in failed:
        lines += ["", f"## {name}", "", "```", *state[name].get("last_lines", []), "```"]
    return "\n".join([*lines, "", "Times: [bench.md](bench.md). Outputs: log.txt.", ""])


def main() -> int:
    """Run the parts; 0 if all is done, 1 if a part failed or was not run, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{TOOLS} names the folders, written as in PATH, of CUDA tools such as ncu that are "
        "neither on PATH nor beside nvcc.",
    )
    parser.add_argument("--out", type=Path, help="folder of results")
    parser.add_argument("--only", help="parts, such as build,tests")
    parser.add_argument("--seconds", type=float, default=570.0, help="of all parts together")
    parser.add_argument("--again", action="store_true", help="repeat parts that passed before")
    parser.add_argument("--dry-run", action="store_true", help="list the parts and their commands")
    options = parser.parse_args()
    import torch

    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.dry_run:
        sys.stderr.write(
            "make gpu needs a CUDA device and a torch built with CUDA: there is none\n"
        )
        return NO_GPU
    name = torch.cuda.get_device_name().replace(" ", "-") if has_gpu else "no-gpu"
    today = datetime.date.today().isoformat()
    folder = (options.out or ROOT / "benchmarks" / "results" / f"{name}-{today}").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = parts(folder, Path(scratch))
        wanted = options.only.split(",") if options.only else [part.name for part in chosen]
        if unknown := set(wanted) - {part.name for part in chosen}:
            parser.error(f"--only must name parts of {[p.name for p in chosen]}, got {unknown}")
        chosen = [part for part in chosen if part.name in wanted]
        if options.dry_run:
            for part in chosen:
                sys.stdout.write(f"{part.name} (at most {part.seconds:.0f} s)\n")
                sys.stdout.writelines(f"    {' '.join(command)}\n" for command in part.commands)
            return 0
        day = Day(folder, options.seconds)
        day.run(chosen, options.again)
    sys.stdout.write(f"results: {folder}\n")
    return int(any(day.state[part.name]["state"] in ("failed", "not run") for part in chosen))


if __name__ == "__main__":
    sys.exit(main())
