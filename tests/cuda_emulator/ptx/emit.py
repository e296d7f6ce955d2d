# SPDX-License-Identifier: MIT
"""Syntax to C++: a unit per module, a function per kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from . import instructions
from .definedness import Step, read_before_written
from .operation import Operation, variable_name
from .syntax import PREDICATE, Instruction, Kernel, Label, Module, PtxError, Variable

_INCLUDES = ("cfenv", "cmath", "cstdint", "cstring", "limits", "string", "type_traits")
_UNUSED = ("unused-but-set-variable", "unused-variable", "unused-label")
_LEAVE = frozenset(["ret", "exit"])
_PER_LINE = 4  # registers
_ROOM = 64  # bytes


def emit(module: Module) -> str:
    """Return the C++ unit of a module.

    Raises:
        PtxError: If an instruction is not understood.
    """
    prelude = (Path(__file__).parent / "prelude.h").read_text(encoding="utf-8")
    lines = [
        "// Translated from PTX by tests/cuda_emulator/ptx; the numbers are lines of the PTX.",
        '#include "cuda_emulator.h"',
        *(f"#include <{name}>" for name in _INCLUDES),
        *(f'#pragma GCC diagnostic ignored "-W{name}"' for name in _UNUSED),
        "",
        "namespace cuda_emulator {",
        "void report(const std::string& what);",
        "}",
        *_variables(module.variables.values()),
        prelude,
    ]
    for kernel in module.kernels:
        lines += _KernelEmitter(kernel, module).lines()
    return "\n".join(lines) + "\n"


# ---- Module variables ----------------------------------------------------------------------------


def _variables(variables: Iterable[Variable]) -> Iterator[str]:
    """Yield the constant variables, and the function that says whether an access meets one."""
    held = [variable for variable in variables if variable.content is not None]
    yield "namespace {"
    for variable in held:
        values = ", ".join(map(str, variable.content or b""))
        # Room behind it, so that its end is not the beginning of the next one.
        yield (
            f"alignas({variable.alignment}) const unsigned char {variable_name(variable.name)}"
            f"[{len(variable.content or b'') + _ROOM}] = {{{values}}};  // {variable.line}"
        )
    yield "[[maybe_unused]] inline bool is_module_variable(std::uint64_t address, int bytes) {"
    yield "  const auto size = static_cast<std::uint64_t>(bytes);"
    yield "  static_cast<void>(address), static_cast<void>(size);"
    for variable in held:
        offset = f"address - reinterpret_cast<std::uint64_t>({variable_name(variable.name)})"
        extent = len(variable.content or b"")
        yield f"  if (const std::uint64_t at = {offset}; at < {extent}) {{"
        yield f"    return {extent} - at >= size && address % size == 0;"
        yield "  }"
    yield "  return false;"
    yield "}"
    yield "}  // namespace"


# ---- Kernels -------------------------------------------------------------------------------------


class _KernelEmitter:
    def __init__(self, kernel: Kernel, module: Module) -> None:
        self._kernel = kernel
        self._variables = module.variables
        self._steps: list[Step] = []

    def lines(self) -> list[str]:
        """Return the function of the kernel."""
        body = [self._statement(statement) for statement in self._kernel.body]
        weak = "__attribute__((weak)) " if self._kernel.is_weak else ""
        return [
            "",
            f'extern "C" {weak}void {self._kernel.name}(const void* params);',
            f'extern "C" {weak}void {self._kernel.name}(const void* params) {{',
            "  static_cast<void>(params);",
            self._launch_check(),
            *self._registers(),
            *body,
            "}",
        ]

    def _launch_check(self) -> str:
        limits = self._kernel.limits
        alignment = max(
            (v.alignment for v in self._variables.values() if v.space == "shared"), default=1
        )
        return (
            f"  ptx::check_launch({limits.get('maxntid', 0)}, {limits.get('reqntid', 0)}, "
            f"{alignment});"
        )

    def _statement(self, statement: Instruction | Label) -> str:
        if isinstance(statement, Label):
            self._steps.append(Step(label=statement.name))
            return f"{statement.name}:;"
        operation = Operation(statement, self._kernel, self._variables)
        code = instructions.translate(operation)
        guard = statement.guard
        if guard is not None:
            condition = operation.read_predicate(guard)
            code = f"if ({condition}) {{ {code} }}"
        elif code.count(";") > 1:
            code = f"{{ {code} }}"
        self._steps.append(
            Step(
                reads=operation.reads,
                writes=operation.writes,
                target=operation.target,
                is_conditional=guard is not None,
                leaves=statement.opcode[0] in _LEAVE,
            )
        )
        return f"  {code}  // {statement.line}"

    def _registers(self) -> Iterator[str]:
        """Yield the declarations. Registers start as poison, so that a use too early shows."""
        self._check_early()
        by_type: dict[str, list[str]] = {}
        for register in self._kernel.registers.values():
            storage = register.type.storage
            by_type.setdefault(storage, []).append(f"{register.name} = ptx::poison<{storage}>")
        for storage, names in by_type.items():
            for i in range(0, len(names), _PER_LINE):
                yield f"  {storage} {', '.join(names[i : i + _PER_LINE])};"

    def _check_early(self) -> None:
        """Refuse what poison cannot show: a predicate, and what nobody ever writes."""
        written = set().union(*(step.writes for step in self._steps))
        for name in sorted(read_before_written(self._steps)):
            register = self._kernel.registers[name]
            if name not in written:
                problem = f"register {name} is read but never written"
            elif register.type == PREDICATE:
                problem = f"predicate {name} may be read before it is written"
            else:
                continue
            line, text = self._first_reader(name)
            raise PtxError(problem, line, text)

    def _first_reader(self, name: str) -> tuple[int, str]:
        for statement, step in zip(self._kernel.body, self._steps, strict=True):
            if name in step.reads and isinstance(statement, Instruction):
                return statement.line, statement.text
        return self._kernel.line, self._kernel.name
