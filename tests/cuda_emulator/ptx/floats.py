# SPDX-License-Identifier: MIT
"""Float arithmetic: IEEE 754 in the rounding mode that is named, approximations as exact results.

An approximation may differ from the exact result by what its function says (PTX ISA 9.0); results
here are the correctly rounded ones, or those of libm where none are.
"""

from __future__ import annotations

from collections.abc import Callable

from .operation import F32, Operation
from .syntax import Operand

_NEAREST = "rn"
_ROUNDING = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
_FLOATS = ("f32", "f64")

Expression = Callable[..., str]
"""C++ of an operation from the C++ of its operands."""


class FloatOperation:
    """The modifiers that float instructions have in common, and what they do to values."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.kind = F32
        self._rounding = _NEAREST
        self._flushes = False
        self._saturates = False

    def take_rounding(self, is_required: bool = True) -> None:
        """Take a rounding mode; without one it is to nearest."""
        take = self.operation.require if is_required else self.operation.accept
        self._rounding = take(_NEAREST, *_ROUNDING) or _NEAREST

    def take_flush(self) -> None:
        """Take ``.ftz``, which is for ``.f32`` only."""
        self._flushes = self.operation.flag("ftz")

    def take_saturation(self) -> None:
        """Take ``.sat``, here for ``.f32`` only."""
        self._saturates = self.operation.flag("sat")

    def take_type(self, *types: str) -> None:
        """Take one of these types."""
        only_single = self._flushes or self._saturates
        self.kind = self.operation.require_type(*(("f32",) if only_single else types))

    def read(self, operand: Operand) -> str:
        """Return an operand; with ``.ftz``, flushed."""
        value = self.operation.read(operand, self.kind)
        return f"ptx::flush({value})" if self._flushes else value

    def write(self, operand: Operand, value: str) -> str:
        """Assign a result; with ``.ftz`` and ``.sat``, flushed and clamped."""
        if self._flushes:
            value = f"ptx::flush({value})"
        if self._saturates:
            value = f"ptx::saturate({value})"
        return self.operation.write(operand, self.kind, value)

    def rounded(self, expression: Expression, *values: str) -> str:
        """Compute an expression of these values in the rounding mode."""
        if self._rounding == _NEAREST:
            return expression(*values)
        names = "abc"[: len(values)]
        storage = self.kind.storage
        parameters = ", ".join(f"{storage} {name}" for name in names)
        function = f"[]({parameters}) {{ return {expression(*names)}; }}"
        return (
            f"ptx::rounded<{storage}>({', '.join((_ROUNDING[self._rounding], function, *values))})"
        )


def arithmetic(operation: Operation, sign: str) -> str:
    """``add``, ``sub``, ``mul``: to nearest by default.

    Without a rounding mode ptxas may fuse a product and a sum; here each is rounded by itself.
    """
    work = FloatOperation(operation)
    work.take_rounding(is_required=False)
    work.take_flush()
    work.take_saturation()
    work.take_type(*_FLOATS)
    d, a, b = operation.operands(3)
    return work.write(d, work.rounded(lambda a, b: f"({a} {sign} {b})", work.read(a), work.read(b)))


def fma(operation: Operation) -> str:
    """``fma``: rounded once."""
    work = FloatOperation(operation)
    work.take_rounding()
    work.take_flush()
    work.take_saturation()
    work.take_type(*_FLOATS)
    function = "::fmaf" if work.kind.bits == 32 else "::fma"
    d, *sources = operation.operands(4)
    return work.write(
        d, work.rounded(lambda a, b, c: f"{function}({a}, {b}, {c})", *map(work.read, sources))
    )


def div(operation: Operation) -> str:
    """``div.rn`` and other modes; ``div.full``: 2 ulp; ``div.approx``: 2 ulp up to |b| = 2^126."""
    work = FloatOperation(operation)
    approximation = operation.accept("approx", "full")
    if approximation is None:
        work.take_rounding()
    work.take_flush()
    work.take_type(*(("f32",) if approximation else _FLOATS))
    d, a, b = operation.operands(3)
    if approximation == "approx":
        return work.write(d, f"ptx::divide_approximately({work.read(a)}, {work.read(b)})")
    return work.write(d, work.rounded(lambda a, b: f"({a} / {b})", work.read(a), work.read(b)))


def _rounded_or_approximate(operation: Operation, single: Expression, double: Expression) -> str:
    work = FloatOperation(operation)
    is_approximation = operation.flag("approx")
    if not is_approximation:
        work.take_rounding()
    work.take_flush()
    work.take_type(*(("f32",) if is_approximation else _FLOATS))
    d, a = operation.operands(2)
    return work.write(d, work.rounded(single if work.kind.bits == 32 else double, work.read(a)))


def rcp(operation: Operation) -> str:
    """``rcp``; ``rcp.approx``: 1 ulp."""
    return _rounded_or_approximate(operation, lambda a: f"(1.0f / {a})", lambda a: f"(1.0 / {a})")


def sqrt(operation: Operation) -> str:
    """``sqrt``; ``sqrt.approx``: a relative error of 2^-23."""
    return _rounded_or_approximate(operation, lambda a: f"::sqrtf({a})", lambda a: f"::sqrt({a})")


def _approximate(operation: Operation, function: str) -> str:
    work = FloatOperation(operation)
    operation.require("approx")
    work.take_flush()
    work.take_type("f32")
    d, a = operation.operands(2)
    return work.write(d, f"{function}({work.read(a)})")


def rsqrt(operation: Operation) -> str:
    """``rsqrt.approx``: a relative error of 2^-22.9."""
    return _approximate(operation, "1.0f / ::sqrtf")


def lg2(operation: Operation) -> str:
    """``lg2.approx``: off by 2^-22 within (0.5, 2), by a relative 2^-22 elsewhere."""
    return _approximate(operation, "::log2f")


def ex2(operation: Operation) -> str:
    """``ex2.approx``: 2 ulp. With ``.ftz`` it is the emulator's own, as in the source route."""
    is_flushed = operation.instruction.opcode[2:3] == ("ftz",)
    return _approximate(operation, "cuda_emulator::exp2" if is_flushed else "::exp2f")


