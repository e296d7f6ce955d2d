# SPDX-License-Identifier: MIT
"""Rates, ROC areas and correlations, with bootstrap intervals over documents.

Answers about one document resemble each other. So documents are resampled, not answers.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 1000
_SEED = 0

Values = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Interval = tuple[float | None, float | None, float | None]
"""A value and the ends of its interval; None where too few data tell it."""

_TINY = 1e-3  # below it, decimals say too little


def _stats() -> Any:
    """Load scipy's statistics: it takes a second, which a list of the studies should not."""
    from scipy import stats

    return stats


def rate(values: Iterable[tuple[str, float]]) -> Interval:
    """Return the mean of a score over answers, with its interval.

    Args:
        values: The document and the score of every answer.

    Example:
        >>> rate([("a", 1.0), ("b", 1.0), ("c", 1.0)])
        (1.0, 1.0, 1.0)
        >>> rate([("a", 1.0), ("a", 0.0)])  # one document tells nothing about others
        (0.5, None, None)

    """
    by_document: dict[str, list[float]] = defaultdict(list)
    for document, value in values:
        by_document[document].append(value)
    if not by_document:
        return None, None, None
    sums = np.array([sum(scores) for scores in by_document.values()], dtype=np.float64)
    counts = np.array([len(scores) for scores in by_document.values()], dtype=np.float64)

    def mean(sums: Values, counts: Values, axis: int) -> Values:
        found: Values = sums.sum(axis) / counts.sum(axis)
        return found

    value = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return rounded(value), None, None
    interval = _stats().bootstrap(
        (sums, counts), mean, paired=True, vectorized=True, n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(_SEED),
    ).confidence_interval  # fmt: skip
    return rounded(value), rounded(interval.low), rounded(interval.high)


@dataclass(frozen=True)
class Cases:
    """Cases with a predictor of success, and whether there was success.

    Attributes:
        documents: Number of the document of every case, from 0.
        values: The predictor of every case.
        success: Whether the answer of every case was right.
        length: Number of the range of lengths of its document, from 0.

    """

    documents: Ints
    values: Values
    success: Flags
    length: Ints

    @classmethod
    def of(
        cls,
        documents: Sequence[Hashable],
        values: Sequence[float],
        success: Sequence[bool],
        lengths: Sequence[Hashable],
    ) -> Cases:
        """Make cases of lists; documents and lengths are numbered in order of appearance.

        Example:
            >>> Cases.of(["b", "a", "b"], [1.0, 2.0, 3.0], [True, False, True], [9, 9, 9]).documents
            array([0, 1, 0])

        """
        return cls(
            _numbers(documents),
            np.array(values, dtype=np.float64),
            np.array(success, dtype=bool),
            _numbers(lengths),
        )

    def taken(self, index: Ints) -> Cases:
        """Return the cases of some indices, in their order."""
        return Cases(
            self.documents[index], self.values[index], self.success[index], self.length[index]
        )


def area(cases: Cases) -> float:
    """Return the area under the ROC curve. Ties count half; NaN unless both outcomes occur.

    Example:
        >>> values, success = np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, True, False, True])
        >>> area(Cases(np.arange(4), values, success, np.zeros(4, dtype=int)))
        1.0

    """
    right = int(cases.success.sum())
    pairs = right * (len(cases.success) - right)
    if not pairs:
        return float("nan")
    ranks = _stats().rankdata(cases.values)
    return float((ranks[cases.success].sum() - right * (right + 1) / 2) / pairs)


def area_within(cases: Cases) -> float:
    """Return the ROC area over pairs of cases in the same range of lengths.

    Example:
        >>> values, success = np.array([2.0, 1.0, 8.0, 9.0]), np.array([True, False, True, False])
        >>> area_within(Cases(np.arange(4), values, success, np.array([0, 0, 1, 1])))
        0.5

    """
    total = pairs = 0.0
    for one in np.unique(cases.length):
        inside = cases.taken(np.flatnonzero(cases.length == one))
        right = int(inside.success.sum())
        compared = right * (len(inside.success) - right)
        if compared:
            total += compared * area(inside)
            pairs += compared
    return total / pairs if pairs else float("nan")


