# SPDX-License-Identifier: MIT
"""Fits, table and plot of how time and memory grow, from what was saved; nothing here measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_attention import EAGER, OURS, SDPA
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FITTED_FROM = 4096  # below, what does not grow still counts
COLOURS = {OURS: "#c8402f", SDPA: "#2f6f9f", EAGER: "#8a8f98"}
LINES = {"fp32": "-", "bf16": (0, (4, 2)), "fp16": (0, (1, 1.5))}

EXPLANATION = """\
Causal prefill, 8 heads of 128 over 2, with a bias and one channel of influence; SDPA has neither.
`time = c · keys^e` and `memory = c · keys^e` are fitted by least squares of logarithms, over the
sizes in the third column. Memory: at the peak of a call, besides the inputs. Eager attention ends
where its matrices take more than 5 GiB.
"""


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
    return float(round(slope / sum((x - x_mean) ** 2 for x, _ in points), 6))


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


def summary(result: dict[str, Any]) -> list[str]:
    """Write the fits."""
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


def details(result: dict[str, Any]) -> list[str]:
    """Write every size."""
    lines = ["", "| keys | dtype | implementation | ms | p10 – p90 | MiB |",
             "|---:|---|---|---:|---:|---:|"]  # fmt: skip
    for record in result["records"]:
        for row in record["rows"]:
            peak = row["peak_bytes"]
            lines.append(
                f"| {record['keys']} | {record['dtype']} | {row['implementation']} "
                f"| {row['median_ms']:.1f} | {row['p10_ms']:.1f} – {row['p90_ms']:.1f} "
                f"| {'not measured' if peak is None else f'{peak / 2**20:.1f}'} |"
            )
        for name, why in record["left_out"].items():
            lines.append(f"| {record['keys']} | {record['dtype']} | {name} | {why} | | |")
    return lines


readme = summary


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
        sizes = sorted({record["keys"] for record in result["records"]})
        names = [f"{size // 1024}k" if size >= 1024 else str(size) for size in sizes]
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, names)
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
