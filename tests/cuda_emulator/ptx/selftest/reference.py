# SPDX-License-Identifier: MIT
"""What PTX instructions compute, in exact arithmetic, and numbers that are likely to go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

NEAREST, TO_ZERO, DOWN, UP = "rn", "rz", "rm", "rp"
MODES = (NEAREST, TO_ZERO, DOWN, UP)


class Format:
    """An IEEE 754 format: bits of precision, and the exponent of the largest power of two."""

    def __init__(self, precision: int, max_exponent: int) -> None:
        self.precision = precision
        self.min_quantum = Fraction(2) ** (2 - max_exponent - precision)
        self.largest = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** max_exponent


SINGLE = Format(24, 127)
DOUBLE = Format(53, 1023)


def round_fraction(exact: Fraction, mode: str, target: Format = SINGLE) -> float:
    """Round a number other than zero to a format; the sign of a result of zero is its own."""
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    quantum = max(Fraction(2) ** (exponent + 1 - target.precision), target.min_quantum)
    steps, rest = divmod(magnitude, quantum)
    is_up = mode == UP if exact > 0 else mode == DOWN
    if mode == NEAREST:
        is_up = rest * 2 > quantum or (rest * 2 == quantum and steps % 2 == 1)
    rounded = (steps + (1 if is_up and rest else 0)) * quantum
    if rounded > target.largest:
        goes_beyond = mode == NEAREST or (mode == UP if exact > 0 else mode == DOWN)
        result = math.inf if goes_beyond else float(target.largest)
    else:
        result = float(rounded)
    return result if exact > 0 else -result


def exactly(
    exact: Callable[..., Fraction], rough: Callable[..., float], mode: str, target: Format = SINGLE
) -> Callable[..., float]:
    """Return an operation rounded once: `exact` where all is finite, `rough` elsewhere.

    `rough` also tells the sign of an exact zero, but for one: x - x is -0 when rounding down.
    """

    def operation(*operands: float) -> float:
        with np.errstate(all="ignore"):
            estimate = float(rough(*map(np.float64, operands)))
        if not all(map(math.isfinite, operands)) or math.isnan(estimate):
            return estimate
        try:
            value = exact(*map(Fraction, operands))
        except ZeroDivisionError:
            return estimate
        if value:
            return round_fraction(value, mode, target)
        return estimate

    return operation


def exact_sum(mode: str, sign: int = 1, target: Format = SINGLE) -> Callable[..., float]:
    """Return addition, or with a sign of -1 subtraction."""

    def rough(a: float, b: float) -> float:
        total = a + sign * b
        if total == 0 and a != 0 and mode == DOWN:
            return -0.0
        if total == 0 and a == 0 and math.copysign(1, a) != sign * math.copysign(1, b):
            return -0.0 if mode == DOWN else 0.0
        return total

    return exactly(lambda a, b: a + sign * b, rough, mode, target)


def exact_fma(mode: str, target: Format = SINGLE) -> Callable[..., float]:
    """Return a * b + c, rounded once."""

    def rough(a: float, b: float, c: float) -> float:
        product = a * b
        if math.isfinite(a) and math.isfinite(b) and not math.isfinite(product):
            return c if not math.isfinite(c) else 1.0
        total = product + c
        signs_differ = math.copysign(1, product) != math.copysign(1, c)
        if total == 0 and mode == DOWN and signs_differ:
            return -0.0
        return total

    return exactly(lambda a, b, c: a * b + c, rough, mode, target)


def exact_sqrt(mode: str) -> Callable[[float], float]:
    """Return the square root in single precision."""

    def operation(a: float) -> float:
        if not a > 0 or math.isinf(a):
            return math.nan if a < 0 else a
        near = np.float32(math.sqrt(a))
        below = near
        while Fraction(float(below)) ** 2 > Fraction(a):
            below = np.nextafter(below, np.float32(0))
        is_exact = Fraction(float(below)) ** 2 == Fraction(a)
        if mode == NEAREST or is_exact:
            return float(near)
        return float(np.nextafter(below, np.float32(np.inf)) if mode == UP else below)

    return operation


def flush(x: float) -> float:
    """Return a number with denormals as zeros of their sign."""
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def saturate(x: float) -> float:
    """Return a number clamped into [0, 1]; NaN as 0."""
    return 0.0 if math.isnan(x) or x <= 0 else min(x, 1.0)


# ---- Numbers -------------------------------------------------------------------------------------


def edge_integers(bits: int) -> list[int]:
    """Return patterns at the limits of ranges, of shifts and of bytes, and some others."""
    edges = [0, 1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 0x1203, 0x8421]
    edges += [1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << (bits - 1)) + 1]
    edges += [(1 << bits) - 1, (1 << bits) - 2, (1 << bits) - 32, 1 << (bits // 2)]
    random = np.random.default_rng(bits).integers(0, 1 << (bits - 1), 6, dtype=np.uint64)
    edges += [int(x) * 2 + 1 for x in random]
    return sorted({edge % (1 << bits) for edge in edges})


def edge_floats(bits: int) -> list[float]:
    """Return zeros, denormals, halves, limits of integer ranges, infinities, NaN and others."""
    kind = np.float32 if bits == 32 else np.float64
    info = np.finfo(kind)
    edges = [0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0, 0.1, 127.5, 255.5, 65535.5, 2.0**24 + 2]
    edges += [2.0**31, 2.0**31 - 128, 2.0**32, 2.0**32 - 256, 2.0**63, 2.0**64, 1e10, 2.0**126]
    edges += [1 + float(info.eps), 1 - float(info.epsneg), float(info.max), float(info.tiny)]
    edges += [float(info.smallest_subnormal), float(info.tiny - info.smallest_subnormal)]
    edges += [float(info.tiny) * 1.5, 1.5 * 2.0**126, 1 / 3, 2.0**-14, 2.0**-25, 65520.0, math.inf]
    random = np.random.default_rng(bits)
    edges += [float(kind(x)) for x in random.normal(size=6)]
    edges += [float(kind(x)) for x in random.normal(size=4) * 2.0 ** random.integers(-90, 90, 4)]
    return [float(kind(x)) for edge in edges for x in (edge, -edge)] + [math.nan]
