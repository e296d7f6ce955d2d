# SPDX-License-Identifier: MIT
"""Asynchronous copies from global to shared memory."""

from __future__ import annotations

from .operation import Operation
from .syntax import TYPES

_PREFETCH = ("L2::64B", "L2::128B", "L2::256B")
_SIZES = {"ca": (4, 8, 16), "cg": (16,)}
_U32 = TYPES["u32"]


def cp_async(operation: Operation) -> str:
    """``cp.async.ca``, ``cp.async.cg``: without a source size, the whole of the size."""
    sizes = _SIZES[operation.require(*_SIZES)]
    operation.require("shared", "shared::cta")
    operation.require("global")
    operation.accept(*_PREFETCH)
    target, source, size, *source_size = operation.operands(3, 4)
    copied = operation.constant(size)
    if copied not in sizes:
        raise operation.error(f"a copy of {copied} bytes; may have {sizes}")
    given = operation.read(source_size[0], _U32) if source_size else str(copied)
    return (
        f"cuda_emulator::copy_async({operation.address(target, 'shared')}, "
        f"reinterpret_cast<const void*>({operation.address(source, 'global')}), {copied}, "
        f"static_cast<int>({given}));"
    )


def commit_group(operation: Operation) -> str:
    """``cp.async.commit_group``."""
    operation.operands(0)
    return "cuda_emulator::copy_async_commit();"


def wait_group(operation: Operation) -> str:
    """``cp.async.wait_group N``."""
    (groups,) = operation.operands(1)
    count = operation.constant(groups)
    if count < 0:
        raise operation.error("a negative number of groups")
    return f"cuda_emulator::copy_async_wait({count});"


def wait_all(operation: Operation) -> str:
    """``cp.async.wait_all``: commits what is open, and waits for every group."""
    operation.operands(0)
    return "cuda_emulator::copy_async_commit(); cuda_emulator::copy_async_wait(0);"


TABLE = {
    "cp.async": cp_async,
    "cp.async.commit_group": commit_group,
    "cp.async.wait_group": wait_group,
    "cp.async.wait_all": wait_all,
}
