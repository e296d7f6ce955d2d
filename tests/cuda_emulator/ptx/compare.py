# SPDX-License-Identifier: MIT
"""Comparison and selection."""

from __future__ import annotations

from .operation import B32, F32, Operation, signed
from .syntax import PREDICATE, TYPES, Kind, Pair, Type

_BITS = ("b16", "b32", "b64")
_INTEGERS = tuple(f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64))
_NUMBERS = (*_INTEGERS, "f32", "f64")
_SAME = {"eq": "==", "ne": "!="}
_ORDER = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED_ORDER = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}

# Ordered comparisons are false if there is a NaN, `ne` included; the others, with a `u`, are true.
_FLOAT = {
    **{name: f"{{a}} {sign} {{b}}" for name, sign in {"eq": "==", **_ORDER}.items()},
    "ne": "({a} < {b} || {a} > {b})",
    "equ": "!({a} < {b} || {a} > {b})",
    "neu": "{a} != {b}",
    "ltu": "!({a} >= {b})",
    "leu": "!({a} > {b})",
    "gtu": "!({a} <= {b})",
    "geu": "!({a} < {b})",
    "num": "({a} == {a} && {b} == {b})",
    "nan": "({a} != {a} || {b} != {b})",
}
_COMBINE = {"and": "&&", "or": "||", "xor": "!="}
_ALL = tuple(dict.fromkeys((*_FLOAT, *_SAME, *_ORDER, *_UNSIGNED_ORDER)))


def _comparison(operation: Operation, name: str, kind: Type, a: str, b: str) -> str:
    if kind.kind is Kind.FLOAT:
        known = {name: form.format(a=a, b=b) for name, form in _FLOAT.items()}
    else:
        signs = {
            Kind.BITS: _SAME,
            Kind.UNSIGNED: {**_SAME, **_ORDER, **_UNSIGNED_ORDER},
            Kind.SIGNED: {**_SAME, **_ORDER},
        }[kind.kind]
        known = {key: f"{signed(a, kind)} {sign} {signed(b, kind)}" for key, sign in signs.items()}
    if name not in known:
        raise operation.error(f"comparison .{name} does not fit .{kind.name}")
    return known[name]


def setp(operation: Operation) -> str:
    """``setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, {!}c}``: p and its opposite, each with c."""
    name = operation.require(*_ALL)
    combine = operation.accept(*_COMBINE)
    is_flushed = operation.flag("ftz")
    kind = operation.require_type(*(("f32",) if is_flushed else (*_BITS, *_NUMBERS)))
    d, *sources = operation.operands(4 if combine else 3)
    a, b = (operation.read(x, kind) for x in sources[:2])
    if is_flushed:
        a, b = f"ptx::flush({a})", f"ptx::flush({b})"
    test, opposite = _comparison(operation, name, kind, a, b), "!test"
    if combine is None and not isinstance(d, Pair):
        return operation.write(d, PREDICATE, test)
    start = f"const bool test = {test};"
    value = "test"
    if combine is not None:
        start += f" const bool other = {operation.read_predicate(sources[2])};"
        value, opposite = (f"{x} {_COMBINE[combine]} other" for x in (value, opposite))
    return start + " " + operation.write_pair(d, PREDICATE, value, opposite)


def selp(operation: Operation) -> str:
    """``selp``: one of two by a predicate."""
    kind = operation.require_type(*_BITS, *_NUMBERS)
    d, a, b, choice = operation.operands(4)
    values = f"{operation.read(a, kind)} : {operation.read(b, kind)}"
    return operation.write(d, kind, f"({operation.read_predicate(choice)} ? {values})")


def slct(operation: Operation) -> str:
    """``slct``: one of two by whether a number is at least 0, which a NaN is not."""
    is_flushed = operation.flag("ftz")
    kind = operation.require_type(*_BITS, *_NUMBERS)
    by = operation.require("f32") if is_flushed else operation.require("s32", "f32")
    d, a, b, c = operation.operands(4)
    if by == "f32":
        # A denormal below 0 is -0 once it is flushed, and so at least 0.
        value = operation.read(c, F32)
        test = f"{f'ptx::flush({value})' if is_flushed else value} >= 0.0f"
    else:
        test = f"{signed(operation.read(c, B32), TYPES['s32'])} >= 0"
    values = f"{operation.read(a, kind)} : {operation.read(b, kind)}"
    return operation.write(d, kind, f"({test} ? {values})")


def testp(operation: Operation) -> str:
    """``testp``: what class of float a number is."""
    form = {
        "finite": "std::isfinite({a})",
        "infinite": "std::isinf({a})",
        "number": "!std::isnan({a})",
        "notanumber": "std::isnan({a})",
        "normal": "std::isnormal({a})",
        "subnormal": "(std::fpclassify({a}) == FP_SUBNORMAL)",
    }
    test = form[operation.require(*form)]
    kind = operation.require_type("f32", "f64")
    d, a = operation.operands(2)
    return operation.write(d, PREDICATE, test.format(a=operation.read(a, kind)))


TABLE = {"setp": setp, "selp": selp, "slct": slct, "testp": testp}
