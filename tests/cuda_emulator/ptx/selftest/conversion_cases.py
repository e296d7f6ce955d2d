# SPDX-License-Identifier: MIT
"""Comparisons, selections, conversions and moves, and what they should compute."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator

import numpy as np
import torch

from . import reference as ref
from .case import Case, Compute, simple, to_signed, width
from .integer_cases import clamped

# ---- Comparison ----------------------------------------------------------------------------------

_ORDER = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMBINE = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def _compared(name: str) -> Compute:
    """A comparison with its rule for NaN."""
    if name in ("num", "nan"):
        return lambda a, b: int((math.isnan(a) or math.isnan(b)) == (name == "nan"))
    is_unordered = name.endswith("u")
    test = _ORDER[name.removesuffix("u")]
    return lambda a, b: int(is_unordered if math.isnan(a) or math.isnan(b) else test(a, b))


def comparisons() -> Iterator[Case]:
    """``setp`` with all comparisons and forms, ``selp``, ``slct``."""
    for n in (16, 32, 64):
        for kind in (f"b{n}", f"u{n}", f"s{n}"):
            for name in _ORDER if kind[0] != "b" else ("eq", "ne"):
                yield simple(f"setp.{name}", kind, 2, _compared(name), "pred")
        for name, same in _UNSIGNED.items():
            yield simple(f"setp.{name}", f"u{n}", 2, _compared(same), "pred")
    names = [*_ORDER, *(f"{name}u" for name in _ORDER), "num", "nan"]
    for kind in ("f32", "f64"):
        for name in names:
            yield simple(f"setp.{name}", kind, 2, _compared(name), "pred")
    yield simple("setp.eq.ftz", "f32", 2, lambda a, b: int(ref.flush(a) == ref.flush(b)), "pred")
    # Both destinations count: %d becomes the first and twice the second.
    both = "selp.u32 %d, 1, 0, %p; @%q add.u32 %d, %d, 2;"
    for kind in ("s32", "f32"):
        less = _compared("lt")
        yield Case(
            f"setp.lt.{kind} %p|%q, %a, %b; {both}",
            "u32",
            (kind, kind),
            lambda a, b, less=less: less(a, b) + 2 * (1 - less(a, b)),
        )
        for name, combine in _COMBINE.items():
            for sign in ("", "!"):
                yield Case(
                    f"setp.lt.{name}.{kind} %p|%q, %a, %b, {sign}%c; {both}",
                    "u32",
                    (kind, kind, "pred"),
                    lambda a, b, c, f=combine, less=less, sign=sign: (
                        f(less(a, b), c ^ (sign == "!")) + 2 * f(1 - less(a, b), c ^ (sign == "!"))
                    ),
                )
    for kind in ("b16", "u32", "s64", "f32", "f64"):
        code = f"selp.{kind} %d, %a, %b, %c;"
        yield Case(code, kind, (kind, kind, "pred"), lambda a, b, c: a if c else b)
        for by in ("s32", "f32"):
            code = f"slct.{kind}.{by} %d, %a, %b, %c;"
            yield Case(code, kind, (kind, kind, by), lambda a, b, c: a if c >= 0 else b)
    code = "slct.ftz.u32.f32 %d, %a, %b, %c;"
    sources = ("u32", "u32", "f32")
    yield Case(code, "u32", sources, lambda a, b, c: a if ref.flush(c) >= 0 else b)


# ---- Conversion ----------------------------------------------------------------------------------

_INTEGERS = tuple(f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64))
_ROUND: dict[str, Callable[[float], float]] = {
    "rni": lambda x: float(np.rint(x)),
    "rzi": lambda x: float(np.trunc(x)),
    "rmi": lambda x: float(np.floor(x)),
    "rpi": lambda x: float(np.ceil(x)),
}


def _limits(kind: str) -> tuple[int, int]:
    bits = width(kind)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)


def _to_integer(to: str, of: str, rounding: str) -> Compute:
    """Round, then clamp; NaN gives 0, or half of the range if either side has 64 bits."""
    low, high = _limits(to)

    def compute(x: float) -> int:
        if math.isnan(x):
            return 1 << (width(to) - 1) if 64 in (width(to), width(of)) else 0
        if math.isinf(x):
            return low if x < 0 else high
        return min(max(int(_ROUND[rounding](x)), low), high)

    return compute


def conversions() -> Iterator[Case]:
    """``cvt`` between all types, ``mov`` of parts."""
    for of in _INTEGERS:
        for to in _INTEGERS:
            yield Case(f"cvt.{to}.{of} %d, %a;", to, (of,), lambda a: a)
            low, high = _limits(to)
            if low > _limits(of)[0] or high < _limits(of)[1]:
                clamp = clamped(low, high, lambda a: a)
                yield Case(f"cvt.sat.{to}.{of} %d, %a;", to, (of,), clamp)
        for to, target in (("f32", ref.SINGLE), ("f64", ref.DOUBLE)):
            exact = ref.exactly(lambda a: a, lambda a: a, "rn", target)
            yield Case(
                f"cvt.rn.{to}.{of} %d, %a;", to, (of,), lambda a, f=exact: _rounded_integer(a, f)
            )
    for of in ("f32", "f64"):
        for rounding, compute in _ROUND.items():
            for to in _INTEGERS:
                code = f"cvt.{rounding}.{to}.{of} %d, %a;"
                yield Case(code, to, (of,), _to_integer(to, of, rounding))
            yield Case(f"cvt.{rounding}.{of}.{of} %d, %a;", of, (of,), compute)
        yield Case(f"cvt.sat.{of}.{of} %d, %a;", of, (of,), ref.saturate)
    yield Case("cvt.rni.ftz.s32.f32 %d, %a;", "s32", ("f32",), _to_integer("s32", "f32", "rni"))
    yield Case(
        "cvt.rpi.ftz.f32.f32 %d, %a;", "f32", ("f32",), lambda a: float(np.ceil(ref.flush(a)))
    )
    yield Case("cvt.f64.f32 %d, %a;", "f64", ("f32",), lambda a: a)
    narrow = ref.exactly(lambda a: a, lambda a: a, "rn")
    yield Case("cvt.rn.f32.f64 %d, %a;", "f32", ("f64",), narrow)
    yield Case("cvt.rn.ftz.f32.f64 %d, %a;", "f32", ("f64",), lambda a: ref.flush(narrow(a)))
    # From a wider register, only the low bits count.
    yield Case("cvt.s32.s8 %d, %a; // wide", "s32", ("u32",), lambda a: to_signed(a & 0xFF, 8))
    yield Case("cvt.u64.u16 %d, %a; // wide", "u64", ("u64",), lambda a: a & 0xFFFF)
    yield from _half_conversions()
    yield from _moves()


def _rounded_integer(a: int, exact: Compute) -> float:
    return float(a) if abs(a) < 1 << 24 else float(exact(a))


def _half(kind: str, value: float) -> int:
    torch_kind = torch.bfloat16 if kind == "bf16" else torch.float16
    half = torch.tensor(value, dtype=torch.float32).to(torch_kind)
    return 0x7FFF if half.isnan() else int(half.view(torch.int16)) & 0xFFFF


def _half_conversions() -> Iterator[Case]:
    for kind in ("bf16", "f16"):
        yield Case(
            f"cvt.rn.{kind}x2.f32 %d, %a, %b;",
            "b32",
            ("f32", "f32"),
            lambda a, b, kind=kind: _half(kind, a) << 16 | _half(kind, b),
        )
        yield Case(f"cvt.rn.{kind}.f32 %d, %a;", "b16", ("f32",), lambda a, k=kind: _half(k, a))
    yield Case(
        "cvt.f32.f16 %d, %a;",
        "f32",
        ("b16",),
        lambda a: float(np.uint16(a).reshape(1).view(np.float16)[0]),
    )


def _moves() -> Iterator[Case]:
    yield Case("mov.b32 %d, %a;", "b32", ("f32",), lambda a: int(np.float32(a).view(np.uint32)))
    yield Case("mov.b32 %d, 0f40490FDB;", "b32", (), lambda: 0x40490FDB)
    yield Case("mov.f32 %d, 0fC0490FDB;", "f32", (), lambda: -3.1415927410125732)
    yield Case("mov.f32 %d, 0f7F800000;", "f32", (), lambda: math.inf)
    yield Case("mov.f64 %d, 0d3FF8000000000000;", "f64", (), lambda: 1.5)
    yield Case("mov.f32 %d, 2.5;", "f32", (), lambda: 2.5)
    yield Case("mov.u32 %d, 0x7f;", "u32", (), lambda: 127)
    yield Case("mov.b64 %d, -2;", "b64", (), lambda: -2)
    yield Case("mov.pred %d, %a;", "pred", ("pred",), lambda a: a)
    yield Case("mov.b32 %d, {%a, %b};", "b32", ("b16", "b16"), lambda a, b: a | b << 16)
    yield Case("mov.b64 %d, {%a, %b};", "b64", ("b32", "b32"), lambda a, b: a | b << 32)
    yield Case("mov.b32 %d, {0, %a};", "b32", ("b16",), lambda a: a << 16)
    yield Case("mov.b32 {%d, _}, %a;", "b16", ("b32",), lambda a: a)
    yield Case("mov.b64 {_, %d}, %a;", "b32", ("b64",), lambda a: a >> 32)
    yield Case(
        "mov.b64 %d, {%a, %b, %c, %a};",
        "b64",
        ("b16",) * 3,
        lambda a, b, c: a | b << 16 | c << 32 | a << 48,
    )
