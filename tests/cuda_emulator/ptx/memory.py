# SPDX-License-Identifier: MIT
"""Loads and stores. Each is one access of its whole width, as the emulator and a GPU check it."""

from __future__ import annotations

from .operation import Operation
from .syntax import TYPES, Operand, Type

_TYPES = tuple(name for name in TYPES if name != "pred")
_MAX_BYTES = 16

# What a kernel means does not depend on these.
_LOAD_CACHES = ("ca", "cg", "cs", "lu", "cv")
_STORE_CACHES = ("wb", "cg", "cs", "wt")
_EVICTION = tuple(
    f"L1::{hint}"
    for hint in ("evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate")
)
_PREFETCH = ("L2::64B", "L2::128B", "L2::256B")


def _take_space(operation: Operation) -> str:
    """Take the state space; a generic address is one of global memory (see ``cvta``)."""
    space = operation.accept("param", "shared", "shared::cta", "global", "const", "local")
    if space == "local":
        raise operation.error("local memory: registers are spilled, or indexed")
    return (space or "global").removesuffix("::cta")


def _take_width(operation: Operation) -> tuple[int, Type]:
    count = {None: 1, "v2": 2, "v4": 4}[operation.accept("v2", "v4")]
    kind = operation.require_type(*_TYPES)
    if count * kind.bytes > _MAX_BYTES:
        raise operation.error(f"an access of more than {_MAX_BYTES} bytes")
    return count, kind


def ld(operation: Operation) -> str:
    """``ld``: extends a number to a wider register, by sign or by zeros."""
    is_volatile = operation.accept("weak", "volatile") == "volatile"
    space = _take_space(operation)
    if not is_volatile and space == "global":
        operation.accept(*_LOAD_CACHES)
        operation.flag("nc")
        operation.accept(*_EVICTION)
        operation.accept(*_PREFETCH)
    count, kind = _take_width(operation)
    d, source = operation.operands(2)
    items = operation.items(d, count)
    start = f"{kind.storage} value[{count}]; "
    load = _load(operation, space, source, count * kind.bytes)
    return start + load + " " + operation.write_items(items, kind, "value", may_be_wider=True)


def _load(operation: Operation, space: str, source: Operand, size: int) -> str:
    if space == "param":
        place = operation.parameter_place(source, size)
        if place is not None:
            return f"std::memcpy(value, static_cast<const char*>(params) + {place}, {size});"
        address = f"{operation.parameter_bytes()}, {operation.address(source, space)}"
        return f"ptx::load_parameter(params, {address}, value, {size});"
    function = {
        "shared": "cuda_emulator::load_shared",
        "global": "ptx::load_global",
        "const": "ptx::load_constant",
    }[space]
    return f"{function}({operation.address(source, space)}, value, {size});"


def st(operation: Operation) -> str:
    """``st``: of a wider register, the low bits."""
    is_volatile = operation.accept("weak", "volatile") == "volatile"
    space = _take_space(operation)
    if space not in ("shared", "global"):
        raise operation.error(f"a store to .{space}")
    if not is_volatile and space == "global":
        operation.accept(*_STORE_CACHES)
        operation.accept(*_EVICTION)
    count, kind = _take_width(operation)
    target, source = operation.operands(2)
    items = operation.items(source, count)
    values = ", ".join(operation.read(item, kind, may_be_wider=True) for item in items)
    function = "cuda_emulator::store_shared" if space == "shared" else "ptx::store_global"
    address = operation.address(target, space)
    return (
        f"const {kind.storage} value[] = {{{values}}}; "
        f"{function}({address}, value, {count * kind.bytes});"
    )


TABLE = {"ld": ld, "st": st}
