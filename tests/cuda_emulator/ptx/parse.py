# SPDX-License-Identifier: MIT
"""PTX text to syntax. Whatever it does not know is an error that names the line."""

from __future__ import annotations

import re
import struct

from .kernel_body import parse_body
from .operands import parse_constant
from .reader import NAME, Reader
from .syntax import Float, Integer, Kernel, Kind, Module, Parameter, Type, Variable

TARGETS = frozenset(["sm_80"])
"""The instructions of later targets are not in the table of `instructions`."""

_HEADER = re.compile(r"\.(version|target|address_size)\s+(\w[\w.]*(?:\s*,\s*\w+)*)")
_DECLARATION = re.compile(r"(?:\.(visible|weak|extern)\s+)?\.(\w+)\b")
_VARIABLE = re.compile(
    rf"\s*(?:\.align\s+(\d+)\s+)?\.(\w+)\s+({NAME})\s*((?:\[[^\]]*\])*)\s*(?:=\s*([^;]*?)\s*)?;"
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.global\s+)?(?:\.align\s+\d+\s+)?)?"
    rf"({NAME})\s*(?:\[(\d+)\])?"
)
_ENTRY = re.compile(rf"\s*({NAME})\s*(?:\(([^)]*)\))?")
_LIMIT = re.compile(r"\s*\.(\w+)\s+(\d+(?:\s*,\s*\d+)*)")
_OPEN = re.compile(r"\s*\{")

# Of how many threads a block has, only these say something that a launch may get wrong.
_CHECKED_LIMITS = frozenset(["maxntid", "reqntid"])
_IGNORED_LIMITS = frozenset(["minnctapersm", "maxnreg"])


def parse(text: str) -> Module:
    """Read a whole PTX text.

    Raises:
        PtxError: If there is anything in it that is not understood.
    """
    reader = Reader(text)
    module = Module()
    while reader.skip():
        if match := reader.take(_HEADER):
            _check_header(reader, match)
        elif match := reader.take(_DECLARATION):
            _declaration(reader, module, match)
        else:
            raise reader.error("neither a directive nor a declaration")
    return module


def _check_header(reader: Reader, match: re.Match[str]) -> None:
    name, value = match.groups()
    if name == "target" and value not in TARGETS:
        raise reader.error(f"only {', '.join(TARGETS)} is supported", match.start())
    if name == "address_size" and value != "64":
        raise reader.error("only 64-bit addresses are supported", match.start())


def _declaration(reader: Reader, module: Module, match: re.Match[str]) -> None:
    linkage, kind = match.groups()
    if kind == "entry":
        module.kernels.append(_kernel(reader, module, is_weak=linkage == "weak"))
    elif kind in ("shared", "const", "global"):
        variable = _variable(reader, linkage, kind, match.start())
        module.variables[variable.name] = variable
    elif kind == "func":
        raise reader.error("functions and calls are not supported: inline them", match.start())
    else:
        raise reader.error(f"directive .{kind} is not supported", match.start())


# ---- Variables -----------------------------------------------------------------------------------


def _variable(reader: Reader, linkage: str | None, space: str, start: int) -> Variable:
    match = reader.take(_VARIABLE)
    if match is None:
        raise reader.error("this form of variable is not supported", start)
    alignment, type_name, name, extent, initial = match.groups()
    element = reader.type(type_name, start)
    content = None
    if space == "shared":
        if linkage != "extern" or extent != "[]":
            raise reader.error("static shared memory is not supported: make it dynamic", start)
    elif linkage == "extern":
        raise reader.error("variables of other modules are not supported", start)
    else:
        content = _content(reader, element, extent, initial, start)
    return Variable(reader.line(start), space, name, int(alignment or element.bytes), content)


def _content(reader: Reader, element: Type, extent: str, initial: str | None, start: int) -> bytes:
    if extent and not re.fullmatch(r"\[\d+\]", extent):
        raise reader.error("only arrays of one known dimension are supported", start)
    count = int(extent[1:-1]) if extent else 1
    values = re.split(r"\s*,\s*", initial.strip("{} \t\n")) if initial else []
    if len(values) > count:
        raise reader.error("more values than elements", start)
    return b"".join(_packed(reader, element, value, start) for value in values).ljust(
        count * element.bytes, b"\0"
    )


def _packed(reader: Reader, element: Type, text: str, start: int) -> bytes:
    constant = parse_constant(text)
    if isinstance(constant, Integer) and element.is_integer:
        return (constant.value % (1 << element.bits)).to_bytes(element.bytes, "little")
    if isinstance(constant, Float) and element.kind is Kind.FLOAT:
        if constant.bits == element.bits:
            return constant.pattern.to_bytes(element.bytes, "little")
        if constant.bits == 0:
            return struct.pack("<f" if element.bits == 32 else "<d", constant.value)
    raise reader.error(f"initial value {text} is not supported", start)


# ---- Kernels -------------------------------------------------------------------------------------


def _kernel(reader: Reader, module: Module, is_weak: bool) -> Kernel:
    start = reader.position
    match = reader.take(_ENTRY)
    if match is None:
        raise reader.error("kernel without a name", start)
    parameters = _parameters(reader, match[2] or "", start)
    kernel = Kernel(reader.line(start), match[1], is_weak, parameters)
    while limit := reader.take(_LIMIT):
        _limit(reader, kernel, limit)
    if not reader.take(_OPEN):
        raise reader.error("the body of the kernel was expected")
    parse_body(reader, kernel, module.variables)
    return kernel


def _limit(reader: Reader, kernel: Kernel, match: re.Match[str]) -> None:
    if match[1] in _CHECKED_LIMITS:
        kernel.limits[match[1]] = 1
        for extent in match[2].split(","):
            kernel.limits[match[1]] *= int(extent)
    elif match[1] not in _IGNORED_LIMITS:
        raise reader.error(f"directive .{match[1]} is not supported", match.start(1))


def _parameters(reader: Reader, text: str, start: int) -> dict[str, Parameter]:
    """Lay the parameters out as the parameter block of a launch: in order, each aligned."""
    parameters: dict[str, Parameter] = {}
    end = 0
    for declaration in filter(None, (part.strip() for part in text.split(","))):
        match = _PARAMETER.fullmatch(declaration)
        if match is None:
            raise reader.error(f"parameter {declaration!r} is not supported", start)
        element = reader.type(match[2], start).bytes
        alignment = int(match[1] or element)
        offset = -(-end // alignment) * alignment
        parameters[match[3]] = Parameter(match[3], offset, element * int(match[4] or 1))
        end = offset + parameters[match[3]].size
    return parameters
