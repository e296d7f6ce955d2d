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
from dataclasses import dataclass, field
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

OUT_OF_TIME = "out of time"
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


@dataclass
class Prepared:
    """What can be timed, what it takes, and why the rest is left out."""

    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    first_call_seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def prepare(inputs: Inputs, end: float = float("inf")) -> Prepared:
    """Verify every implementation, until the clock says `end`."""
    prepared = Prepared()
    if inputs.problem.times_flex:
        torch.compiler.reset()  # a function that was compiled for too many sizes runs uncompiled
    for name, make in IMPLEMENTATIONS.items():
        begin = time.monotonic()
        if begin > end:
            prepared.left_out[name] = OUT_OF_TIME
            continue
        try:
            with _PeakMemory(inputs.query.device) as memory:
                call = make(inputs)
                call.run()
            prepared.first_call_seconds[name] = time.monotonic() - begin
            verify(call, inputs)
        except UnavailableError as reason:
            prepared.left_out[name] = str(reason)
        except pytest.fail.Exception as failure:
            prepared.left_out[name] = f"WRONG: {failure}"
        except Exception as error:  # another peer's fault must not stop the run
            prepared.left_out[name] = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            prepared.calls[name] = call.run
            prepared.peak_bytes[name] = memory.peak_bytes
        if inputs.query.is_cuda:  # behind the handler: its traceback holds tensors
            torch.cuda.empty_cache()
    return prepared


class _PeakMemory:
    """Memory that is taken besides the inputs: masks and copies that a peer needs, too."""

    peak_bytes = 0

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"

    def __enter__(self) -> _PeakMemory:
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated() - self._before


def measure(
    problem: Problem, device: torch.device, seconds: float, end: float = float("inf")
) -> dict[str, Any]:
    """Time all implementations of a problem in turns."""
    torch.manual_seed(0)
    inputs = Inputs.draw(problem, device)
    prepared = prepare(inputs, end)
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
    rows = [
        {
            "implementation": name,
            "samples_ms": times,
            "peak_bytes": prepared.peak_bytes[name],
            "first_call_seconds": prepared.first_call_seconds[name],
        }
        | _statistics(times, problem.flop)
        for name, times in samples.items()
    ]
    return {"problem": str(problem), "flop": problem.flop, "rows": rows,
            "left_out": prepared.left_out}  # fmt: skip


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
