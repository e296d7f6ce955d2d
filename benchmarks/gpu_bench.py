# SPDX-License-Identifier: MIT
"""Time the forward kernel on a GPU beside what PyTorch offers, each verified first.

    PYTHONPATH=.:tests:benchmarks python benchmarks/gpu_bench.py --out results --seconds 200

Implementations take turns, with the second-level cache emptied before every call. Writes bench.json
with every sample, and bench.md. `make gpu` runs it with everything else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_attention import (
    IMPLEMENTATIONS,
    PROBLEMS,
    SMOKE,
    Inputs,
    Problem,
    UnavailableError,
    verify,
)
from gpu_facts import ceilings, gpu_facts

OURS = "guide, bias + 1 channel"
FEWEST_SAMPLES, MOST_SAMPLES = 5, 30
CACHE_BYTES = 256 << 20  # more than any second-level cache


class Timer:
    """Times single calls on a device, from an empty cache."""

    def __init__(self, device: torch.device) -> None:
        """Take the memory that empties the cache."""
        self.is_cuda = device.type == "cuda"
        self._cache = torch.empty(CACHE_BYTES if self.is_cuda else 1 << 20, device=device).byte()

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


def prepare(inputs: Inputs) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Verify every implementation; return those to be timed, and why the others are not."""
    calls: dict[str, Callable[[], object]] = {}
    left_out: dict[str, str] = {}
    for name, make in IMPLEMENTATIONS.items():
        try:
            call = make(inputs)
            verify(call, inputs)
        except UnavailableError as reason:
            left_out[name] = str(reason)
        except pytest.fail.Exception as failure:
            left_out[name] = f"WRONG: {failure}"
        except Exception as error:  # another peer's fault must not stop the run
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            torch.cuda.empty_cache()
        else:
            calls[name] = call.run
    return calls, left_out


def measure(problem: Problem, device: torch.device, seconds: float) -> dict[str, Any]:
    """Time all implementations of a problem in turns."""
    torch.manual_seed(0)
    inputs = Inputs.draw(problem, device)
    calls, left_out = prepare(inputs)
    timer = Timer(device)
    peaks = {name: _peak_memory(run, timer) for name, run in calls.items()}  # warms up, too
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + seconds
    for index in range(MOST_SAMPLES):
        if index >= FEWEST_SAMPLES and time.monotonic() > end:
            break
        for name, run in calls.items():
            samples[name].append(timer(run))
    rows = [
        {"implementation": name, "samples_ms": times, "peak_bytes": peaks[name]}
        | _statistics(times, problem.flop)
        for name, times in samples.items()
    ]
    return {"problem": str(problem), "flop": problem.flop, "rows": rows, "left_out": left_out}


def _peak_memory(run: Callable[[], object], timer: Timer) -> int:
    """Return what a call takes besides its inputs."""
    if not timer.is_cuda:
        run()
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _statistics(times: list[float], flop: int) -> dict[str, float]:
    median = statistics.median(times)
    ordered = sorted(times)
    return {
        "median_ms": median,
        "p10_ms": ordered[len(times) // 10],
        "p90_ms": ordered[(9 * len(times)) // 10],
        "tflops": flop / median / 1e9,
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
                f"{row['peak_bytes'] / 2**20:.0f} |"
            )
        lines += [
            f"| {name} | not timed: {why} | | | | | |" for name, why in record["left_out"].items()
        ]
    if result["not_run"]:
        lines += ["", f"Out of time before: {', '.join(result['not_run'])}."]
    return "\n".join(lines) + "\n"


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
            result["problems"].append(measure(problem, device, seconds=share / 2))
        # After every problem: a run that is cut short keeps what it has.
        (options.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "bench.md").write_text(markdown(result))
    wrong = [
        f"{record['problem']}: {name}: {why}"
        for record in result["problems"]
        for name, why in record["left_out"].items()
        if name.startswith("guide")
    ]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
