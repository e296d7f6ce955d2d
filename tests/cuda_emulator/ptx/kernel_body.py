# SPDX-License-Identifier: MIT
"""The statements of one kernel; its scopes are flattened by renaming."""

from __future__ import annotations

import re
from collections.abc import Container

from . import operands
from .operands import OperandError
from .reader import NAME, Reader
from .syntax import (
    PREDICATE,
    TYPES,
    Instruction,
    Kernel,
    Label,
    Negated,
    Operand,
    PtxError,
    Register,
    Symbol,
    Target,
    Type,
)

_OPEN = re.compile(r"\{")
_CLOSE = re.compile(r"\}")
_LABEL = re.compile(rf"({NAME})\s*:(?!:)")
_STATEMENT = re.compile(r"[^;{}]*(?:\{[^{}]*\}[^;{}]*)*;")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
_REGISTER_RANGE = re.compile(rf"({NAME})<(\d+)>")
_INSTRUCTION = re.compile(
    rf"(?:@\s*(!?)\s*({NAME})\s+)?([a-z]\w*(?:(?:\.|::)\w+)*)\s*(.*)", re.DOTALL
)
_BRANCHES = frozenset(["bra", "bra.uni"])


def parse_body(reader: Reader, kernel: Kernel, variables: Container[str]) -> None:
    """Read the statements up to the brace that closes the kernel, whose opening one was read.

    Args:
        reader: Where to read.
        kernel: Gets the statements and the registers that occur in them.
        variables: The names of the module's variables.

    Raises:
        PtxError: If a statement is not understood.
    """
    _Body(reader, kernel, variables).parse()


def _identifier(name: str) -> str:
    return name.replace("%", "").replace("$", "_d_")


class _Scope:
    """The names between two braces. Number 0 is the kernel itself."""

    def __init__(self, number: int, parent: _Scope | None) -> None:
        self.number = number
        self.parent = parent
        self.ranges: dict[str, tuple[int, Type]] = {}
        self.registers: dict[str, Register] = {}
        self.labels: dict[str, Label] = {}
        self.parsed: dict[str, Operand] = {}

    def register(self, name: str) -> Register | None:
        """Return the register of that name here or in a scope around."""
        if found := self.registers.get(name):
            return found
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        count, kind = self.ranges.get(stem, (0, PREDICATE))
        if digits and str(int(digits)) == digits and int(digits) < count:
            return self.declare(name, kind)
        return self.parent.register(name) if self.parent else None

    def declare(self, name: str, kind: Type) -> Register:
        """Add a register. ``%r12`` of the kernel itself stays ``r12``; others get a prefix."""
        is_plain = self.number == 0 and re.fullmatch(r"%[a-z]+\d+", name)
        identifier = name[1:] if is_plain else f"scope{self.number}_{_identifier(name)}"
        return self.registers.setdefault(name, Register(identifier, kind))

    def label(self, name: str) -> Label | None:
        """Return the label of that name here or in a scope around."""
        if found := self.labels.get(name):
            return found
        return self.parent.label(name) if self.parent else None


class _Body:
    def __init__(self, reader: Reader, kernel: Kernel, variables: Container[str]) -> None:
        self._reader = reader
        self._kernel = kernel
        self._variables = variables
        self._scope = _Scope(0, None)
        self._scopes = 1
        self._branches: list[tuple[int, str, _Scope]] = []

    def parse(self) -> None:
        reader = self._reader
        while reader.skip():
            if reader.take(_OPEN):
                self._scope = _Scope(self._scopes, self._scope)
                self._scopes += 1
            elif reader.take(_CLOSE):
                if self._scope.parent is None:
                    self._resolve_branches()
                    return
                self._scope = self._scope.parent
            elif label := reader.take(_LABEL):
                self._label(label[1], reader.line(label.start()))
            elif statement := reader.take(_STATEMENT):
                self._statement(statement[0][:-1].strip(), reader.line(statement.start()))
            else:
                raise reader.error("statement without an end")
        raise reader.error("kernel without an end")

    def _label(self, name: str, line: int) -> None:
        if name in self._scope.labels:
            raise PtxError("label is there twice", line, name)
        label = Label(line, f"label{self._scope.number}_{_identifier(name)}")
        self._scope.labels[name] = label
        self._kernel.body.append(label)

    def _statement(self, text: str, line: int) -> None:
        if text.startswith(".reg"):
            self._declare_registers(text, line)
        elif text.startswith(".local"):
            raise PtxError("local memory: registers are spilled, or indexed", line, text)
        elif text.startswith("."):
            raise PtxError(f"directive {text.split()[0]} is not supported here", line, text)
        elif text:
            self._instruction(text, line)

    def _declare_registers(self, text: str, line: int) -> None:
        match = _REGISTERS.fullmatch(text)
        if match is None or match[1] not in TYPES:
            raise PtxError("registers of this type are not supported", line, text)
        kind = TYPES[match[1]]
        for name in (part.strip() for part in match[2].split(",")):
            if numbered := _REGISTER_RANGE.fullmatch(name):
                self._scope.ranges[numbered[1]] = (int(numbered[2]), kind)
            elif re.fullmatch(NAME, name) and name not in self._scope.registers:
                self._scope.declare(name, kind)
            else:
                raise PtxError(f"register {name!r} is not understood", line, text)

    def _instruction(self, text: str, line: int) -> None:
        match = _INSTRUCTION.fullmatch(text)
        if match is None:
            raise PtxError("statement is not understood", line, text)
        negation, guard_name, opcode, rest = match.groups()
        arguments: tuple[Operand, ...] = ()
        if opcode.split(".")[0] == "call":
            raise PtxError("functions and calls are not supported: inline them", line, text)
        try:
            guard = self._guard(negation + guard_name) if guard_name else None
            if opcode in _BRANCHES:
                self._branches.append((len(self._kernel.body), rest, self._scope))
            else:
                arguments = tuple(self._operand(part) for part in operands.split(rest))
        except OperandError as error:
            raise PtxError(str(error), line, text) from None
        parts = tuple(opcode.split("."))
        self._kernel.body.append(Instruction(line, text, guard, parts, arguments))

    def _guard(self, text: str) -> Register | Negated:
        guard = self._operand(text)
        if isinstance(guard, Negated) or (isinstance(guard, Register) and guard.type == PREDICATE):
            return guard
        raise OperandError(f"{text} is no predicate")

    def _operand(self, text: str) -> Operand:
        parsed = self._scope.parsed
        if text not in parsed:
            parsed[text] = operands.parse(text, self._lookup)
        return parsed[text]

    def _lookup(self, name: str) -> Register | Symbol | None:
        if register := self._scope.register(name):
            self._kernel.registers[register.name] = register
            return register
        if name in self._kernel.parameters or name in self._variables:
            return Symbol(name)
        return None

    def _resolve_branches(self) -> None:
        """Give each branch its label, which may stand after it."""
        for index, name, scope in self._branches:
            branch = self._kernel.body[index]
            assert isinstance(branch, Instruction)
            label = scope.label(name)
            if label is None:
                raise PtxError(f"there is no label {name!r}", branch.line, branch.text)
            self._kernel.body[index] = Instruction(
                branch.line, branch.text, branch.guard, branch.opcode, (Target(label.name),)
            )
