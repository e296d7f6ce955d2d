# SPDX-License-Identifier: MIT
"""How time and memory grow with the number of keys: causal prefill, 8 heads of 128 over 2.

    make bench-growth                            1k to 32k, some ten minutes
    make bench-growth GROWTH="--largest 8192"    less

Every implementation is verified at every size. Writes growth.json and growth.png, and prints the
exponents of the fits ``time = c · keys^e`` and ``memory = c · keys^e``.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cpu_attention import EAGER, OURS, SDPA
from facts import cpu_facts
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from peers import Implementations, eager, guide, sdpa
from problems import DTYPE_NAMES, Inputs, Problem
from report import rounded
from sampling import Prepared, figures, prepare

IMPLEMENTATIONS: Implementations = {
    OURS: guide,
    SDPA: sdpa,
    EAGER: functools.partial(eager, largest_matrix=5 << 30),
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
FEWEST_ROUNDS, MOST_ROUNDS = 2, 9
FITTED_FROM = 4096  # below, what does not grow still counts
COLOURS = {OURS: "#c8402f", SDPA: "#2f6f9f", EAGER: "#8a8f98"}
LINES = {"fp32": "-", "bf16": (0, (4, 2)), "fp16": (0, (1, 1.5))}


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


def exponent(keys: Sequence[int], values: Sequence[float]) -> float | None:
    """Fit ``value = c · keys^e`` by least squares of logarithms, and return e.

    Example:
        >>> exponent([1, 2, 4], [3.0, 12.0, 48.0])
        2.0
        >>> exponent([1], [3.0]) is None
        True

    """
    points = [
        (math.log(key), math.log(value)) for key, value in zip(keys, values, strict=True) if value
    ]
    if len(points) < 2:
        return None
    x_mean, y_mean = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return round(slope / sum((x - x_mean) ** 2 for x, _ in points), 6)


def curves(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[Any]]]:
    """Gather keys, milliseconds and MiB by implementation and dtype."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for record in result["records"]:
        for row in record["rows"]:
            curve = found.setdefault(
                (row["implementation"], record["dtype"]), {"keys": [], "ms": [], "MiB": []}
            )
            curve["keys"].append(record["keys"])
            curve["ms"].append(row["median_ms"])
            peak = row["peak_bytes"]
            curve["MiB"].append(None if peak is None else peak / 2**20)
    return found


def fits(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Fit the exponents of every curve."""
    lines = []
    for (name, dtype), curve in curves(result).items():
        largest = max(curve["keys"])
        first = min(FITTED_FROM, largest // 4)  # at least three sizes
        chosen = [index for index, keys in enumerate(curve["keys"]) if keys >= first]
        keys = [curve["keys"][index] for index in chosen]
        line: dict[str, Any] = {"implementation": name, "dtype": dtype, "keys": keys}
        for quantity in ("ms", "MiB"):
            values = [curve[quantity][index] or 0.0 for index in chosen]
            line[f"{quantity}_exponent"] = exponent(keys, values)
            line[f"{quantity}_at_most_keys"] = values[-1]
        lines.append(line)
    return lines


def table(result: dict[str, Any]) -> list[str]:
    """Write the fits in words."""
    lines = [
        "| | dtype | keys | time ∝ keys^ | memory ∝ keys^ | at the largest: ms | MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for fit in result["fits"]:
        exponents = (fit["ms_exponent"], fit["MiB_exponent"])
        shown = ("–" if e is None else f"{e:.2f}" for e in exponents)
        lines.append(
            f"| {fit['implementation']} | {fit['dtype']} | {fit['keys'][0]} – {fit['keys'][-1]} "
            f"| {' | '.join(shown)} | {fit['ms_at_most_keys']:.0f} "
            f"| {fit['MiB_at_most_keys']:.0f} |"
        )
    return lines


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw time and memory over keys, both axes logarithmic."""
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Sequence[Axes] = figure.subplots(1, 2)
    for panel, quantity in zip(panels, ("ms", "MiB"), strict=True):
        for (name, dtype), curve in curves(result).items():
            known = [i for i, value in enumerate(curve[quantity]) if value]
            panel.loglog(
                [curve["keys"][i] for i in known],
                [curve[quantity][i] for i in known],
                color=COLOURS[name], linestyle=LINES[dtype], marker="o", markersize=4,
                label=f"{name}, {dtype}",
            )  # fmt: skip
        panel.set_xlabel("keys and queries")
        panel.grid(alpha=0.25, which="both")
        panel.set_xscale("log", base=2)
    panels[0].set_ylabel("time of one call, ms")
    panels[1].set_ylabel("peak memory besides the inputs, MiB")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    machine = result["machine"]
    figure.suptitle(
        f"Causal prefill, 8 heads of 128 over 2 — {machine['processor']}, "
        f"threads: {result['threads']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


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
    seqlen = options.smallest
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
    result = rounded(result)
    (options.out / "growth.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.out / "growth.png")
    sys.stdout.write("\n".join(["", *table(result), ""]))
    return int(any(OURS in record["failed"] for record in result["records"]))


if __name__ == "__main__":
    sys.exit(main())
