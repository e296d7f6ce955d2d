# SPDX-License-Identifier: MIT
"""Tables of the benchmark of Influence, from what it saved; nothing here measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from report_headlines import Headline

SDPA, PLAIN = "sdpa, no bias", "guide, bias"
INFLUENCE, EAGER = "guide, bias + Influence", "eager, all matrices saved"
_ALL = (SDPA, PLAIN, INFLUENCE, EAGER)
HEADLINES = ("llama-bf16-tokens2048",)  # what the README shows

Record = dict[str, Any]

EXPLANATION = """\
One forward pass of a Llama of four layers (hidden 2048, 32/8 heads) with random weights over a
prompt, logits of the last token. `guide, bias`: an eighth of the prompt marked; `+ Influence`: the
Influence of these marks on every token at every layer. `eager`: every layer's matrix of attention
is kept, and the recursion runs over them, without a bias. MiB: peak memory besides the weights.
"""


def summary(result: dict[str, Any]) -> list[str]:
    """Write one line for each length."""
    lines = [
        "| tokens | dtype | threads | "
        + " | ".join(f"{name}, ms | MiB" for name in _ALL)
        + " | of Influence | eager over Influence |",
        "|---:|---|---:|" + "---:|" * (2 * len(_ALL) + 2),
    ]
    for record in result["records"]:
        rows = _rows(record)
        cells = [str(record["tokens"]), record["dtype"], str(record["threads"])]
        for name in _ALL:
            cells += _cells(rows.get(name))
        cells += [_overhead(rows), _ratio(rows, EAGER)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def details(result: dict[str, Any]) -> list[str]:
    """Write every sample."""
    lines: list[str] = []
    for record in result["records"]:
        lines += ["", f"{record['problem']}, load {record['load']:.1f}", ""]
        for row in record["rows"]:
            times = ", ".join(f"{time:.1f}" for time in row["samples_ms"])
            lines.append(f"- {row['implementation']}: {times} ms")
        lines += [f"- {name}: not timed, {why}" for name, why in record["left_out"].items()]
    return lines


def short_table(result: dict[str, Any]) -> list[str]:
    """Write the short table, for docs/benchmarks.md."""
    lines = [
        "| forward pass | guide, bias | with Influence | | memory | eager, all matrices saved "
        "| memory |",
        "|---|" + "---:|" * 6,
    ]
    for record in result["records"]:
        rows = _rows(record)
        cells = [
            f"{record['dtype']}, {record['tokens']} tokens",
            _cells(rows.get(PLAIN))[0] + " ms",
        ]
        measured, saved = _cells(rows.get(INFLUENCE)), _cells(rows.get(EAGER))
        cells += [f"{measured[0]} ms", _overhead(rows), f"{measured[1]} MiB"]
        cells += ["–", "–"] if EAGER not in rows else [f"{saved[0]} ms", f"{saved[1]} MiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def headlines(result: dict[str, Any], problems: Sequence[str] = HEADLINES) -> list[Headline]:
    """Return the row of the README."""
    found = {record["problem"]: record for record in result["records"]}
    return [
        Headline(
            f"forward pass, Llama {record['dtype']}, {record['tokens']} tokens",
            f"{rows[INFLUENCE]['median_ms']:.0f} ms",
            _ratio(rows, SDPA),
            _ratio(rows, EAGER),
        )
        for record in (found[name] for name in problems if name in found)
        if INFLUENCE in (rows := _rows(record))
    ]


def _rows(record: Record) -> dict[str, Record]:
    return {row["implementation"]: row for row in record["rows"]}


def _cells(row: Record | None) -> list[str]:
    if row is None:
        return ["–", "–"]
    peak = row["peak_bytes"]
    return [f"{row['median_ms']:.0f}", "?" if peak is None else f"{peak / 2**20:.0f}"]


def _overhead(rows: dict[str, Record]) -> str:
    return f"{rows[INFLUENCE]['median_ms'] / rows[PLAIN]['median_ms'] - 1:+.1%}"


def _ratio(rows: dict[str, Record], name: str) -> str:
    if name not in rows:
        return "–"
    return f"{rows[name]['median_ms'] / rows[INFLUENCE]['median_ms']:.2f}"
