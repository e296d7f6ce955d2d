# SPDX-License-Identifier: MIT
"""Tables of the benchmark of whole models, from what it saved; nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from report_headlines import Headline

SDPA, GUIDE, EAGER = "sdpa", "guide", "eager"
GUIDE_BIAS, GUIDE_INFLUENCE = "guide, bias", "guide, bias + Influence"

HEADLINES = ("llama-bf16-prompt512", "llama-bf16-prompt4096")  # what the README shows
_SHOWN = (GUIDE, GUIDE_BIAS, GUIDE_INFLUENCE, EAGER)

Record = dict[str, Any]

EXPLANATION = """\
`generate`, greedy, one prompt, 32 new tokens, models of four layers with random weights. `prompt`:
tokens of the prompt per second, until the first new token is there; `decoding`: new tokens per
second behind it. `guide` is an enabled model without marks, `guide, bias` the same with an eighth
of the prompt marked, `+ Influence` with the Influence of these marks on every token. Ratios are
medians over rounds of rate over sdpa's rate of the same round: above 1 is faster than sdpa. `±`:
half of the way from the 10th to the 90th percentile, of the median. MiB: peak memory besides the
weights, cache included.
"""


def summary(result: dict[str, Any]) -> list[str]:
    """Write one line for each implementation of each model."""
    lines = [
        "| model | prompt | threads | attention | prompt, tokens/s | ± | over sdpa "
        "| decoding, tokens/s | ± | over sdpa | MiB |",
        "|---|---:|---:|---|" + "---:|" * 7,
    ]
    for record in result["records"]:
        for row in record["rows"]:
            peak = row["peak_bytes"]
            cells = [
                f"{record['model']} {record['dtype']}",
                str(record["prompt"]),
                str(record["threads"]),
                row["implementation"],
                *_cells(record, row, "prefill"),
                *_cells(record, row, "decode"),
                "not measured" if peak is None else f"{peak / 2**20:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def details(result: dict[str, Any]) -> list[str]:
    """Write the rates of every round."""
    lines: list[str] = []
    for record in result["records"]:
        lines += [
            "",
            f"{record['problem']}, {record['threads']} threads, load {record['load']:.1f}",
            "",
        ]
        for row in record["rows"]:
            for phase in ("prefill", "decode"):
                rates = ", ".join(f"{rate:.1f}" for rate in row[phase]["samples"])
                lines.append(f"- {row['implementation']}, {phase}: {rates}")
    return lines


def short_table(result: dict[str, Any]) -> list[str]:
    """Write the short table, for docs/benchmarks.md, on all cores."""
    lines = [
        "| `generate`, tokens/s | prompt: sdpa | guide | bias | bias + Influence | eager "
        "| decoding: sdpa | guide | bias | bias + Influence | eager |",
        "|---|" + "---:|" * 10,
    ]
    for record in _on_all_cores(result):
        rows = _rows(record)
        cells = [f"{record['model']} {record['dtype']}, prompt of {record['prompt']}"]
        for phase in ("prefill", "decode"):
            cells.append(f"{rows[SDPA][phase]['median_tokens_per_s']:.1f}")
            cells += [
                f"{_ratio(rows[name], rows[SDPA], phase):.2f}×" if name in rows else "–"
                for name in _SHOWN
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def headlines(result: dict[str, Any], problems: Sequence[str] = HEADLINES) -> list[Headline]:
    """Return the rows of the README: the time of a new token, on all cores."""
    found = {record["problem"]: record for record in _on_all_cores(result)}
    return [
        Headline(
            f"`generate`, {record['model'].capitalize()} {record['dtype']}, a new token after a "
            f"prompt of {record['prompt']}",
            f"{1e3 / rows[GUIDE_INFLUENCE]['decode']['median_tokens_per_s']:.1f} ms",
            *(
                f"{_ratio(rows[GUIDE_INFLUENCE], rows[name], 'decode'):.2f}"
                if name in rows
                else "–"
                for name in (SDPA, EAGER)
            ),
        )
        for record in (found[name] for name in problems if name in found)
        if GUIDE_INFLUENCE in (rows := _rows(record))
    ]


def _on_all_cores(result: dict[str, Any]) -> list[Record]:
    most = max((record["threads"] for record in result["records"]), default=0)
    return [record for record in result["records"] if record["threads"] == most]


def _rows(record: Record) -> dict[str, Record]:
    return {row["implementation"]: row for row in record["rows"]}


def _cells(record: Record, row: Record, phase: str) -> list[str]:
    found = row[phase]
    median = found["median_tokens_per_s"]
    spread = (found["p90_tokens_per_s"] - found["p10_tokens_per_s"]) / 2 / median
    return [f"{median:.1f}", f"{spread:.1%}", f"{_ratio(row, _rows(record)[SDPA], phase):.3f}"]


def _ratio(row: Record, other: Record, phase: str) -> float:
    """Return how much faster than the other: by rounds, since what slows a round slows it all."""
    pairs = zip(row[phase]["samples"], other[phase]["samples"], strict=True)
    return float(statistics.median(rate / base for rate, base in pairs))
