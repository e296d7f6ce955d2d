# SPDX-License-Identifier: MIT
"""Time the forward kernel on a GPU beside what PyTorch offers, each verified first.

    PYTHONPATH=.:tests/helpers:benchmarks python benchmarks/gpu_bench.py --out results --seconds 200

Implementations take turns, with the second-level cache emptied before every call. Writes bench.json
with every sample, and bench.md. `make gpu` runs it with everything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_attention import IMPLEMENTATIONS, PROBLEMS, SMOKE
from gpu_facts import ceilings, gpu_facts
from problems import Inputs, Problem
from sampling import OUT_OF_TIME, figures, prepare

OURS = "guide, bias + 1 channel"
FEWEST_SAMPLES, MOST_SAMPLES = 5, 30
# More than any second-level cache. Filling it takes 0.4 ms at 2.7 TB/s: meanwhile the call behind
# it is queued, and what Python takes to make the call is not timed.
CACHE_BYTES = 1 << 30


class Timer:
    """Times single calls on a device, from an empty cache."""

    def __init__(self, device: torch.device) -> None:
        """Take the memory that empties the cache."""
        self.is_cuda = device.type == "cuda"
        size = CACHE_BYTES if self.is_cuda else 1 << 20
        self._cache = torch.empty(size, dtype=torch.uint8, device=device)

    def __call__(self, run: Callable[[], object]) -> float:
        """Return the milliseconds of one call."""
        self._cache.zero_()
        if not self.is_cuda:
            begin = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - begin)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        run()
        events[1].record()
        events[1].synchronize()
        return events[0].elapsed_time(events[1])


def measure(
    problem: Problem, device: torch.device, seconds: float, end: float = float("inf")
) -> dict[str, Any]:
    """Time all implementations of a problem in turns."""
    torch.manual_seed(0)
    inputs = Inputs.draw(problem, device)
    prepared = prepare(inputs, IMPLEMENTATIONS, end)
    calls, timer = prepared.calls, Timer(device)
    for run in calls.values():  # clocks fall while something is compiled
        timer(run)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    enough = time.monotonic() + seconds
    for index in range(MOST_SAMPLES):
        if index >= FEWEST_SAMPLES and time.monotonic() > enough:
            break
        for name, run in calls.items():
            samples[name].append(timer(run))
    return {
        "problem": str(problem),
        "flop": problem.flop,
        "rows": figures(prepared, samples, problem.flop),
        "left_out": prepared.left_out,
    }


def markdown(result: dict[str, Any]) -> str:
    """Write the results as a page."""
    lines = ["# The forward kernel on a GPU", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result["machine"].items()]
    for name, value in result["ceilings"].items():
        lines.append(f"| measured {name.replace('_', ' ')} | {value:.0f} |")
    peak = result["ceilings"].get("matmul_tflops")
    for record in result["problems"]:
        lines += [
            *("", f"## {record['problem']}", ""),
            "| implementation | ms | p10 – p90 | TFLOP/s | of matmul | time / ours | MiB |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        ours = next((r["median_ms"] for r in record["rows"] if r["implementation"] == OURS), None)
        for row in record["rows"]:
            share = f"{row['tflops'] / peak:.0%}" if peak else ""
            ratio = f"{row['median_ms'] / ours:.2f}" if ours else ""
            lines.append(
                f"| {row['implementation']} | {row['median_ms']:.3f} | {row['p10_ms']:.3f} – "
                f"{row['p90_ms']:.3f} | {row['tflops']:.0f} | {share} | {ratio} | "
                f"{(row['peak_bytes'] or 0) / 2**20:.0f} |"
            )
        lines += [
            f"| {name} | not timed: {why} | | | | | |" for name, why in record["left_out"].items()
        ]
    if result["not_run"]:
        lines += ["", f"Out of time before: {', '.join(result['not_run'])}."]
    return "\n".join(lines) + "\n"


def save(result: dict[str, Any], folder: Path) -> None:
    """Write the samples, and the page that they give."""
    (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(result))


def main() -> int:
    """Run; return 1 if an implementation of this package was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    parser.add_argument("--seconds", type=float, default=200.0, help="stop after about this long")
    parser.add_argument("--smoke", action="store_true", help="tiny problems: does it run at all?")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("gpu_bench: no CUDA device; use --device cpu --smoke to try the script\n")
        return 2
    problems = SMOKE if options.smoke else PROBLEMS
    end = time.monotonic() + options.seconds
    result: dict[str, Any] = {"machine": gpu_facts(), "ceilings": {}, "problems": [], "not_run": []}
    if device.type == "cuda":
        result["ceilings"] = ceilings()
    options.out.mkdir(parents=True, exist_ok=True)
    for index, problem in enumerate(problems):
        left = end - time.monotonic()
        if left <= 0:
            result["not_run"] = [str(late) for late in problems[index:]]
            break
        sys.stdout.write(f"[{options.seconds - left:5.0f} s] {problem}\n")
        sys.stdout.flush()
        with torch.inference_mode():
            share = left / (len(problems) - index)
            result["problems"].append(measure(problem, device, share / 2, end))
        save(result, options.out)  # a run that is cut short keeps what it has
    save(result, options.out)
    wrong = [
        f"{record['problem']}: {name}: {why}"
        for record in result["problems"]
        for name, why in record["left_out"].items()
        if name.startswith("guide") and why != OUT_OF_TIME
    ]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
