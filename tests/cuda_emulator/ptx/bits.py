# SPDX-License-Identifier: MIT
"""Logic, shifts and bit fields."""

from __future__ import annotations

from .operation import B32, Operation, narrowed
from .syntax import PREDICATE, TYPES, Integer, Kind, Operand, Type

_BITS = ("b16", "b32", "b64")
_U32 = TYPES["u32"]


def _logic(operation: Operation, sign: str) -> str:
    kind = operation.require_type("pred", *_BITS)
    d, a, b = operation.operands(3)
    if kind == PREDICATE:
        value = f"{operation.read_predicate(a)} {sign} {operation.read_predicate(b)}"
        return operation.write(d, kind, f"({value})")
    value = f"{operation.read(a, kind)} {sign} {operation.read(b, kind)}"
    return operation.write(d, kind, narrowed(value, kind))


def logical_and(operation: Operation) -> str:
    """``and``."""
    return _logic(operation, "&")


def logical_or(operation: Operation) -> str:
    """``or``."""
    return _logic(operation, "|")


def logical_xor(operation: Operation) -> str:
    """``xor``."""
    return _logic(operation, "^")


def logical_not(operation: Operation) -> str:
    """``not``."""
    kind = operation.require_type("pred", *_BITS)
    d, a = operation.operands(2)
    if kind == PREDICATE:
        return operation.write(d, kind, f"!{operation.read_predicate(a)}")
    return operation.write(d, kind, narrowed(f"~{operation.read(a, kind)}", kind))


def lop3(operation: Operation) -> str:
    """``lop3.b32``: any function of three bits, by its table of eight."""
    kind = operation.require_type("b32")
    d, a, b, c, table = operation.operands(5)
    immediate = operation.constant(table)
    if not 0 <= immediate <= 0xFF:
        raise operation.error("a table of 8 bits was expected")
    values = ", ".join(operation.read(x, kind) for x in (a, b, c))
    return operation.write(d, kind, f"ptx::look_up({values}, {immediate}u)")


def _constant_amount(operand: Operand, kind: Type) -> str | None:
    """Return a constant shift amount below the width, which needs no clamp; None of another."""
    if isinstance(operand, Integer) and 0 <= operand.value < kind.bits:
        return str(operand.value)
    return None


def shl(operation: Operation) -> str:
    """``shl``: amounts are unsigned and clamped to the width."""
    kind = operation.require_type(*_BITS)
    d, a, amount = operation.operands(3)
    value = operation.read(a, kind)
    if constant := _constant_amount(amount, kind):
        return operation.write(d, kind, narrowed(f"{value} << {constant}", kind))
    call = f"ptx::shift_left({value}, {operation.read(amount, _U32)})"
    return operation.write(d, kind, call)


def shr(operation: Operation) -> str:
    """``shr``: fills with signs if the type is signed, with zeros otherwise."""
    kind = operation.require_type(*_BITS, "u16", "u32", "u64", "s16", "s32", "s64")
    d, a, amount = operation.operands(3)
    value = operation.read(a, kind)
    constant = _constant_amount(amount, kind)
    if constant and kind.kind is not Kind.SIGNED:
        return operation.write(d, kind, narrowed(f"{value} >> {constant}", kind))
    if constant:
        shifted = f"static_cast<{kind.number}>({value}) >> {constant}"
        return operation.write(d, kind, f"static_cast<{kind.storage}>({shifted})")
    function = "shift_right_signed" if kind.kind is Kind.SIGNED else "shift_right"
    call = f"ptx::{function}({value}, {operation.read(amount, _U32)})"
    return operation.write(d, kind, call)


def shf(operation: Operation) -> str:
    """``shf.l``, ``shf.r``: shift two words as one; amounts are clamped to 32 or wrap at it."""
    direction = {"l": "left", "r": "right"}[operation.require("l", "r")]
    mode = operation.require("clamp", "wrap")
    kind = operation.require_type("b32")
    d, a, b, amount = operation.operands(4)
    count = operation.read(amount, _U32)
    bounded = f"({count} & 31u)" if mode == "wrap" else f"({count} < 32u ? {count} : 32u)"
    call = f"ptx::funnel_shift_{direction}({operation.read(a, kind)}, {operation.read(b, kind)}"
    return operation.write(d, kind, f"{call}, {bounded})")


def bfe(operation: Operation) -> str:
    """``bfe``: a bit field out of a number, with its sign if the type is signed."""
    kind = operation.require_type("u32", "u64", "s32", "s64")
    is_signed = str(kind.kind is Kind.SIGNED).lower()
    d, a, position, length = operation.operands(4)
    place = f"{operation.read(position, _U32)}, {operation.read(length, _U32)}"
    call = f"ptx::extract_bit_field({operation.read(a, kind)}, {place}, {is_signed})"
    return operation.write(d, kind, call)


def bfi(operation: Operation) -> str:
    """``bfi``: a bit field into a number."""
    kind = operation.require_type("b32", "b64")
    d, field, value, position, length = operation.operands(5)
    place = f"{operation.read(position, _U32)}, {operation.read(length, _U32)}"
    values = f"{operation.read(field, kind)}, {operation.read(value, kind)}"
    return operation.write(d, kind, f"ptx::insert_bit_field({values}, {place})")


def brev(operation: Operation) -> str:
    """``brev``: the bits in reverse."""
    kind = operation.require_type("b32", "b64")
    d, a = operation.operands(2)
    return operation.write(d, kind, f"ptx::reverse_bits({operation.read(a, kind)})")


def prmt(operation: Operation) -> str:
    """``prmt.b32``: four bytes out of eight. Its special modes are left over and so an error."""
    operation.require("b32")
    d, a, b, selector = operation.operands(4)
    values = ", ".join(operation.read(x, B32) for x in (a, b, selector))
    return operation.write(d, B32, f"ptx::permute_bytes({values})")


TABLE = {
    "and": logical_and,
    "or": logical_or,
    "xor": logical_xor,
    "not": logical_not,
    "lop3": lop3,
    "shl": shl,
    "shr": shr,
    "shf": shf,
    "bfe": bfe,
    "bfi": bfi,
    "brev": brev,
    "prmt": prmt,
}
