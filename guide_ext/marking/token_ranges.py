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


def with_whole_images(
    offsets: Sequence[tuple[int, int]], images: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Find the tokens of images, and let each of these tokens stand for its whole image.

    Args:
        offsets: Characters of each token.
        images: Characters of each image.

    Returns:
        The offsets, by which a span that touches an image touches all its tokens, also those of
        white space, for which some tokenizers report no characters; and the tokens ``[start, end)``
        of each image, ``(0, 0)`` if there are none.

    Example:
        >>> with_whole_images([(0, 2), (2, 3), (3, 3), (3, 4), (4, 6)], [(2, 4)])
        ([(0, 2), (2, 4), (2, 4), (2, 4), (4, 6)], [(1, 4)])

    """
    widened = list(offsets)
    found = []
    visible = [index for index, (start, end) in enumerate(offsets) if start < end]
    places = [Span(start, end, level=1) for start, end in images]
    touching = tokens_of_spans(places, [offsets[index] for index in visible])
    for (begins, ends), ranges in zip(images, touching, strict=True):
        if not ranges:
            found.append((0, 0))
            continue
        first, last = visible[ranges[0][0]], visible[ranges[-1][1] - 1]
        while first > 0 and _is_empty_within(offsets[first - 1], begins, ends):
            first -= 1
        while last + 1 < len(offsets) and _is_empty_within(offsets[last + 1], begins, ends):
            last += 1
        found.append((first, last + 1))
        for index in range(first, last + 1):
            start, end = widened[index]
            if start == end:
                start, end = begins, ends
            widened[index] = min(start, begins), max(end, ends)
    return widened, found


def _is_empty_within(place: tuple[int, int], begins: int, ends: int) -> bool:
    return place[0] == place[1] and begins < place[0] < ends


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
