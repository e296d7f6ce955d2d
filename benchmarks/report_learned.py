# SPDX-License-Identifier: MIT
"""Tables of what a learned Δ is worth, from what was saved; nothing here measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SINGLE = "best single Δ"

EXPLANATION = """\
Everything is chosen on some documents, by the likelihood of the right answer, and judged on others.
`right`: the share of greedy answers that are right in every word. `nats`: the mean logarithm of the
probability of the right answer. In brackets, the difference from the best single Δ, in points and
in nats, paired by document, with its 95 % interval by bootstrap.
"""


def summary(result: dict[str, Any]) -> list[str]:
    """Write a line for every way to steer."""
    tasks = result["tasks"]
    lines = [
        "| | " + " | ".join(f"{task}: right | nats" for task in tasks) + " |",
        "|---|" + "---|---|" * len(tasks),
    ]
    for rows in zip(*tasks.values(), strict=True):
        is_single = rows[0]["way"] == SINGLE
        cells = [rows[0]["way"]]
        for row in rows:
            right = f"{row['right'][0]:.1%}"
            nats = f"{row['log_likelihood'][0]:.2f}"
            if not is_single:
                right += _beside(row["right_difference"], 100, 1)
                nats += _beside(row["log_likelihood_difference"], 1, 2)
            cells += [right, nats]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


short_table = summary


def _beside(value: Sequence[float | None], factor: float, digits: int) -> str:
    middle, low, high = (0.0 if one is None else factor * one for one in value)
    if value[1] is None:  # too few documents for an interval
        return f" ({middle:+.{digits}f})"
    return f" ({middle:+.{digits}f}; {low:+.{digits}f} to {high:+.{digits}f})"


def details(result: dict[str, Any]) -> list[str]:
    """Write what each way chose."""
    settings = result["settings"]
    lines = [
        "",
        f"{settings['documents']} documents of each task chose, {settings['judged']} judged.",
    ]
    for task, rows in result["tasks"].items():
        lines += ["", f"### {task}", "", "| way | chosen |", "|---|---|"]
        lines += [f"| {row['way']} | {row['chosen']} |" for row in rows]
    return lines
