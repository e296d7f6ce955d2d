# SPDX-License-Identifier: MIT
"""Where the Influence of marked text, as a function of Δ, crosses a target.

The searches of many prompts run side by side, so that they can share their forward passes. Import
the public names from `guide_ext.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from guide_ext.support.extras import check_installed
from guide_ext.support.values import as_float

# Measures Influence: maps {curve: Δ} to {curve: Influence}; curves go by their number.
Measure: TypeAlias = Callable[[Mapping[int, float]], Mapping[int, float]]

# The search for a bracket tries these shares of the range in turn, from Δ = 0 outwards: a natural
# emphasis is worth a fraction of a nat, and at a large Δ models talk nonsense.
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)

# Influence is kept this far from 0 and 1, whose log-odds are infinite.
_LEAST = 1e-15

# A mean of rounded numbers may leave [0, 1] by this much.
_ROUNDING = 1e-5


class CalibrationError(ValueError):
    """No Δ in the range meets the target, or the measured curve does not rise with Δ."""


@dataclass(frozen=True)
class Search:
    """Where to look for Δ and how closely.

    Attributes:
        min_delta: Lowest Δ, nats, 0 or below. With 0, a target below the Influence at Δ = 0 is an
            error, because only a negative Δ meets it.
        max_delta: Highest Δ, nats, above 0.
        tolerance: Width of the interval that Δ is narrowed to, nats, from 1e-6.
        noise: Relative error of a measured Influence through rounding, from 0 to below 1.

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
        # float32 cannot tell apart two Δ that are closer than this.
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
        delta: The measured Δ whose Influence comes closest to the target, nats.
        bracket: Two Δ that the crossing lies between, with a margin for rounding.
        curve: Every measured ``(delta, influence)``, by rising Δ.

    """

    delta: float
    bracket: tuple[float, float]
    curve: tuple[tuple[float, float], ...]


class _UnmeasuredError(Exception):
    """A search needs the Influence at a Δ, its one argument, that has not been measured yet."""


def crossings(
    measure: Measure,
    targets: Sequence[float],
    search: Search,
    known: Sequence[Mapping[float, float]],
) -> list[Crossing | CalibrationError]:
    """Find the Δ closest to 0 at which each of several rising curves meets its target.

    All searches advance together. Each runs up to the first Δ that has not been measured; once it
    has been, the search runs again from its beginning, which takes microseconds. A search can thus
    be written as if every point were known. This allows SciPy's root finder, which asks for one
    point at a time.

    Args:
        measure: Takes a Δ for some curves by number, and returns the Influence of each.
        targets: Influence to reach, one per curve.
        search: Where to look and how closely.
        known: For each curve, the points that have been measured already.

    Returns:
        For each curve its crossing; or, if the target is not reached in the range or the curve
        falls, the error that says so.

    Raises:
        ValueError: If `measure` returns anything but an Influence.

    """
    curves = [_Curve(points) for points in known]
    found: dict[int, Crossing | CalibrationError] = {}
    while open_rows := [row for row in range(len(curves)) if row not in found]:
        asked: dict[int, float] = {}
        for row in open_rows:
            try:
                found[row] = _crossing(curves[row], targets[row], search)
            except _UnmeasuredError as unmeasured:
                asked[row] = unmeasured.args[0]
            except CalibrationError as error:
                found[row] = error
        if asked:
            for row, value in measure(asked).items():
                curves[row].add(asked[row], value)
    return [found[row] for row in range(len(curves))]


def _crossing(curve: _Curve, target: float, search: Search) -> Crossing:
    """Find the crossing of one curve.

    The search goes outwards from Δ = 0 until it has a bracket; then Brent's method narrows that in
    log-odds, in which a bias acts nearly linearly: it multiplies the odds of attention by e^Δ. The
    curve must rise, which can be checked only at the measured points.
    """
    curve.require_rising(search.noise)
    start = curve.at(0.0)
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
    first, last = _bracket(curve, target, limit)
    low, high = _narrow(curve, target, first, last, search.tolerance)
    closest = min(low, high, key=lambda delta: abs(curve.at(delta) - target))
    margin = _margin(curve, target, first, last, search.noise)
    low, high = max(low - margin, search.min_delta), min(high + margin, search.max_delta)
    return Crossing(closest, (low, high), curve.sorted())


class _Curve:
    """What has been measured of one curve."""

    def __init__(self, known: Mapping[float, float]) -> None:
        self._points: dict[float, float] = {}
        for delta, value in known.items():
            self.add(delta, value)
        self.known = tuple(known)

    def add(self, delta: float, value: float) -> None:
        number = as_float(value)
        if not -_ROUNDING <= number <= 1 + _ROUNDING:
            raise ValueError(
                f"measure must return an Influence from 0 to 1, got {value!r} at Δ = {delta:.6g}"
            )
        self._points[delta] = min(max(number, 0.0), 1.0)

    def at(self, delta: float) -> float:
        if delta not in self._points:
            raise _UnmeasuredError(delta)
        return self._points[delta]

    def sorted(self) -> tuple[tuple[float, float], ...]:
        return tuple(sorted(self._points.items()))

    def require_rising(self, noise: float) -> None:
        for (below, before), (above, after) in pairwise(self.sorted()):
            if after < before * (1 - noise):
                raise CalibrationError(
                    f"the Influence must rise with Δ, got {before:.6g} at Δ = {below:.6g} and "
                    f"{after:.6g} at Δ = {above:.6g}: no one Δ stands for the target; take a "
                    "smaller range, more prompts, or another form of Influence"
                )


def _bracket(curve: _Curve, target: float, limit: float) -> tuple[float, float]:
    """Go outwards from Δ = 0 until the target is passed; return the last two Δ, by rising Δ."""
    inner = 0.0
    for share in _SHARES:
        outer = limit * share
        value = curve.at(outer)
        if value >= target if limit > 0 else value <= target:
            return min(inner, outer), max(inner, outer)
        inner = outer
    name = "max_delta" if limit > 0 else "min_delta"
    raise CalibrationError(
        f"target must be reached up to {name}={limit:g}, got an Influence of "
        f"{curve.at(limit):.6g} there and {curve.at(0.0):.6g} at Δ = 0, for a target of "
        f"{target:.6g}; ask for less, or allow a Δ further from 0"
    )


def _narrow(
    curve: _Curve, target: float, first: float, last: float, tolerance: float
) -> tuple[float, float]:
    """Narrow a bracket to the tolerance; return the two measured Δ that are left."""
    # Imported here, because `import guide_ext` would have to wait for it.
    check_installed("scipy", "to search for Δ")
    from scipy.optimize import brentq

    def gap(delta: float) -> float:
        value = curve.at(delta)
        # copysign: the two ends have different signs, whatever rounding does to log-odds.
        return math.copysign(log_odds(value) - log_odds(target), value - target)

    # Only points known before the search: every rerun must take the same steps.
    ends = sorted({first, last, *(delta for delta in curve.known if first < delta < last)})
    high = next(delta for delta in ends if curve.at(delta) >= target)
    low = max((delta for delta in ends if delta < high), default=high)
    if high - low <= tolerance:
        return low, high
    # maxiter: in the worst case, Brent's method takes the square of bisection's steps.
    root = brentq(gap, low, high, xtol=tolerance, maxiter=1000)
    if gap(root) == 0:
        return root, root
    # brentq returns one of two points on either side of the target, at most `xtol` apart; `other`
    # is the second one.
    across = [delta for delta, _ in curve.sorted() if gap(delta) * gap(root) < 0]
    other = min(across, key=lambda delta: abs(delta - root))
    return min(root, other), max(root, other)


def _margin(curve: _Curve, target: float, low: float, high: float, noise: float) -> float:
    """Return how far rounding can shift the root, in nats, by the slope of the first bracket."""
    rise = log_odds(curve.at(high)) - log_odds(curve.at(low))
    # d log-odds = dI / (I (1 − I))
    return noise / (1 - target) * (high - low) / rise if rise > 0 else high - low


def log_odds(value: float) -> float:
    """Return log(p / (1 − p)); finite at 0 and 1, too."""
    value = min(max(value, _LEAST), 1 - _LEAST)
    return math.log(value) - math.log1p(-value)
