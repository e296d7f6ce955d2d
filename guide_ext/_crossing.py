# SPDX-License-Identifier: MIT
"""Where the Influence of marked text, as a function of Δ, crosses a target.

A generator that asks for one point at a time, so that the searches of many prompts can run side by
side and share their forward passes. `guide_ext.calibration` is where it is used from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

from guide_ext._marked_text import as_float

_NOTHING: Mapping[float, float] = MappingProxyType({})

# A bracket is looked for at these shares of the range, from Δ = 0 on: a natural emphasis is worth
# a fraction of a nat, and far out models talk nonsense.
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)

# Log-odds of 0 and 1 are infinite.
_LEAST = 1e-15

# A mean of rounded numbers may leave [0, 1] by so much.
_ROUNDING = 1e-5


class CalibrationError(ValueError):
    """No Δ of the range does what was asked, or what was measured does not tell which one."""


@dataclass(frozen=True)
class Search:
    """Where to look for Δ and how closely.

    Attributes:
        min_delta: Lowest Δ, nats, 0 or below. 0 refuses targets that only playing text down meets.
        max_delta: Highest Δ, nats, above 0.
        tolerance: Width of the interval that Δ is narrowed to, nats.
        noise: By which fraction of itself a measured Influence may be off through rounding.

    Raises:
        ValueError: If a value is not a finite number in its range.

    Example:
        >>> Search(max_delta=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: max_delta must be a finite number of nats above 0, got -1.0

    """

    min_delta: float = 0.0
    max_delta: float = 8.0
    tolerance: float = 0.01
    noise: float = 1e-6

    def __post_init__(self) -> None:
        """Check every field."""
        self._check("max_delta", "a finite number of nats above 0", lambda value: value > 0)
        self._check("min_delta", "a finite number of nats, 0 or below", lambda value: value <= 0)
        # Finer than this, two Δ of float32 are one.
        self._check("tolerance", "a finite number of nats from 1e-6", lambda value: value >= 1e-6)
        self._check("noise", "a number from 0 to below 1", lambda value: 0 <= value < 1)

    def _check(self, name: str, expected: str, holds: Callable[[float], bool]) -> None:
        given = getattr(self, name)
        value = as_float(given)
        if not math.isfinite(value) or not holds(value):
            raise ValueError(f"{name} must be {expected}, got {given!r}")
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Crossing:
    """Where a curve crosses its target.

    Attributes:
        delta: The measured Δ that comes closest to it, nats.
        bracket: Between these Δ it lies, rounding included.
        curve: Every measured ``(delta, influence)``, by rising Δ.

    """

    delta: float
    bracket: tuple[float, float]
    curve: tuple[tuple[float, float], ...]


Steps: TypeAlias = Generator[float, float, Crossing]


def crossing(target: float, search: Search, known: Mapping[float, float] = _NOTHING) -> Steps:
    """Look for the Δ of the smallest size at which a rising curve reaches a target.

    Yields a Δ, wants its Influence sent back, and returns the crossing. First a bracket is looked
    for outwards from Δ = 0, then Chandrupatla's method narrows it in log-odds, where a bias acts
    nearly linearly: it multiplies the odds of attention by e^Δ. Only the points that were asked for
    are known, so it is they alone that must rise.

    Args:
        target: Influence to reach.
        search: Where, and how closely.
        known: Points that have been measured already.

    Raises:
        CalibrationError: If the target is not reached in the range, or the curve falls.
        ValueError: If an answer is no Influence.

    Source:
        Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for finding the zero of a
        nonlinear function": inverse quadratic interpolation where it is safe, bisection elsewhere.
        Here the first step interpolates too.

    """
    curve = _Curve(search.noise, known)
    start = yield from curve.at(0.0)
    if not 0 < target < 1:
        raise CalibrationError(f"target must be an Influence between 0 and 1, got {target:.6g}")
    limit = search.max_delta if target > start else search.min_delta
    if start == target or (limit == 0 and start * (1 - search.noise) <= target):
        return Crossing(0.0, (0.0, 0.0), curve.sorted())
    if limit == 0:
        raise CalibrationError(
            f"target must be above the Influence at Δ = 0, which is {start:.6g}, got {target:.6g}: "
            "only a negative Δ meets it; to allow that, let min_delta be below 0, such as -8"
        )
    inner, outer = yield from _bracket(curve, target, limit)
    first, last = min(inner, outer), max(inner, outer)
    low, high = _tightest(curve, target, first, last)
    narrow = yield from _narrow(curve, target, low, high, search.tolerance)
    closest = min(narrow, key=lambda delta: abs(curve.points[delta] - target))
    margin = _margin(curve, target, first, last, search.noise)
    low, high = max(narrow[0] - margin, search.min_delta), min(narrow[1] + margin, search.max_delta)
    return Crossing(closest, (low, high), curve.sorted())


def run(steps: Steps, measure: Callable[[float], float]) -> Crossing:
    """Run one search to its end; `measure` gives the Influence at a Δ."""
    try:
        delta = next(steps)
        while True:
            delta = steps.send(measure(delta))
    except StopIteration as end:
        found: Crossing = end.value
        return found


class _Curve:
    """What has been measured; refuses what cannot be a rising Influence."""

    def __init__(self, noise: float, known: Mapping[float, float]) -> None:
        self.points: dict[float, float] = {}
        self._noise = noise
        for delta, value in known.items():
            self._add(delta, value)

    def at(self, delta: float) -> Generator[float, float, float]:
        if delta not in self.points:
            self._add(delta, (yield delta))
        return self.points[delta]

    def sorted(self) -> tuple[tuple[float, float], ...]:
        return tuple(sorted(self.points.items()))

    def _add(self, delta: float, value: float) -> None:
        number = as_float(value)
        if not -_ROUNDING <= number <= 1 + _ROUNDING:
            raise ValueError(
                f"measure must return an Influence from 0 to 1, got {value!r} at Δ = {delta:.6g}"
            )
        self.points[delta] = min(max(number, 0.0), 1.0)
        curve = self.sorted()
        for (below, before), (above, after) in pairwise(curve):
            if after < before * (1 - self._noise):
                raise CalibrationError(
                    f"the Influence must rise with Δ, got {before:.6g} at Δ = {below:.6g} and "
                    f"{after:.6g} at Δ = {above:.6g}: no one Δ stands for the target; take a "
                    "smaller range, more prompts, or another form of Influence"
                )


def _bracket(
    curve: _Curve, target: float, limit: float
) -> Generator[float, float, tuple[float, float]]:
    """Go outwards from Δ = 0 until the target is passed; return the last two Δ."""
    inner = 0.0
    for share in _SHARES:
        outer = limit * share
        value = yield from curve.at(outer)
        if value >= target if limit > 0 else value <= target:
            return inner, outer
        inner = outer
    name = "max_delta" if limit > 0 else "min_delta"
    raise CalibrationError(
        f"target must be reached up to {name}={limit:g}, got an Influence of "
        f"{curve.points[limit]:.6g} there and {curve.points[0.0]:.6g} at Δ = 0, for a target of "
        f"{target:.6g}; ask for less, or allow a Δ further from 0"
    )


def _tightest(curve: _Curve, target: float, low: float, high: float) -> tuple[float, float]:
    """Return the two neighbours among all points of a bracket that the target lies between."""
    inside = [(delta, value) for delta, value in curve.sorted() if low <= delta <= high]
    above = next(delta for delta, value in inside if value >= target)
    below = [delta for delta, _ in inside if delta < above]
    return (max(below) if below else above), above


def _narrow(
    curve: _Curve, target: float, low: float, high: float, tolerance: float
) -> Generator[float, float, tuple[float, float]]:
    """Shrink a bracket to the tolerance; `low` is below the target and `high` not."""

    def gap(delta: float) -> float:
        return log_odds(curve.points[delta]) - log_odds(target)

    # The root lies between a, the newest point, and b; c is the one before them.
    a, b, c = low, high, low
    fa, fb, fc = gap(a), gap(b), gap(a)
    if fb == 0:
        return high, high
    step = fa / (fa - fb)
    while abs(b - a) > tolerance:
        # Never closer to an end than this: once a is near the root, the next point is beyond it.
        least = tolerance / 2 / abs(b - a)
        new = a + min(max(step, least), 1 - least) * (b - a)
        yield from curve.at(new)
        if gap(new) == 0:
            return new, new
        if (gap(new) > 0) == (fa > 0):
            c, fc = a, fa
        else:
            c, fc, b, fb = b, fb, a, fa
        a, fa = new, gap(new)
        step = _share(a, b, c, fa, fb, fc)
    return min(a, b), max(a, b)


def _share(a: float, b: float, c: float, fa: float, fb: float, fc: float) -> float:
    """Return how far from a to b to go: to the root of a parabola where that is safe, or half."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    if phi**2 < xi and (1 - phi) ** 2 < 1 - xi:
        through_c = (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        return fa / (fb - fa) * fc / (fb - fc) + through_c
    return 0.5


def _margin(curve: _Curve, target: float, low: float, high: float, noise: float) -> float:
    """Return by how many nats rounding can shift the root, from the slope of the first bracket."""
    rise = log_odds(curve.points[high]) - log_odds(curve.points[low])
    # d log-odds = dI / (I (1 − I))
    return noise / (1 - target) * (high - low) / rise if rise > 0 else high - low


def log_odds(value: float) -> float:
    """Return log(p / (1 − p)), finite at 0 and 1 too."""
    value = min(max(value, _LEAST), 1 - _LEAST)
    return math.log(value) - math.log1p(-value)
