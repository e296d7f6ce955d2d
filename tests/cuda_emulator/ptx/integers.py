# SPDX-License-Identifier: MIT
"""Integer arithmetic. It wraps, so all of it is done on unsigned numbers."""

from __future__ import annotations

from . import floats
from .operation import B32, Operation, narrowed, signed
from .syntax import TYPES, Kind, Type

INTEGERS = tuple(f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64))
_SIGNED = ("s16", "s32", "s64")


def _sum(operation: Operation, sign: str) -> str:
    """``add{.sat}``, ``sub{.sat}``: ``.sat`` is for ``.s32`` only, and clamps."""
    if operation.flag("sat"):
        kind = operation.require_type("s32")
        d, *sources = operation.operands(3)
        a, b = (f"ptx::widen({operation.read(x, kind)})" for x in sources)
        return operation.write(d, kind, f"ptx::saturate_sum({a} {sign} {b})")
    kind = operation.require_type(*INTEGERS)
    d, *sources = operation.operands(3)
    a, b = (operation.read(x, kind) for x in sources)
    return operation.write(d, kind, narrowed(f"{a} {sign} {b}", kind))


def add(operation: Operation) -> str:
    """``add``: of integers here, of floats there; ``.cc`` is left over and so an error."""
    return floats.arithmetic(operation, "+") if _is_float(operation) else _sum(operation, "+")


def sub(operation: Operation) -> str:
    """``sub``."""
    return floats.arithmetic(operation, "-") if _is_float(operation) else _sum(operation, "-")


def _is_float(operation: Operation) -> bool:
    return operation.instruction.opcode[-1] in ("f32", "f64")


def _product(operation: Operation, part: str, kind: Type, a: str, b: str) -> tuple[str, Type]:
    """Return the product's lower half, upper half, or all of it, and its type."""
    if part == "lo":
        # 16-bit factors would be promoted to int, whose product overflows.
        wide = f"std::uint32_t{{{a}}}" if kind.bits == 16 else a
        return narrowed(f"{wide} * {b}", kind), kind
    sign = "" if kind.kind is Kind.SIGNED else "unsigned "
    if part == "hi":
        wide = f"{sign}__int128" if kind.bits == 64 else f"{sign}long long"
        return f"ptx::multiply_high<{wide}, {kind.number}>({a}, {b})", kind
    if kind.bits == 64:
        raise operation.error("there is no .wide of 64 bits")
    result = TYPES[f"{kind.kind.value}{kind.bits * 2}"]
    factors = (f"static_cast<{result.storage}>({signed(x, kind)})" for x in (a, b))
    return f"({' * '.join(factors)})", result


def mul(operation: Operation) -> str:
    """``mul.lo``, ``mul.hi``, ``mul.wide``; without them, of floats."""
    if _is_float(operation):
        return floats.arithmetic(operation, "*")
    part = operation.require("lo", "hi", "wide")
    kind = operation.require_type(*INTEGERS)
    d, a, b = operation.operands(3)
    value, result = _product(
        operation, part, kind, operation.read(a, kind), operation.read(b, kind)
    )
    return operation.write(d, result, value)


def mad(operation: Operation) -> str:
    """``mad.lo``, ``mad.hi``, ``mad.wide``: a product plus a number of the product's type."""
    part = operation.require("lo", "hi", "wide")
    kind = operation.require_type(*INTEGERS)
    d, a, b, c = operation.operands(4)
    value, result = _product(
        operation, part, kind, operation.read(a, kind), operation.read(b, kind)
    )
    total = narrowed(f"{value} + {operation.read(c, result)}", result)
    return operation.write(d, result, total)


def div(operation: Operation) -> str:
    """``div``: truncates; a zero divisor is reported when it happens."""
    if _is_float(operation):
        return floats.div(operation)
    kind = operation.require_type(*INTEGERS)
    d, a, b = operation.operands(3)
    value = f"ptx::divide<{kind.number}>({operation.read(a, kind)}, {operation.read(b, kind)})"
    return operation.write(d, kind, value)


def rem(operation: Operation) -> str:
    """``rem``: has the sign of the dividend."""
    kind = operation.require_type(*INTEGERS)
    d, a, b = operation.operands(3)
    value = f"ptx::remainder<{kind.number}>({operation.read(a, kind)}, {operation.read(b, kind)})"
    return operation.write(d, kind, value)


def absolute(operation: Operation) -> str:
    """``abs``."""
    if _is_float(operation):
        return floats.absolute(operation)
    kind = operation.require_type(*_SIGNED)
    d, a = operation.operands(2)
    return operation.write(d, kind, f"ptx::absolute({operation.read(a, kind)})")


def negate(operation: Operation) -> str:
    """``neg``."""
    if _is_float(operation):
        return floats.negate(operation)
    kind = operation.require_type(*_SIGNED)
    d, a = operation.operands(2)
    return operation.write(d, kind, narrowed(f"0u - {operation.read(a, kind)}", kind))


def _extremum(operation: Operation, name: str, relation: str) -> str:
    if _is_float(operation):
        return floats.extremum(operation, name)
    kind = operation.require_type(*INTEGERS)
    d, *sources = operation.operands(3)
    a, b = (operation.read(x, kind) for x in sources)
    value = f"({signed(a, kind)} {relation} {signed(b, kind)} ? {a} : {b})"
    return operation.write(d, kind, value)


def minimum(operation: Operation) -> str:
    """``min``."""
    return _extremum(operation, "minimum", "<")


def maximum(operation: Operation) -> str:
    """``max``."""
    return _extremum(operation, "maximum", ">")


def popc(operation: Operation) -> str:
    """``popc``: the number of ones, as ``.u32``."""
    kind = operation.require_type("b32", "b64")
    d, a = operation.operands(2)
    count = f"static_cast<std::uint32_t>(__builtin_popcountll({operation.read(a, kind)}))"
    return operation.write(d, B32, count)


def clz(operation: Operation) -> str:
    """``clz``: the number of leading zeros, as ``.u32``; of 0, all bits."""
    kind = operation.require_type("b32", "b64")
    d, a = operation.operands(2)
    return operation.write(d, B32, f"ptx::leading_zeros({operation.read(a, kind)})")


def bfind(operation: Operation) -> str:
    """``bfind{.shiftamt}``: the most significant bit that is no sign, as ``.u32``."""
    as_amount = str(operation.flag("shiftamt")).lower()
    kind = operation.require_type("u32", "u64", "s32", "s64")
    is_signed = str(kind.kind is Kind.SIGNED).lower()
    d, a = operation.operands(2)
    value = f"ptx::find_leading_bit({operation.read(a, kind)}, {is_signed}, {as_amount})"
    return operation.write(d, B32, value)


TABLE = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "mad": mad,
    "div": div,
    "rem": rem,
    "abs": absolute,
    "neg": negate,
    "min": minimum,
    "max": maximum,
    "popc": popc,
    "clz": clz,
    "bfind": bfind,
}
