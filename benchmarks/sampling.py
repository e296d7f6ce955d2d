# SPDX-License-Identifier: MIT
"""Verifies implementations, times them in turns, and sums the samples up; for every device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from memory import PeakMemory
from peers import Implementations, UnavailableError
from problems import Inputs
from verification import Judge

OUT_OF_TIME = "out of time"
WRONG = "WRONG"


@dataclass
class Prepared:
    """What can be timed, what it takes, and why the rest is left out.

    Attributes:
        calls: Verified implementations.
        peak_bytes: Memory besides the inputs, for what a call prepares and for its run.
        first_call_seconds: Preparation and first run: compilation too.
        warm_seconds: A later run.
        left_out: Why others are not timed.
        failed: Those among them that should have been: wrong results, errors.

    """

    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    first_call_seconds: dict[str, float] = field(default_factory=dict)
    warm_seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def prepare(
    inputs: Inputs, implementations: Implementations, end: float = float("inf")
) -> Prepared:
    """Verify every implementation, until the clock says `end`."""
    prepared, judge = Prepared(), Judge(inputs)
    if inputs.problem.times_flex:
        torch.compiler.reset()  # a function that was compiled for too many sizes runs uncompiled
    for name in implementations:
        if time.monotonic() > end:
            prepared.left_out[name] = OUT_OF_TIME
            continue
        try:
            _prepare_one(prepared, name, implementations, inputs, judge)
        except UnavailableError as reason:
            prepared.left_out[name] = str(reason)
        except pytest.fail.Exception as failure:
            prepared.failed.append(name)
            prepared.left_out[name] = f"{WRONG}: {failure}"
        except Exception as error:  # another peer's fault must not stop the run
            prepared.failed.append(name)
            prepared.left_out[name] = f"{type(error).__name__}: {str(error)[:200]}"
        if inputs.query.is_cuda:  # behind the handler: its traceback holds tensors
            torch.cuda.empty_cache()
    return prepared


def _prepare_one(
    prepared: Prepared, name: str, implementations: Implementations, inputs: Inputs, judge: Judge
) -> None:
    make = implementations[name]
    begin = time.monotonic()
    call = make(inputs)
    results = call.run()
    first_call_seconds = time.monotonic() - begin
    judge.verify(call, results)
    del call, results
    # Once more: what a first call compiles or loads is no need of the call.
    with PeakMemory(inputs.query.device) as memory:
        call = make(inputs)
        begin = time.perf_counter()
        call.run()
    prepared.warm_seconds[name] = time.perf_counter() - begin
    prepared.calls[name] = call.run
    prepared.first_call_seconds[name] = first_call_seconds
    prepared.peak_bytes[name] = memory.peak_bytes


def figures(prepared: Prepared, samples: dict[str, list[float]], flop: int) -> list[dict[str, Any]]:
    """Sum up the samples, milliseconds of one call, of every implementation."""
    return [
        {
            "implementation": name,
            "samples_ms": times,
            "peak_bytes": prepared.peak_bytes[name],
            "first_call_seconds": prepared.first_call_seconds[name],
        }
        | summary(times)
        | {"tflops": flop / statistics.median(times) / 1e9}
        for name, times in samples.items()
        if times
    ]


def summary(samples: Sequence[float], unit: str = "ms") -> dict[str, float]:
    """Return median and 10th and 90th percentile.

    Example:
        >>> summary([5.0, 1.0, 4.0])
        {'median_ms': 4.0, 'p10_ms': 1.0, 'p90_ms': 5.0}

    """
    ordered = sorted(samples)
    return {
        f"median_{unit}": statistics.median(ordered),
        f"p10_{unit}": ordered[len(ordered) // 10],
        f"p90_{unit}": ordered[(9 * len(ordered)) // 10],
    }
