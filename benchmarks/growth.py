# SPDX-License-Identifier: MIT
"""How time and memory grow with the number of keys: causal prefill, 8 heads of 128 over 2.

    make bench-growth                            1k to 32k, some ten minutes
    make bench-growth GROWTH="--largest 8192"    less

Every implementation is verified at every size. Writes growth.json, growth.md and growth.png.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cpu_attention import EAGER, OURS, SDPA
from facts import cpu_facts
from peers import Implementations, eager, guide, sdpa
from problems import DTYPE_NAMES, Inputs, Problem
from report import page, rounded
from report_growth import draw, fits, summary
from sampling import Prepared, figures, prepare

IMPLEMENTATIONS: Implementations = {
    OURS: guide,
    SDPA: sdpa,
    EAGER: functools.partial(eager, largest_matrix=5 << 30),
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
FEWEST_ROUNDS, MOST_ROUNDS = 2, 9


def measure(seqlen: int, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """Verify and time one size; at least two samples each, in turns."""
    problem = Problem(1, 8, 2, seqlen, seqlen, 128, is_causal=True, dtype=dtype)
    torch.manual_seed(0)
    inputs = Inputs.draw(problem, torch.device("cpu"))
    prepared = prepare(inputs, IMPLEMENTATIONS)
    samples = _take_turns(prepared, seconds)
    return {
        "keys": seqlen,
        "dtype": DTYPE_NAMES[dtype],
        "rows": figures(prepared, samples, problem.flop),
        "left_out": prepared.left_out,
        "failed": prepared.failed,
    }


def _take_turns(prepared: Prepared, seconds: float) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in prepared.calls}
    end = time.monotonic() + seconds
    for index in range(MOST_ROUNDS):
        if index >= FEWEST_ROUNDS and time.monotonic() > end:
            break
        for name, run in prepared.calls.items():
            samples[name].append(1e3 * _seconds(run))
    return samples


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> int:
    """Measure, fit, draw; 1 if this package was wrong anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    parser.add_argument("--smallest", type=int, default=1024)
    parser.add_argument("--largest", type=int, default=32768)
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--seconds", type=float, default=15.0, help="of samples at each size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "kind": "growth", "machine": cpu_facts(), "threads": options.threads, "records": [],
    }  # fmt: skip
    begin, seqlen = time.monotonic(), options.smallest
    while seqlen <= options.largest:
        for name in options.dtypes.split(","):
            with torch.inference_mode():
                record = measure(seqlen, DTYPES[name], options.seconds)
            result["records"].append(record)
            shown = [f"{row['implementation']} {row['median_ms']:.1f} ms" for row in record["rows"]]
            shown += [f"{name}: {why}" for name, why in record["left_out"].items()]
            sys.stdout.write(f"{seqlen} {name}: {'; '.join(shown)}\n")
            sys.stdout.flush()
        seqlen *= 2
    result["fits"] = fits(result)
    result["seconds"] = time.monotonic() - begin
    result = rounded(result)
    (options.out / "growth.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "growth.md").write_text(page(result))
    draw(result, options.out / "growth.png")
    sys.stdout.write("\n".join(["", *summary(result), ""]))
    return int(any(OURS in record["failed"] for record in result["records"]))


if __name__ == "__main__":
    sys.exit(main())
