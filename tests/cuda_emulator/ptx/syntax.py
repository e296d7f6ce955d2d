# SPDX-License-Identifier: MIT
"""What a PTX text says, as typed data. Names, scopes and types are resolved; nothing is C++ yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class PtxError(ValueError):
    """PTX that cannot be translated faithfully.

    Attributes:
        problem: What is wrong, one clause.
        line: Line of the PTX text, from 1.
        text: The statement.
    """

    def __init__(self, problem: str, line: int, text: str = "") -> None:
        self.problem = problem
        self.line = line
        self.text = " ".join(text.split())
        super().__init__(f"PTX line {line}: {problem}" + (f": {self.text}" if self.text else ""))


class Kind(Enum):
    """What the bits of a type mean."""

    PREDICATE = "pred"
    BITS = "b"
    UNSIGNED = "u"
    SIGNED = "s"
    FLOAT = "f"


@dataclass(frozen=True)
class Type:
    """A fundamental type of PTX and what holds it in C++: integers always as unsigned."""

    name: str
    kind: Kind
    bits: int

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def storage(self) -> str:
        """The C++ type of registers and values."""
        if self.kind is Kind.PREDICATE:
            return "bool"
        if self.kind is Kind.FLOAT:
            return "float" if self.bits == 32 else "double"
        return f"std::uint{self.bits}_t"

    @property
    def number(self) -> str:
        """The C++ type that computes, compares and extends as PTX does."""
        return f"std::int{self.bits}_t" if self.kind is Kind.SIGNED else self.storage

    @property
    def is_integer(self) -> bool:
        return self.kind in (Kind.BITS, Kind.UNSIGNED, Kind.SIGNED)


PREDICATE = Type("pred", Kind.PREDICATE, 1)
TYPES = {
    "pred": PREDICATE,
    **{
        f"{kind.value}{bits}": Type(f"{kind.value}{bits}", kind, bits)
        for kind in (Kind.BITS, Kind.UNSIGNED, Kind.SIGNED)
        for bits in (8, 16, 32, 64)
    },
    **{f"f{bits}": Type(f"f{bits}", Kind.FLOAT, bits) for bits in (32, 64)},
}
"""By name. The 16-bit floats are no types of registers: they live in ``.b16`` and ``.b32``."""


# ---- Operands ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Register:
    """A register; ``name`` is unique within the kernel and a C++ identifier."""

    name: str
    type: Type


@dataclass(frozen=True)
class SpecialRegister:
    """A predefined register such as ``%tid.x``."""

    name: str


@dataclass(frozen=True)
class Integer:
    """An integer constant as written."""

    value: int


@dataclass(frozen=True)
class Float:
    """A float constant. ``bits`` is 32 or 64 for ``0f…`` and ``0d…``, 0 for a decimal fraction."""

    value: float
    pattern: int
    bits: int


@dataclass(frozen=True)
class Symbol:
    """A parameter or a variable: its address."""

    name: str


@dataclass(frozen=True)
class Negated:
    """``!p``."""

    register: Register


@dataclass(frozen=True)
class Sink:
    """``_``: a destination that nobody reads."""


@dataclass(frozen=True)
class Pair:
    """``d|p``: two destinations."""

    first: Register
    second: Register


@dataclass(frozen=True)
class Vector:
    """``{a, b, …}``."""

    items: tuple[Register | Integer | Float | Sink, ...]


@dataclass(frozen=True)
class Address:
    """``[base + offset]``."""

    base: Register | Symbol
    offset: int


@dataclass(frozen=True)
class Target:
    """The operand of a branch; ``name`` is the C++ label, unique within the kernel."""

    name: str


Operand = (
    Register
    | SpecialRegister
    | Integer
    | Float
    | Symbol
    | Negated
    | Sink
    | Pair
    | Vector
    | Address
    | Target
)


# ---- Statements ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Label:
    """A place to branch to."""

    line: int
    name: str


@dataclass(frozen=True)
class Instruction:
    """``@guard opcode operands;`` with the opcode's parts between dots."""

    line: int
    text: str
    guard: Register | Negated | None
    opcode: tuple[str, ...]
    operands: tuple[Operand, ...]


# ---- Module --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter: ``size`` bytes at ``offset`` of the parameter block."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Variable:
    """A module variable.

    Attributes:
        space: ``shared``, ``const`` or ``global``.
        alignment: In bytes.
        content: Initial bytes; None for the dynamic shared memory, whose size is unknown.
    """

    line: int
    space: str
    name: str
    alignment: int
    content: bytes | None


@dataclass
class Kernel:
    """An ``.entry``.

    Attributes:
        is_weak: Whether other modules may define it as well.
        limits: The directives ``maxntid`` and ``reqntid``: name to number of threads.
        registers: Those that occur, by name.
    """

    line: int
    name: str
    is_weak: bool
    parameters: dict[str, Parameter]
    limits: dict[str, int] = field(default_factory=dict)
    registers: dict[str, Register] = field(default_factory=dict)
    body: list[Instruction | Label] = field(default_factory=list)


@dataclass
class Module:
    """A whole PTX text."""

    variables: dict[str, Variable] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