def correlation(cases: Cases) -> float:
    """Return Pearson's correlation of predictor and success; NaN if one does not vary.

    Example:
        >>> values, success = np.array([0.0, 1.0, 2.0]), np.array([False, True, True])
        >>> correlation(Cases(np.arange(3), values, success, np.zeros(3, dtype=int)))
        0.866...

    """
    values, success = cases.values, cases.success.astype(float)
    if np.ptp(values) == 0 or np.ptp(success) == 0:
        return float("nan")
    return float(_stats().pearsonr(values, success).statistic)


def statistic_with_interval(cases: Cases, statistic: Callable[[Cases], float]) -> Interval:
    """Return a statistic of cases, with its interval over documents.

    Example:
        >>> values, success = np.arange(20.0), np.arange(20) > 9
        >>> cases = Cases(np.arange(20), values, success, np.zeros(20, dtype=int))
        >>> statistic_with_interval(cases, area)
        (1.0, 1.0, 1.0)

    """
    value = statistic(cases)
    numbers = np.unique(cases.documents)
    if not np.isfinite(value) or len(numbers) < 2:
        return rounded(value), None, None
    places = {int(number): np.flatnonzero(cases.documents == number) for number in numbers}

    def of(chosen: Ints) -> float:
        return statistic(cases.taken(np.concatenate([places[int(one)] for one in chosen])))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _stats().DegenerateDataWarning)
        drawn = _stats().bootstrap(
            (numbers,), of, vectorized=False, n_resamples=_RESAMPLES, method="percentile",
            rng=np.random.default_rng(_SEED),
        ).bootstrap_distribution  # fmt: skip
    # Where success is rare some resamples have none and tell nothing.
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return rounded(value), rounded(low), rounded(high)


def quantiles_of_counts(
    counts: dict[int, int], shares: Sequence[float], width: float
) -> list[float]:
    """Return quantiles of a histogram, each at the middle of its bin.

    Args:
        counts: Number of values by bin; bin ``i`` is ``[i, i + 1) * width``.
        shares: Which quantiles: shares from 0 to 1.
        width: Width of a bin.

    Example:
        >>> quantiles_of_counts({0: 1, 1: 2, 2: 1}, [0.5], width=0.5)
        [0.75]

    """
    bins = sorted(counts)
    below = np.cumsum([counts[one] for one in bins])
    places = [int(np.searchsorted(below, share * below[-1])) for share in shares]
    return [(bins[min(place, len(bins) - 1)] + 0.5) * width for place in places]


def rounded(value: float) -> float | None:
    """Round to six decimals, tiny numbers to four digits; None for NaN, which JSON does not have.

    In deep models, rollout ends in millionths.

    Example:
        >>> rounded(1 / 3), rounded(1.23456e-7), rounded(float("nan"))
        (0.333333, 1.235e-07, None)

    """
    if not np.isfinite(value):
        return None
    number = float(value)
    return round(number, 6) if abs(number) >= _TINY else float(f"{number:.4g}")


def histograms(
    groups: Sequence[Sequence[float]], bins: int
) -> list[list[tuple[float | None, float | None, float | None]]]:
    """Return the histogram of each group, over bins that are the same for all groups.

    Args:
        groups: Values of each group.
        bins: Number of bins.

    Returns:
        For each group its bins: start, end, share of the group. Empty without any value.

    Example:
        >>> histograms([[0.0, 1.0], [1.0]], 2)
        [[(0.0, 0.5, 0.5), (0.5, 1.0, 0.5)], [(0.0, 0.5, 0.0), (0.5, 1.0, 1.0)]]

    """
    values = np.array([value for group in groups for value in group], dtype=np.float64)
    if not len(values):
        return [[] for _ in groups]
    edges = np.linspace(values.min(), values.max() + 1e-9, bins + 1)
    found = []
    for group in groups:
        counts, _ = np.histogram(np.array(group, dtype=np.float64), edges)
        total = max(1, int(counts.sum()))
        found.append(
            [
                (rounded(low), rounded(high), rounded(count / total))
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
        )
    return found


def _numbers(names: Sequence[Hashable]) -> Ints:
    """Number names in order of appearance."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.int64)
