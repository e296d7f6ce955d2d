# SPDX-License-Identifier: MIT
"""Kernels of a library or a .cubin as cuobjdump prints them: resources and instructions."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .tools import MissingToolError, disassembler, find_tool, run

_ARCHITECTURE = re.compile(r"\s*code for (sm_\w+)")
_SYMBOL = re.compile(r" Function (\S+):$")  # before its resources
_RESOURCES = re.compile(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_CODE = re.compile(r"\s*Function : (\S+)$")
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z]\S*)\s*(.*?)\s*;")
_COMPILER = re.compile(rb"Cuda compilation tools, release (\d+\.\d+)")


@dataclass(frozen=True)
class Instruction:
    """One SASS instruction.

    Attributes:
        address: Byte offset in its kernel.
        guard: Predicate that switches it off, such as ``!P4``; empty if nothing does.
        opcode: With its modifiers: ``LDGSTS.E.BYPASS.128.ZFILL``.
        operands: As printed.

    """

    address: int
    guard: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """What follows the opcode: ``("E", "BYPASS", "128", "ZFILL")``."""
        return tuple(self.opcode.split(".")[1:])

    @property
    def target(self) -> int | None:
        """The address that a branch, a call or a BSSY names."""
        match = re.search(r"(?:^|\s)0x([0-9a-f]+)$", self.operands)
        return int(match[1], 16) if match else None


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture.

    Attributes:
        architecture: Such as ``sm_80``.
        name: Demangled, without the arguments.
        registers: Of a thread.
        stack: Bytes of a thread; more than 0 means local memory.
        local: Bytes of local memory of a thread.
        static_shared: Bytes that the compiler set aside; dynamic shared memory is not known here.
        instructions: In the order of their addresses.

    """

    architecture: str
    name: str
    registers: int
    stack: int
    local: int
    static_shared: int
    instructions: tuple[Instruction, ...]


def read_kernels(binary: Path) -> list[Kernel]:
    """Read every kernel of a shared library or a .cubin.

    Raises:
        MissingToolError: If cuobjdump, nvdisasm or c++filt is not installed.

    """
    listing = run(str(disassembler()), "-res-usage", "-sass", str(binary))
    parsed = list(_parse(listing.splitlines()))
    names = _demangle({symbol for _, symbol, _, _ in parsed})
    return [
        Kernel(architecture, names[symbol], *resources, tuple(instructions))
        for architecture, symbol, resources, instructions in parsed
    ]


def compiler_release(binary: Path) -> str:
    """Return the CUDA release whose ptxas compiled a library, such as ``13.0``."""
    with tempfile.TemporaryDirectory() as folder:
        run(str(disassembler()), "-xelf", "all", str(binary.resolve()), folder=folder)
        for cubin in sorted(Path(folder).iterdir()):
            if match := _COMPILER.search(cubin.read_bytes()):
                return match[1].decode()
    return "unknown"


def count(instructions: Iterable[Instruction]) -> Counter[str]:
    """Count instructions by name and by class; "all" is their number."""
    counts: Counter[str] = Counter()
    for instruction in instructions:
        counts["all"] += 1
        counts.update(classes_of(instruction))
    return counts


def classes_of(instruction: Instruction) -> Iterator[str]:
    """Yield the classes that an instruction belongs to; none for one that never executes.

    Before a group of LDGSTS ptxas puts ``@!PT LDS RZ, [RZ]``, which only takes an issue slot.
    """
    if instruction.guard == "!PT":
        return
    name, modifiers = instruction.name, instruction.modifiers
    yield name
    match name:
        case "HMMA":
            yield "HMMA.16816" if "16816" in modifiers else "HMMA.other"
        case "LDSM":
            yield "LDSM.x4" if "4" in modifiers else "LDSM.other"
        case "LDGSTS":
            yield "LDGSTS.16" if "128" in modifiers else "LDGSTS.narrow"
        case "MUFU":
            yield f"MUFU.{modifiers[0]}"
        case "LDS" | "STS" | "LDG" | "STG":
            yield f"{name}.{_width(modifiers)}"


def _width(modifiers: tuple[str, ...]) -> int:
    """Bytes that a load or a store moves per thread."""
    widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((widths[modifier] for modifier in modifiers if modifier in widths), 4)


def _parse(
    lines: Iterable[str],
) -> Iterator[tuple[str, str, tuple[int, int, int, int], list[Instruction]]]:
    """Yield architecture, symbol, resources and instructions. Resources come before the code."""
    resources: dict[str, tuple[int, int, int, int]] = {}
    architecture = symbol = ""
    instructions: list[Instruction] = []
    for line in lines:
        if match := _INSTRUCTION.match(line):
            address, guard, opcode, operands = match.groups()
            instructions.append(Instruction(int(address, 16), guard or "", opcode, operands))
        elif line.endswith("*/"):
            continue  # the second half of an instruction's bits
        elif match := _RESOURCES.match(line):
            registers, stack, shared, local = map(int, match.groups())
            resources[symbol] = (registers, stack, local, shared)
        elif match := _ARCHITECTURE.match(line):
            architecture = match[1]
        elif match := _SYMBOL.match(line):
            symbol = match[1]
        elif match := _CODE.match(line):
            instructions = []
            yield architecture, match[1], resources[match[1]], instructions


def _demangle(symbols: set[str]) -> dict[str, str]:
    ordered = sorted(symbols)
    if not ordered:
        return {}
    try:
        filt = find_tool("c++filt")
    except MissingToolError:
        raise MissingToolError("no c++filt (binutils)") from None
    demangled = run(str(filt), *ordered).splitlines()
    return {
        symbol: _without_arguments(name) for symbol, name in zip(ordered, demangled, strict=True)
    }


def _without_arguments(name: str) -> str:
    """Strip ``void`` and the arguments of a demangled function: all of the last parentheses."""
    name = name.removeprefix("void ")
    if not name.endswith(")"):
        return name
    depth = 0
    for index in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[index], 0)
        if depth == 0:
            return name[:index]
    return name
