# SPDX-License-Identifier: MIT
"""Integer arithmetic, logic and shifts, and what they should compute."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from .case import Case, Compute, simple, width

# ---- Integers ------------------------------------------------------------------------------------


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _remainder(a: int, b: int) -> int:
    return a - b * _truncated(a, b)


def clamped(low: int, high: int, compute: Compute) -> Compute:
    return lambda *values: min(max(int(compute(*values)), low), high)


def _leading_bit(a: int) -> int:
    return (a if a >= 0 else ~a).bit_length() - 1


def integers() -> Iterator[Case]:
    """``add sub mul mad div rem abs neg min max popc clz bfind``."""
    for kind in (f"{sign}{bits}" for sign in "us" for bits in (16, 32, 64)):
        bits = width(kind)
        yield simple("add", kind, 2, operator.add)
        yield simple("sub", kind, 2, operator.sub)
        yield simple("mul.lo", kind, 2, operator.mul)
        yield simple("mul.hi", kind, 2, lambda a, b, bits=bits: a * b >> bits)
        yield simple("mad.lo", kind, 3, lambda a, b, c: a * b + c)
        yield simple("mad.hi", kind, 3, lambda a, b, c, bits=bits: (a * b >> bits) + c)
        yield simple("min", kind, 2, min)
        yield simple("max", kind, 2, max)
        # A divisor of 0 would be reported, so it becomes 1.
        guarded = f"setp.eq.b{bits} %p, %b, 0; @%p mov.b{bits} %b, 1;"
        for name, compute in (("div", _truncated), ("rem", _remainder)):
            code = f"{guarded} {name}.{kind} %d, %a, %b;"
            yield Case(code, kind, (kind,) * 2, lambda a, b, f=compute: f(a, b or 1))
        if bits < 64:
            wide = f"{kind[0]}{bits * 2}"
            yield simple("mul.wide", kind, 2, operator.mul, wide)
            mad = f"mad.wide.{kind} %d, %a, %b, %c;"
            yield Case(mad, wide, (kind, kind, wide), lambda a, b, c: a * b + c)
        if kind[0] == "s":
            yield simple("abs", kind, 1, abs)
            yield simple("neg", kind, 1, operator.neg)
    yield simple("add.sat", "s32", 2, clamped(-(1 << 31), (1 << 31) - 1, operator.add))
    yield simple("sub.sat", "s32", 2, clamped(-(1 << 31), (1 << 31) - 1, operator.sub))
    for bits in (32, 64):
        yield simple("popc", f"b{bits}", 1, int.bit_count, "u32")
        yield simple("clz", f"b{bits}", 1, lambda a, n=bits: n - a.bit_length(), "u32")
        for kind in (f"u{bits}", f"s{bits}"):
            yield simple("bfind", kind, 1, _leading_bit, "u32")
            yield simple(
                "bfind.shiftamt",
                kind,
                1,
                lambda a, n=bits: n - 1 - _leading_bit(a) if _leading_bit(a) >= 0 else -1,
                "u32",
            )


# ---- Bits ----------------------------------------------------------------------------------------


def _bit_field(value: int, position: int, length: int, bits: int, is_signed: bool) -> int:
    """The ISA's own words: bit by bit."""
    value, position, length = value % (1 << bits), position & 0xFF, length & 0xFF
    top = value >> min(position + length - 1, bits - 1) & 1 if is_signed and length else 0
    return sum(
        (value >> (position + i) & 1 if i < length and position + i < bits else top) << i
        for i in range(bits)
    )


def _insert(field: int, value: int, position: int, length: int, bits: int) -> int:
    position, length = position & 0xFF, length & 0xFF
    for i in range(min(length, max(bits - position, 0))):
        value = value & ~(1 << (position + i)) | (field >> i & 1) << (position + i)
    return value


def _permuted(a: int, b: int, selector: int) -> int:
    data = (b << 32 | a).to_bytes(8, "little")
    chosen = [selector >> (4 * i) & 15 for i in range(4)]
    signs = [(data[x & 7] >> 7) * 255 for x in chosen]
    return int.from_bytes(
        bytes(sign if x & 8 else data[x & 7] for x, sign in zip(chosen, signs, strict=True)),
        "little",
    )


def bits() -> Iterator[Case]:
    """``and or xor not lop3 shl shr shf bfe bfi brev prmt``."""
    logic = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
    for n in (16, 32, 64):
        for name, compute in logic.items():
            yield simple(name, f"b{n}", 2, compute)
        yield simple("not", f"b{n}", 1, operator.invert)
        amount = (f"b{n}", "u32")
        yield Case(f"shl.b{n} %d, %a, %b;", f"b{n}", amount, lambda a, b, n=n: a << min(b, n))
        yield Case(f"shl.b{n} %d, %a, 5;", f"b{n}", (f"b{n}",), lambda a: a << 5)
        yield Case(f"shl.b{n} %d, %a, 64;", f"b{n}", (f"b{n}",), lambda a: 0)
        for kind in (f"b{n}", f"u{n}", f"s{n}"):
            by = (kind, "u32")
            yield Case(f"shr.{kind} %d, %a, %b;", kind, by, lambda a, b, n=n: a >> min(b, n))
            yield Case(f"shr.{kind} %d, %a, 5;", kind, (kind,), lambda a: a >> 5)
            yield Case(f"shr.{kind} %d, %a, -1;", kind, (kind,), lambda a, n=n: a >> n)
    for name, compute in logic.items():
        code = f"{name}.pred %d, %a, !%b;"
        yield Case(code, "pred", ("pred", "pred"), lambda a, b, f=compute: f(a, 1 - b))
    yield Case("not.pred %d, %a;", "pred", ("pred",), lambda a: 1 - a)
    for table in (0x00, 0x1E, 0x80, 0x96, 0xCA, 0xE8, 0xFF):
        terms = [i for i in range(8) if table >> i & 1]
        yield Case(
            f"lop3.b32 %d, %a, %b, %c, {table};",
            "b32",
            ("b32",) * 3,
            lambda a, b, c, terms=terms: sum(
                1 << i
                for i in range(32)
                if (a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1) in terms
            ),
        )
    for mode, bound in (("wrap", lambda n: n % 32), ("clamp", lambda n: min(n, 32))):
        yield simple(
            f"shf.l.{mode}", "b32", 3, lambda a, b, n, bound=bound: (b << 32 | a) << bound(n) >> 32
        )
        yield simple(
            f"shf.r.{mode}", "b32", 3, lambda a, b, n, bound=bound: (b << 32 | a) >> bound(n)
        )
    for n in (32, 64):
        for kind in (f"u{n}", f"s{n}"):
            yield Case(
                f"bfe.{kind} %d, %a, %b, %c;",
                kind,
                (kind, "u32", "u32"),
                lambda a, p, k, n=n, kind=kind: _bit_field(a, p, k, n, kind[0] == "s"),
            )
        code = f"bfi.b{n} %d, %a, 0x5A5A5A5A, %b, %c;"
        yield Case(
            code,
            f"b{n}",
            (f"b{n}", "u32", "u32"),
            lambda f, p, k, n=n: _insert(f, 0x5A5A5A5A, p, k, n),
        )
        yield simple("brev", f"b{n}", 1, lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2))
    yield simple("prmt", "b32", 3, _permuted)
