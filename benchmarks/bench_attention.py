# SPDX-License-Identifier: MIT
"""Attention with a bias and one influence channel on the CPU, against what PyTorch offers for it.

    make bench                          all, about seventeen minutes
    make bench BENCH="-k decode"        some

One test is one problem at one number of threads. Every implementation is verified against the
float64 oracle; then they take turns: one round of pytest-benchmark is one sample of each. Samples,
ceilings of the machine and memory go to `extra_info`, and by `conftest.py` to files.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ceilings import Ceilings, last_level_cache_bytes
from cpu_attention import PROBLEMS, SMOKE, implementations, ours
from problems import DTYPE_NAMES, Inputs, Problem
from pytest_benchmark.fixture import BenchmarkFixture
from recording import Run
from sampling import Prepared, figures, prepare

KIND = "attention"
FEWEST_ROUNDS = 3
SAMPLE_SECONDS = 0.02  # a shorter call is repeated
MOST_REPEATS, MOST_COLD_REPEATS = 100, 20


class Turns:
    """One call is one round: a sample of every implementation, each round in another order."""

    def __init__(self, prepared: Prepared, is_cold: bool) -> None:
        """Choose how often a call is repeated within a sample.

        Args:
            prepared: What is timed.
            is_cold: Whether to empty the caches before every call, as the weights of a model do
                between two calls that decode.

        """
        self._calls = prepared.calls
        self.samples: dict[str, list[float]] = {name: [] for name in self._calls}
        self._other = torch.zeros(2 * last_level_cache_bytes() // 4) if is_cold else None
        most = MOST_COLD_REPEATS if is_cold else MOST_REPEATS
        self.repeats = {
            name: min(most, math.ceil(SAMPLE_SECONDS / seconds))
            for name, seconds in prepared.warm_seconds.items()
        }
        begin = time.perf_counter()
        self._empty_caches()
        emptying = time.perf_counter() - begin
        self.round_seconds = sum(
            self.repeats[name] * (seconds + emptying)
            for name, seconds in prepared.warm_seconds.items()
        )
        self._round = 0

    def __call__(self) -> None:
        """Take the samples, milliseconds of one call."""
        names = list(self._calls)
        first = self._round % len(names)
        for name in names[first:] + names[:first]:
            self.samples[name].append(1e3 * self._sample(self._calls[name], self.repeats[name]))
        self._round += 1

    def _sample(self, run: Callable[[], object], repeats: int) -> float:
        """Return the median of single calls, so that one interruption is not a sample."""
        seconds = []
        for _ in range(repeats):
            self._empty_caches()
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def _empty_caches(self) -> None:
        if self._other is not None:
            self._other.sum()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_smoke = metafunc.config.getoption("--problems") == "smoke"
    threads = [1] if is_smoke else sorted({1, torch.get_num_threads()})
    parameters = [
        pytest.param(problem, count, id=f"{_kind(problem)}-{problem}-t{count}")
        for problem in (SMOKE if is_smoke else PROBLEMS)
        for count in threads
    ]
    metafunc.parametrize(("problem", "threads"), parameters)


def test_attention(
    benchmark: BenchmarkFixture, problem: Problem, threads: int, run: Run, record_property: Any
) -> None:
    """Verify and time one problem."""
    torch.set_num_threads(threads)
    end = time.monotonic() + run.share_of_time()
    benchmark.group = str(problem)
    inputs = Inputs.draw(problem, torch.device("cpu"))
    with torch.inference_mode():
        products = {} if benchmark.disabled else run.products(threads)
        before = {} if benchmark.disabled else run.ceilings(threads)
        prepared = prepare(inputs, implementations(problem, products))
        if ours := [name for name in prepared.failed if name.startswith("guide")]:
            pytest.fail("; ".join(f"{name}: {prepared.left_out[name]}" for name in ours))
        turns = Turns(prepared, problem.is_decode)
        rounds = int((end - time.monotonic()) / turns.round_seconds)
        rounds = max(FEWEST_ROUNDS, min(run.most_rounds, rounds))
        benchmark.pedantic(turns, rounds=rounds, iterations=1)
        after = {} if benchmark.disabled else run.ceilings(threads)
    record = _sizes(problem) | {
        "threads": threads,
        "caches_emptied": problem.is_decode,
        "load": os.getloadavg()[0],
        "ceilings": _highest(before, after),
        "rows": figures(prepared, turns.samples, problem.flop),
        "repeats": turns.repeats,
        "left_out": prepared.left_out,
        "failed": prepared.failed,
    }
    benchmark.extra_info.update(record)
    run.records[KIND].append(record)
    record_property("progress", _progress(record))


def _kind(problem: Problem) -> str:
    return "decode" if problem.is_decode else "prefill"


def _sizes(problem: Problem) -> dict[str, Any]:
    sizes = dataclasses.asdict(problem) | {"dtype": DTYPE_NAMES[problem.dtype]}
    return {
        "problem": str(problem),
        "kind": _kind(problem),
        **sizes,
        "flop": problem.flop,
        "key_value_bytes": problem.key_value_bytes,
    }


def _highest(*measured: Ceilings) -> Ceilings:
    """Of what was measured before and after; clocks drift, and others may disturb."""
    return {name: max(one[name] for one in measured if name in one) for name in measured[0]}


def _progress(record: dict[str, Any]) -> str:
    medians = {row["implementation"]: row["median_ms"] for row in record["rows"]}
    own = medians[ours(record["channels"])]
    peers = ", ".join(
        f"{name} {median / own:.2f}x"
        for name, median in medians.items()
        if not name.startswith("guide")
    )
    failed = "".join(f"; {name}: {record['left_out'][name]}" for name in record["failed"])
    return f"{own:.3f} ms; {peers}{failed}"