def extremum(operation: Operation, name: str) -> str:
    """``min``, ``max``: of a number and a NaN the number; with ``.NaN``, NaN."""
    work = FloatOperation(operation)
    work.take_flush()
    function = f"ptx::{name}"
    if operation.flag("NaN"):
        is_maximum = name == "maximum"
        function = "cuda_emulator::max_or_nan" if is_maximum else "ptx::minimum_or_nan"
        work.take_type("f32")
    else:
        work.take_type(*_FLOATS)
    d, a, b = operation.operands(3)
    return work.write(d, f"{function}({work.read(a)}, {work.read(b)})")


def _of_sign(operation: Operation, expression: Expression) -> str:
    work = FloatOperation(operation)
    work.take_flush()
    work.take_type(*_FLOATS)
    d, a = operation.operands(2)
    return work.write(d, expression(work.read(a)))


def absolute(operation: Operation) -> str:
    """``abs``."""
    return _of_sign(operation, lambda a: f"std::fabs({a})")


def negate(operation: Operation) -> str:
    """``neg``."""
    return _of_sign(operation, lambda a: f"-({a})")


def copysign(operation: Operation) -> str:
    """``copysign``: the sign of the first operand with the magnitude of the second."""
    kind = operation.require_type(*_FLOATS)
    d, a, b = operation.operands(3)
    value = f"std::copysign({operation.read(b, kind)}, {operation.read(a, kind)})"
    return operation.write(d, kind, value)


TABLE = {
    "fma": fma,
    "rcp": rcp,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "lg2": lg2,
    "ex2": ex2,
    "copysign": copysign,
}
