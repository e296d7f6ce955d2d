# SPDX-License-Identifier: MIT
"""Conversions and moves."""

from __future__ import annotations

from .operation import B32, B64, F32, Operation, signed
from .syntax import PREDICATE, TYPES, Kind, Operand, Symbol, Type, Vector

_INTEGERS = tuple(f"{kind}{bits}" for kind in "us" for bits in (8, 16, 32, 64))
_NUMBERS = (*_INTEGERS, "f32", "f64")
_ROUND_TO_INTEGER = {
    "rni": "std::nearbyint",
    "rzi": "std::trunc",
    "rmi": "std::floor",
    "rpi": "std::ceil",
}
_HALVES = ("bf16", "f16")
_PAIRS = ("bf16x2", "f16x2")
_B16 = TYPES["b16"]


def cvt(operation: Operation) -> str:
    """``cvt``: between numbers, of which either register may be wider than its type."""
    rounding = operation.accept("rn", *_ROUND_TO_INTEGER)
    is_flushed = operation.flag("ftz")
    is_saturated = operation.flag("sat")
    if not is_flushed and not is_saturated:
        if rounding == "rn" and (to := operation.accept(*_PAIRS, *_HALVES)):
            return _to_half(operation, to)
        if rounding is None and operation.instruction.opcode[1:] == ("f32", "f16"):
            return _from_half(operation)
    to_kind = operation.require_type(*_NUMBERS)
    from_kind = operation.require_type(*_NUMBERS)
    if is_flushed and "f32" not in (to_kind.name, from_kind.name):
        raise operation.error(".ftz needs .f32")
    d, a = operation.operands(2)
    value = operation.read(a, from_kind, may_be_wider=True)
    if is_flushed and from_kind == F32:
        value = f"ptx::flush({value})"
    value = _converted(operation, value, to_kind, from_kind, rounding, is_saturated)
    if is_flushed and to_kind == F32:
        value = f"ptx::flush({value})"
    return operation.write(d, to_kind, value, may_be_wider=True)


def _converted(
    operation: Operation, value: str, to: Type, of: Type, rounding: str | None, is_saturated: bool
) -> str:
    if of.is_integer and to.is_integer:
        _forbid(operation, rounding)
        if is_saturated:
            return f"ptx::saturate_integer<{to.number}>({signed(value, of)})"
        return f"static_cast<{to.storage}>({signed(value, of)})"
    if of.is_integer:
        if rounding != "rn":
            raise operation.error("only .rn is supported from integers to floats")
        converted = f"static_cast<{to.storage}>({signed(value, of)})"
    elif to.is_integer:
        if rounding not in _ROUND_TO_INTEGER:
            raise operation.error("from floats to integers an integer rounding is needed")
        # Clamps in any case: .sat says nothing more.
        return f"ptx::to_integer<{to.number}>({_ROUND_TO_INTEGER[rounding]}({value}))"
    else:
        converted = _float_to_float(operation, value, to, of, rounding)
    return f"ptx::saturate({converted})" if is_saturated else converted


def _float_to_float(
    operation: Operation, value: str, to: Type, of: Type, rounding: str | None
) -> str:
    if of.bits == to.bits and rounding in _ROUND_TO_INTEGER:
        return f"{_ROUND_TO_INTEGER[rounding]}({value})"
    if of.bits > to.bits:
        if rounding != "rn":
            raise operation.error("only .rn is supported to a smaller float")
    else:
        _forbid(operation, rounding)
    return value if of == to else f"static_cast<{to.storage}>({value})"


def _forbid(operation: Operation, rounding: str | None) -> None:
    if rounding is not None:
        raise operation.error(f".{rounding} does not fit this conversion")


def _to_half(operation: Operation, to: str) -> str:
    """``cvt.rn.bf16x2.f32 d, a, b``: a in the upper half; ``cvt.rn.bf16.f32 d, a``."""
    operation.require("f32")
    is_bfloat16 = str(to.startswith("bf16")).lower()
    if to in _PAIRS:
        d, high, low = operation.operands(3)
        values = f"{operation.read(low, F32)}, {operation.read(high, F32)}"
        return operation.write(d, B32, f"cuda_emulator::pack({is_bfloat16}, {values})")
    d, a = operation.operands(2)
    packed = f"cuda_emulator::pack({is_bfloat16}, {operation.read(a, F32)}, 0.0f)"
    return operation.write(d, _B16, f"static_cast<std::uint16_t>({packed})")


def _from_half(operation: Operation) -> str:
    """``cvt.f32.f16``; that of ``.bf16`` needs sm_90."""
    operation.require_all("f32", "f16")
    d, a = operation.operands(2)
    return operation.write(d, F32, f"cuda_emulator::from_float16({operation.read(a, _B16)})")


def mov(operation: Operation) -> str:
    """``mov``: of a register, a constant, an address, or between a register and its parts."""
    kind = operation.require_type(
        "pred", *(f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64)), "f32", "f64"
    )
    d, a = operation.operands(2)
    if kind == PREDICATE:
        return operation.write(d, kind, operation.read_predicate(a))
    if isinstance(a, Vector):
        return operation.write(d, kind, _joined(operation, a, kind))
    if isinstance(d, Vector):
        return _split(operation, d, a, kind)
    if isinstance(a, Symbol):
        return operation.write(d, kind, _address(operation, a, kind))
    return operation.write(d, kind, operation.read(a, kind))


def _part(operation: Operation, vector: Vector, kind: Type) -> Type:
    """Return the type of one part; the first part is the lowest."""
    count = len(vector.items)
    if kind.kind is not Kind.BITS or count not in (2, 4) or kind.bits // count < 16:
        raise operation.error("this way to split a register is not supported")
    return TYPES[f"b{kind.bits // count}"]


def _joined(operation: Operation, vector: Vector, kind: Type) -> str:
    part = _part(operation, vector, kind)
    return (
        "("
        + " | ".join(
            f"static_cast<{kind.storage}>({operation.read(item, part)}) << {i * part.bits}"
            for i, item in enumerate(vector.items)
        )
        + ")"
    )


def _split(operation: Operation, vector: Vector, source: Operand, kind: Type) -> str:
    part = _part(operation, vector, kind)
    value = operation.read(source, kind)
    parts = ", ".join(
        f"static_cast<{part.storage}>(whole >> {i * part.bits})" for i in range(len(vector.items))
    )
    start = f"const {kind.storage} whole = {value}; const {part.storage} parts[] = {{{parts}}};"
    return start + operation.write_items(vector.items, part, "parts")


def _address(operation: Operation, symbol: Symbol, kind: Type) -> str:
    _, address, own = operation.symbol_address(symbol)
    if not kind.is_integer or kind.bits < own.bits:
        raise operation.error(f"an address of {own.bits} bits does not fit .{kind.name}")
    return f"{kind.storage}{{{address}}}" if kind.bits > own.bits else address


def cvta(operation: Operation) -> str:
    """``cvta{.to}.global.u64``: nothing, since generic addresses here are those of global memory.

    Shared, local, constant and parameter memory have no generic addresses: they stay errors, which
    is why generic ``ld`` and ``st`` can be those of global memory.
    """
    operation.flag("to")
    if (space := operation.accept("shared", "local", "const", "param")) is not None:
        raise operation.error(f"generic addresses of .{space} memory are not supported")
    operation.require("global")
    operation.require("u64")
    d, a = operation.operands(2)
    return operation.write(d, B64, operation.read(a, B64))


TABLE = {"cvt": cvt, "mov": mov, "cvta": cvta}
