# SPDX-License-Identifier: MIT
"""One instruction on its way to C++: its modifiers, taken in order, and its operands as C++."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .syntax import (
    PREDICATE,
    TYPES,
    Address,
    Float,
    Instruction,
    Integer,
    Kernel,
    Kind,
    Negated,
    Operand,
    Pair,
    PtxError,
    Register,
    Sink,
    SpecialRegister,
    Symbol,
    Target,
    Type,
    Variable,
    Vector,
)

B32 = TYPES["b32"]
B64 = TYPES["b64"]
F32 = TYPES["f32"]

_INDICES = {
    "%tid": "thread_index",
    "%ntid": "block_dim",
    "%ctaid": "block_index",
    "%nctaid": "grid_dim",
}
_LANE_MASKS = {
    "eq": "1u << ptx::lane()",
    "lt": "(1u << ptx::lane()) - 1u",
    "le": "~0u >> (31u - ptx::lane())",
    "gt": "~1u << ptx::lane()",
    "ge": "~0u << ptx::lane()",
}


def literal(value: int, kind: Type) -> str:
    """Write an integer as a C++ literal that has exactly the storage type."""
    digits = hex(value % (1 << kind.bits))
    return digits + "u" if kind.bits == 32 else f"{kind.storage}{{{digits}}}"


def float_literal(value: float, pattern: int, kind: Type) -> str:
    """Write a float of which the bits are known as C++ with exactly those bits."""
    if math.isfinite(value):
        return float.hex(value) + ("f" if kind.bits == 32 else "")
    return f"ptx::bits<{kind.storage}>({literal(pattern, TYPES[f'b{kind.bits}'])})"


def signed(value: str, kind: Type) -> str:
    """Read a value as the number that its type says: only signed integers need a cast."""
    return f"static_cast<{kind.number}>({value})" if kind.kind is Kind.SIGNED else value


def narrowed(expression: str, kind: Type) -> str:
    """Cast integer arithmetic back to a storage type that C++ has promoted to int."""
    return f"static_cast<{kind.storage}>({expression})" if kind.bits < 32 else f"({expression})"


class Operation:
    """An instruction whose modifiers are taken one by one, in the order of the ISA.

    Attributes:
        reads: The registers whose values were asked for.
        writes: The registers that were assigned.
        target: The label, if it branches.
    """

    def __init__(
        self, instruction: Instruction, kernel: Kernel, variables: Mapping[str, Variable]
    ) -> None:
        self.instruction = instruction
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.target: str | None = None
        self._kernel = kernel
        self._variables = variables
        self._modifiers = list(instruction.opcode)

    def error(self, problem: str) -> PtxError:
        """Return the error that names this instruction's line."""
        return PtxError(problem, self.instruction.line, self.instruction.text)

    # ---- Modifiers ---------------------------------------------------------------------------

    def accept(self, *choices: str) -> str | None:
        """Take the next part of the opcode if it is one of these."""
        if self._modifiers and self._modifiers[0] in choices:
            return self._modifiers.pop(0)
        return None

    def flag(self, name: str) -> bool:
        """Take the next part of the opcode if it is this one; say whether it was."""
        return self.accept(name) is not None

    def require(self, *choices: str) -> str:
        """Take the next part of the opcode, which must be one of these."""
        taken = self.accept(*choices)
        if taken is None:
            found = f".{self._modifiers[0]}" if self._modifiers else "the end"
            raise self.error(f"expected .{' or .'.join(choices)} in the opcode, found {found}")
        return taken

    def require_all(self, *parts: str) -> None:
        """Take these parts of the opcode, one after the other."""
        for part in parts:
            self.require(part)

    def require_type(self, *choices: str) -> Type:
        """Take the next part of the opcode, which must be one of these types."""
        return TYPES[self.require(*choices)]

    def check_modifiers_taken(self) -> None:
        """Raise an error if some part of the opcode had no meaning to anybody."""
        if self._modifiers:
            raise self.error(f"modifier .{self._modifiers[0]} is not supported here")

    # ---- Operands ----------------------------------------------------------------------------

    def operands(self, *counts: int) -> tuple[Operand, ...]:
        """Return the operands, of which there must be as many as one of the counts says."""
        found = self.instruction.operands
        if len(found) not in counts:
            wanted = " or ".join(map(str, counts))
            raise self.error(f"expected {wanted} operands, found {len(found)}")
        return found

    def read(self, operand: Operand, kind: Type, may_be_wider: bool = False) -> str:
        """Return an operand as a C++ expression of the type's storage.

        Args:
            operand: A register or a constant.
            kind: The type that the instruction gives it.
            may_be_wider: Whether a wider register gives its low bits.
        """
        if isinstance(operand, Register):
            return self._read_register(operand, kind, may_be_wider)
        if isinstance(operand, SpecialRegister) and kind.is_integer and kind.bits == 32:
            return self._read_special(operand.name)
        if isinstance(operand, Integer):
            return self._read_integer(operand, kind)
        if isinstance(operand, Float):
            return self._read_float(operand, kind)
        raise self.error(f"operand {operand} does not fit .{kind.name}")

    def read_predicate(self, operand: Operand) -> str:
        """Return a predicate, perhaps negated, or a constant one, as a C++ bool."""
        if isinstance(operand, Negated):
            return "!" + self.read(operand.register, PREDICATE)
        if isinstance(operand, Integer):
            return "true" if operand.value else "false"
        return self.read(operand, PREDICATE)

    def _read_register(self, register: Register, kind: Type, may_be_wider: bool) -> str:
        self.reads.add(register.name)
        own = register.type
        if own == kind or (own.is_integer and kind.is_integer and own.bits == kind.bits):
            return register.name
        self._check_kinds(register, kind)
        if own.bits == kind.bits:
            return f"ptx::bits<{kind.storage}>({register.name})"
        if may_be_wider and own.bits > kind.bits and own.is_integer and kind.is_integer:
            return f"static_cast<{kind.storage}>({register.name})"
        raise self.error(f"a .{own.name} register does not fit .{kind.name}")

    def _check_kinds(self, register: Register, kind: Type) -> None:
        own = register.type
        is_untyped = Kind.BITS in (own.kind, kind.kind)
        if PREDICATE in (own, kind) or not (is_untyped or own.is_integer == kind.is_integer):
            raise self.error(f"a .{own.name} register does not fit .{kind.name}")

    def _read_special(self, name: str) -> str:
        if name == "WARP_SZ":
            return "32u"
        if name == "%laneid":
            return "ptx::lane()"
        if name.startswith("%lanemask_"):
            return f"({_LANE_MASKS[name.removeprefix('%lanemask_')]})"
        index, axis = name.split(".")
        return f"cuda_emulator::{_INDICES[index]}().{axis}"

    def _read_integer(self, constant: Integer, kind: Type) -> str:
        if not kind.is_integer:
            raise self.error(f"an integer constant does not fit .{kind.name}")
        if not -(1 << (kind.bits - 1)) <= constant.value < 1 << kind.bits:
            raise self.error(f"{constant.value} does not fit .{kind.name}")
        return literal(constant.value, kind)

    def _read_float(self, constant: Float, kind: Type) -> str:
        if constant.bits == kind.bits and kind.kind is Kind.BITS:
            return literal(constant.pattern, kind)
        if kind.kind is Kind.FLOAT and constant.bits == kind.bits:
            return float_literal(constant.value, constant.pattern, kind)
        if kind.kind is Kind.FLOAT and constant.bits == 0:
            return f"static_cast<{kind.storage}>({float.hex(constant.value)})"
        raise self.error(f"a float constant of this form does not fit .{kind.name}")

    def write(self, operand: Operand, kind: Type, value: str, may_be_wider: bool = False) -> str:
        """Return the C++ statement that assigns a value of the type's storage.

        Args:
            operand: The destination.
            kind: The type that the instruction gives it.
            value: C++ expression.
            may_be_wider: Whether a wider register gets the number, extended by its sign.
        """
        if not isinstance(operand, Register):
            raise self.error(f"{operand} is no destination")
        self.writes.add(operand.name)
        own = operand.type
        if own == kind or (own.is_integer and kind.is_integer and own.bits == kind.bits):
            return f"{operand.name} = {value};"
        self._check_kinds(operand, kind)
        if own.bits == kind.bits:
            return f"{operand.name} = ptx::bits<{own.storage}>({value});"
        if may_be_wider and own.bits > kind.bits and own.is_integer and kind.is_integer:
            extended = signed(value, kind)
            return f"{operand.name} = static_cast<{own.storage}>({extended});"
        raise self.error(f"a .{own.name} register does not fit .{kind.name}")

    def write_pair(self, operand: Operand, kind: Type, value: str, predicate: str) -> str:
        """Assign ``d`` or ``d|p``; the predicate's C++ expression is used only in the latter."""
        if isinstance(operand, Pair):
            return self.write(operand.first, kind, value) + self.write(
                operand.second, PREDICATE, predicate
            )
        return self.write(operand, kind, value)

    def items(self, operand: Operand, count: int) -> tuple[Operand, ...]:
        """Return the items of a vector of that many; for a count of 1, the operand itself."""
        if isinstance(operand, Vector):
            if len(operand.items) != count:
                raise self.error(f"expected a vector of {count}, found {len(operand.items)}")
            return operand.items
        if count != 1:
            raise self.error(f"expected a vector of {count}")
        return (operand,)

    def write_items(
        self, items: tuple[Operand, ...], kind: Type, array: str, may_be_wider: bool = False
    ) -> str:
        """Assign the elements of a C++ array to the items of a vector, but for ``_``."""
        return "".join(
            self.write(item, kind, f"{array}[{i}]", may_be_wider)
            for i, item in enumerate(items)
            if not isinstance(item, Sink)
        )

    # ---- Addresses and constants -------------------------------------------------------------

    def constant(self, operand: Operand) -> int:
        """Return an operand that must be an integer constant."""
        if not isinstance(operand, Integer):
            raise self.error("expected an integer constant")
        return operand.value

    def branch_target(self) -> str:
        """Return the label of a branch."""
        (target,) = self.operands(1)
        assert isinstance(target, Target)
        self.target = target.name
        return target.name

    def symbol_address(self, symbol: Symbol) -> tuple[str, str, Type]:
        """Return the state space, the address as C++ and its type of a parameter or variable."""
        if parameter := self._kernel.parameters.get(symbol.name):
            base = "reinterpret_cast<std::uint64_t>(params)"
            return "param", f"({base} + {parameter.offset}u)", B64
        variable = self._variables[symbol.name]
        if variable.space == "shared":
            return "shared", "cuda_emulator::shared_memory()", B32
        return variable.space, f"reinterpret_cast<std::uint64_t>({variable_name(symbol.name)})", B64

    def parameter_place(self, address: Operand, size: int) -> int | None:
        """Return the offset of a parameter access; None if only the run tells it."""
        if not isinstance(address, Address):
            raise self.error("expected an address")
        if not isinstance(address.base, Symbol):
            return None
        parameter = self._kernel.parameters.get(address.base.name)
        if parameter is None:
            raise self.error(f"{address.base.name} is no parameter")
        if not 0 <= address.offset <= parameter.size - size:
            raise self.error(f"outside of the {parameter.size} bytes of the parameter")
        if (parameter.offset + address.offset) % size:
            raise self.error(f"not aligned to {size} bytes")
        return parameter.offset + address.offset

    def parameter_bytes(self) -> int:
        """Return the size of the parameter block."""
        return max((p.offset + p.size for p in self._kernel.parameters.values()), default=0)

    def address(self, operand: Operand, space: str) -> str:
        """Return an address as C++: 32 bits in shared memory, 64 elsewhere."""
        if not isinstance(operand, Address):
            raise self.error("expected an address")
        base, kind = self._base(operand.base, space)
        if operand.offset:
            base = f"{base} + {literal(operand.offset, kind)}"
        if space == "shared" and kind.bits == 64:
            return f"ptx::shared_address({base})"
        if space != "shared" and kind.bits != 64:
            raise self.error(f"an address of {kind.bits} bits in .{space}")
        return base

    def _base(self, base: Register | Symbol, space: str) -> tuple[str, Type]:
        if isinstance(base, Symbol):
            found, address, kind = self.symbol_address(base)
            if found != space:
                raise self.error(f"{base.name} is in .{found}, not in .{space}")
            return address, kind
        if not base.type.is_integer or base.type.bits < 32:
            raise self.error(f"a .{base.type.name} register is no address")
        self.reads.add(base.name)
        return base.name, base.type


def variable_name(symbol: str) -> str:
    """Return the C++ name of a module variable."""
    return "variable_" + symbol.replace("$", "_d_").replace("%", "_p_")
