# SPDX-License-Identifier: MIT
"""PTX operands: text to syntax, with the names that are in scope."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from .syntax import (
    PREDICATE,
    Address,
    Float,
    Integer,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    SpecialRegister,
    Symbol,
    Vector,
)

Lookup = Callable[[str], Register | Symbol | None]
"""What a name means here; None if nothing."""

_NAME = r"%?[A-Za-z_$][\w$.]*"
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?")
_BITS = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
_DECIMAL = re.compile(r"-?(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|-?\d+[eE][+-]?\d+")
_ADDRESS = re.compile(rf"\[\s*({_NAME})\s*(?:([+-])\s*(-?\w+)\s*)?\]")
_PAIR = re.compile(rf"({_NAME})\s*\|\s*({_NAME})")

SPECIAL_REGISTERS = frozenset(
    [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + ["%laneid", "WARP_SZ"]
    + [f"%lanemask_{relation}" for relation in ("eq", "le", "lt", "ge", "gt")]
)


class OperandError(ValueError):
    """An operand that cannot be read; the caller knows the line."""


def split(text: str) -> list[str]:
    """Split at the commas that stand outside of braces and brackets."""
    if "{" not in text and "[" not in text:
        return [part.strip() for part in text.split(",")] if text else []
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def parse_integer(text: str) -> int:
    """Read an integer constant: decimal, hexadecimal, binary, or octal with a leading 0."""
    if not _INTEGER.fullmatch(text):
        raise OperandError(f"{text} is no integer")
    digits = text.rstrip("uU")
    magnitude = digits.lstrip("-")
    is_octal = len(magnitude) > 1 and magnitude.isdigit() and magnitude.startswith("0")
    value = int(magnitude, 8) if is_octal else int(magnitude, 0)
    return -value if digits.startswith("-") else value


def parse_constant(text: str) -> Integer | Float | None:
    """Read a constant; None if the text is none."""
    if match := _BITS.fullmatch(text):
        digits = match[1] or match[2]
        layout = "f" if match[1] else "d"
        pattern = int(digits, 16)
        value = struct.unpack(">" + layout, bytes.fromhex(digits))[0]
        return Float(value, pattern, 4 * len(digits))
    if _INTEGER.fullmatch(text):
        return Integer(parse_integer(text))
    if _DECIMAL.fullmatch(text):
        return Float(float(text), 0, 0)
    return None


def parse(text: str, lookup: Lookup) -> Operand:
    """Read one operand.

    Raises:
        OperandError: If its form or a name in it is unknown.
    """
    if text.startswith("{") and text.endswith("}"):
        return Vector(tuple(_item(part, lookup) for part in split(text[1:-1].strip())))
    if text.startswith("["):
        return _address(text, lookup)
    if text.startswith("!"):
        return Negated(_predicate(text[1:].strip(), lookup))
    if match := _PAIR.fullmatch(text):
        return Pair(_register(match[1], lookup), _register(match[2], lookup))
    if text == "_":
        return Sink()
    if text in SPECIAL_REGISTERS:
        return SpecialRegister(text)
    if (constant := parse_constant(text)) is not None:
        return constant
    return _named(text, lookup)


def _named(text: str, lookup: Lookup) -> Register | Symbol:
    if not re.fullmatch(_NAME, text):
        raise OperandError(f"operand form {text!r} is not understood")
    found = lookup(text)
    if found is None:
        raise OperandError(f"{text} is not declared or not supported")
    return found


def _register(text: str, lookup: Lookup) -> Register:
    found = _named(text, lookup)
    if not isinstance(found, Register):
        raise OperandError(f"{text} is no register")
    return found


def _predicate(text: str, lookup: Lookup) -> Register:
    register = _register(text, lookup)
    if register.type != PREDICATE:
        raise OperandError(f"{text} is no predicate")
    return register


def _item(text: str, lookup: Lookup) -> Register | Integer | Float | Sink:
    if text == "_":
        return Sink()
    constant = parse_constant(text)
    return _register(text, lookup) if constant is None else constant


def _address(text: str, lookup: Lookup) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise OperandError(f"address form {text!r} is not understood")
    offset = parse_integer(match[3]) if match[3] else 0
    return Address(_named(match[1], lookup), -offset if match[2] == "-" else offset)
