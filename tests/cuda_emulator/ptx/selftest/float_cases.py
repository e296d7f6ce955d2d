# SPDX-License-Identifier: MIT
"""Float arithmetic, and what it should compute."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from . import reference as ref
from .case import Case, Compute, simple

# ---- Floats --------------------------------------------------------------------------------------


def _flushed(compute: Compute) -> Compute:
    return lambda *values: ref.flush(compute(*map(ref.flush, values)))


def _extremum(pick: Callable[..., float], is_nan: bool) -> Compute:
    def compute(a: float, b: float) -> float:
        numbers = [x for x in (a, b) if not math.isnan(x)]
        if not numbers or (is_nan and len(numbers) == 1):
            return math.nan
        return pick(numbers, key=lambda x: (x, math.copysign(1, x)))

    return compute


def _quotient(mode: str, target: ref.Format = ref.SINGLE) -> Compute:
    return ref.exactly(operator.truediv, operator.truediv, mode, target)


def _product(mode: str, target: ref.Format = ref.SINGLE) -> Compute:
    return ref.exactly(operator.mul, operator.mul, mode, target)


def _is_normal(smallest: float, a: float) -> bool:
    return math.isfinite(a) and abs(a) >= smallest


def _is_subnormal(smallest: float, a: float) -> bool:
    return 0 < abs(a) < smallest


def floats() -> Iterator[Case]:
    """``add sub mul fma div rcp sqrt`` in all modes, ``min max abs neg copysign testp``."""
    for kind, target in (("f32", ref.SINGLE), ("f64", ref.DOUBLE)):
        for mode in ref.MODES:
            yield simple(f"add.{mode}", kind, 2, ref.exact_sum(mode, 1, target))
            yield simple(f"sub.{mode}", kind, 2, ref.exact_sum(mode, -1, target))
            yield simple(f"mul.{mode}", kind, 2, _product(mode, target))
            yield simple(f"fma.{mode}", kind, 3, ref.exact_fma(mode, target))
            yield simple(f"div.{mode}", kind, 2, _quotient(mode, target))
            quotient = _quotient(mode, target)
            yield simple(f"rcp.{mode}", kind, 1, lambda a, f=quotient: f(1.0, a))
        yield simple("add", kind, 2, ref.exact_sum("rn", 1, target))
        yield simple("min", kind, 2, _extremum(min, is_nan=False))
        yield simple("max", kind, 2, _extremum(max, is_nan=False))
        yield simple("abs", kind, 1, abs)
        yield simple("neg", kind, 1, operator.neg)
        yield simple("copysign", kind, 2, lambda a, b: math.copysign(b, a))
        smallest = 2.0**-126 if kind == "f32" else 2.0**-1022
        classes: dict[str, Callable[[float], bool]] = {
            "finite": math.isfinite,
            "infinite": math.isinf,
            "number": lambda a: not math.isnan(a),
            "notanumber": math.isnan,
            "normal": partial(_is_normal, smallest),
            "subnormal": partial(_is_subnormal, smallest),
        }
        for name, test in classes.items():
            yield simple(f"testp.{name}", kind, 1, lambda a, test=test: int(test(a)), "pred")
    for mode in ref.MODES:
        yield simple(f"sqrt.{mode}", "f32", 1, ref.exact_sqrt(mode))
    for name, compute in (
        ("add", ref.exact_sum("rn")),
        ("sub", ref.exact_sum("rn", -1)),
        ("mul", _product("rn")),
        ("div.rn", _quotient("rn")),
        ("div.full", _quotient("rn")),
        ("min", _extremum(min, is_nan=False)),
        ("max", _extremum(max, is_nan=False)),
    ):
        yield simple(f"{name}.ftz", "f32", 2, _flushed(compute))
    yield simple("fma.rn.ftz", "f32", 3, _flushed(ref.exact_fma("rn")))
    yield simple("neg.ftz", "f32", 1, _flushed(operator.neg))
    yield simple("abs.ftz", "f32", 1, _flushed(abs))
    for name, compute, count in (
        ("add.sat", ref.exact_sum("rn"), 2),
        ("mul.rn.sat", _product("rn"), 2),
        ("fma.rn.sat", ref.exact_fma("rn"), 3),
    ):
        yield simple(name, "f32", count, lambda *x, f=compute: ref.saturate(f(*x)))
    yield simple("min.NaN", "f32", 2, _extremum(min, is_nan=True))
    yield simple("max.NaN", "f32", 2, _extremum(max, is_nan=True))
    yield simple("max.ftz.NaN", "f32", 2, _flushed(_extremum(max, is_nan=True)))
    yield from _approximations()


def _approximations() -> Iterator[Case]:
    def reciprocal_root(a: float) -> float:
        if a == 0:
            return math.copysign(math.inf, a)
        return math.nan if not a > 0 else 1 / math.sqrt(a)

    def log2(a: float) -> float:
        if a == 0:
            return -math.inf
        return math.nan if not a > 0 else (math.inf if math.isinf(a) else math.log2(a))

    def exp2(a: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp2(np.float64(a)).astype(np.float32))

    def coarse_quotient(a: float, b: float) -> float:
        if 2.0**126 < abs(b) < math.inf:
            return math.nan if math.isinf(a) else a * math.copysign(0.0, b)
        return _quotient("rn")(a, b)

    def reciprocal(a: float) -> float:
        return _quotient("rn")(1.0, a)

    for name, count, compute in (
        ("rcp.approx", 1, reciprocal),
        ("sqrt.approx", 1, ref.exact_sqrt("rn")),
        ("rsqrt.approx", 1, reciprocal_root),
        ("lg2.approx", 1, log2),
        ("ex2.approx", 1, exp2),
        ("div.approx", 2, coarse_quotient),
    ):
        yield simple(name, "f32", count, compute, ulps=2)
        yield simple(f"{name}.ftz", "f32", count, _flushed(compute), ulps=2)
