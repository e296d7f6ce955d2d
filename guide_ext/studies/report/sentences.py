# SPDX-License-Identifier: MIT
"""Write numbers for readers, and the sentences that several studies say about their tables."""

from __future__ import annotations

from collections.abc import Sequence

from guide_ext.studies.tables.reading import (
    Estimate,
    TableRow,
    estimate,
    guided,
    is_baseline,
    number,
    text,
)


def fixed(value: float, digits: int = 2) -> str:
    """Write a number with a fixed number of digits and a real minus.

    Example:
        >>> fixed(-0.358)
        '−0.36'

    """
    return f"{value:.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """Write a number of any size: a whole one in groups of thousands, others with four digits.

    Example:
        >>> short(1500000.0), short(0.5), short(-0.00012345)
        ('1,500,000', '0.5', '−0.0001234')

    """
    written = f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"
    return written.replace("-", "−")


def length_range(row: TableRow) -> str:
    """Write the range of lengths of a row.

    Example:
        >>> length_range({"length_from": 500, "length_to": 1000})
        '500–1,000'

    """
    start, end = number(row, "length_from"), number(row, "length_to")
    return "–".join("?" if value is None else short(value) for value in (start, end))


def _overlap(one: Estimate, other: Estimate) -> str:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return ""
    apart = one.high < other.low or other.high < one.low
    return f"; the 95 % intervals {'do not overlap' if apart else 'overlap'}"


def over_delta(noun: str, rows: Sequence[TableRow], column: str) -> list[str]:
    """Compare the best Δ with Δ = 0, and list what the baselines reach.

    Args:
        noun: What is compared; begins the sentence.
        rows: One row for each condition.
        column: The score.

    Returns:
        A sentence about Δ, then one about the baselines; each only if the rows tell it.

    """
    found = guided(rows, column)
    base = next((value for delta, value in found if delta == 0), None)
    others = [(delta, value) for delta, value in found if delta != 0]
    parts = [] if base is None else [f"{fixed(base.value)} at Δ = 0"]
    tail = ""
    if others:
        delta, best = max(others, key=lambda pair: pair[1].value)
        part = f"{fixed(best.value)} at Δ = {short(delta)}"
        if base is not None:
            # From the rounded numbers, so that readers who subtract them get the same.
            gain = round(best.value, 2) - round(base.value, 2)
            part += f" ({'+' if gain >= 0 else ''}{fixed(gain)})"
            tail = _overlap(base, best)
        if len(others) > 1:
            part += f", the highest of {len(others)} strengths"
        parts.append(part)
    sentences = [f"{noun}: {', '.join(parts)}{tail}."] if parts else []
    engineered = [
        f"{text(row, 'condition')} {fixed(value.value)}"
        for row in rows
        for value in [estimate(row, column)]
        if is_baseline(row) and not number(row, "delta") and value is not None
    ]
    if engineered:
        sentences.append(f"Without Δ: {', '.join(engineered)}.")
    return sentences


def shortest_and_longest(noun: str, rows: Sequence[TableRow], column: str) -> list[str]:
    """Compare the shortest texts with the longest at Δ = 0, in at most one sentence."""
    found = sorted(
        (row for row in rows if number(row, "delta") == 0 and text(row, "style") == "plain"),
        key=lambda row: number(row, "length_from") or 0.0,
    )
    known = [(row, number(row, column)) for row in found]
    values = [(row, value) for row, value in known if value is not None]
    if len(values) < 2:
        return []
    (first, high), (last, low) = values[0], values[-1]
    return [
        f"At Δ = 0, {noun}: {fixed(high)} for texts of {length_range(first)} tokens, "
        f"{fixed(low)} for {length_range(last)}."
    ]


def interval(value: Estimate) -> str:
    """Write the interval of a number in brackets after a space; nothing if it has none.

    Example:
        >>> interval(Estimate(0.5, 0.4, 0.6))
        ' [0.40, 0.60]'

    """
    if value.low is None or value.high is None:
        return ""
    return f" [{fixed(value.low)}, {fixed(value.high)}]"
