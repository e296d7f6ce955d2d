# SPDX-License-Identifier: MIT
"""Which tokens touch a span of characters: arithmetic of ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import TypeAlias

from guide_ext.marking.marked_text import Span

# Half-open ranges, ascending.
Ranges: TypeAlias = list[tuple[int, int]]


def tokens_of_spans(spans: Iterable[Span], offsets: Sequence[tuple[int, int]]) -> list[Ranges]:
    """Return, for every span, the tokens that overlap it, by bisection."""
    starts = [start for start, _ in offsets]
    # Starts never decrease; ends may where tokens overlap, so bisect their running maximum.
    reach = list(accumulate((end for _, end in offsets), max))
    found = []
    for span in spans:
        first = bisect_right(reach, span.start)
        inside = bisect_left(starts, span.start)
        # Those that start before the span: all but the first may lie within a longer one.
        ranges = [(at, at + 1) for at in range(first, inside) if offsets[at][1] > span.start]
        found.append(_joined([*ranges, (inside, bisect_left(starts, span.end))]))
    return found


def without_shared(spans: Sequence[Span], found: list[Ranges]) -> list[Ranges]:
    """Give a token that side-by-side spans of the same kind share to the first of them alone.

    Emphasis adds up where spans nest, that is where they share characters. Two neighbours that
    only share a token must not count twice.
    """
    earlier: dict[object, list[tuple[int, int]]] = {}  # kind -> heap: (last character, token) + 1
    taken: dict[object, int] = {}
    kept = []
    for span, ranges in zip(spans, found, strict=True):
        ends = earlier.setdefault(span.kind, [])
        # Spans come in order of their start: what ends before this one ends before the next too.
        while ends and ends[0][0] <= span.start:
            taken[span.kind] = max(taken.get(span.kind, 0), heappop(ends)[1])
        first = taken.get(span.kind, 0)
        kept.append([(max(start, first), end) for start, end in ranges if end > first])
        if ranges:
            heappush(ends, (span.end, ranges[-1][1]))
    return kept


def _joined(ranges: Ranges) -> Ranges:
    """Drop empty ranges and merge those that touch; the given ranges must ascend."""
    joined: Ranges = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        elif start < end:
            joined.append((start, end))
    return joined


def split(ranges: Ranges, gaps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges cut at every gap inside them."""
    for start, end in ranges:
        cuts = gaps[bisect_right(gaps, start) : bisect_left(gaps, end)]
        yield from pairwise([start, *cuts, end])
