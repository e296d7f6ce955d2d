# SPDX-License-Identifier: MIT
"""Tables of how long a study takes on a real model, from what was saved; nothing here measures."""

from __future__ import annotations

from typing import Any

OURS, GENERATE = "study run", "generate, guide, each prompt anew"
SDPA = "generate, sdpa, nothing marked"

Record = dict[str, Any]

EXPLANATION = """\
A sentence is hidden in each document of Python's documentation and asked for once for every Δ, all
prompts in batches. Tokens/s: those of all prompts and answers, over the time of the whole, so what
is computed once counts for every prompt that it serves. Floor: the products with weights for the
tokens that any way must compute (a beginning once, up to the first mark, what follows for every Δ,
the answers), at the best rate of torch.mm on this machine. Ratios are times over that of `study
run`: above 1, `study run` is faster.
"""


def summary(result: dict[str, Any]) -> list[str]:
    """Write a line for every way."""
    lines = [
        "| study | dtype | threads | way | seconds | tokens/s | over ours | floor, s | of floor |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for record in result["records"]:
        ours = _rows(record)[OURS]["median_s"]
        for name, row in _rows(record).items():
            seconds = row["median_s"]
            rate = (record["prompt_tokens"] + record["new_tokens"]) / seconds
            cells = [
                record["problem"], record["dtype"], str(record["threads"]), name, f"{seconds:.0f}",
                f"{rate:.0f}", f"{seconds / ours:.2f}", f"{record['floor_s']:.0f}",
                f"{record['floor_s'] / seconds:.0%}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def details(result: dict[str, Any]) -> list[str]:
    """Write every sample, and what was counted."""
    lines: list[str] = []
    for record in result["records"]:
        different = record["different"]
        lines += [
            "",
            f"{record['problem']}: {record['answers']} answers of {record['new_tokens']} tokens to "
            f"prompts of {record['prompt_tokens']}, of which any way must compute "
            f"{record['least_tokens']}. torch.mm at best {record['product_gflops']:.0f} GFLOP/s, "
            f"load {record['load']:.1f}. Answers that differ from those of `{GENERATE}`: "
            f"{'not compared' if different is None else different}.",
            "",
        ]
        for row in record["rows"]:
            times = ", ".join(f"{time:.1f}" for time in row["samples_s"])
            lines.append(f"- {row['implementation']}: {times} s")
    return lines


def short_table(result: dict[str, Any]) -> list[str]:
    """Write the short table, for docs/benchmarks.md."""
    lines = [
        "| study | study run | tokens/s | of the floor | each prompt anew | sdpa, nothing marked |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for record in result["records"]:
        rows = _rows(record)
        ours = rows[OURS]["median_s"]
        rate = (record["prompt_tokens"] + record["new_tokens"]) / ours
        cells = [
            f"{record['dtype']}, {record['problem']}", f"{ours:.0f} s", f"{rate:.0f}",
            f"{record['floor_s'] / ours:.0%}",
            *(f"{rows[name]['median_s'] / ours:.2f}" if name in rows else "–"
              for name in (GENERATE, SDPA)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def headlines(result: dict[str, Any]) -> list[Any]:
    """Return the rows of the README: none."""
    return []


def _rows(record: Record) -> dict[str, Record]:
    return {row["implementation"]: row for row in record["rows"]}
