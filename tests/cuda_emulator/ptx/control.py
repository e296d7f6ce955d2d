# SPDX-License-Identifier: MIT
"""Control flow and barriers of the block."""

from __future__ import annotations

from .operation import Operation
from .syntax import TYPES

_U32 = TYPES["u32"]


def bra(operation: Operation) -> str:
    """``bra{.uni}``."""
    operation.flag("uni")
    return f"goto {operation.branch_target()};"


def leave(operation: Operation) -> str:
    """``ret{.uni}``, ``exit``: of a kernel they are the same."""
    operation.flag("uni")
    operation.operands(0)
    return "return;"


def _barrier(operation: Operation, function: str, counts: tuple[int, ...]) -> str:
    barrier, *threads = operation.operands(*counts)
    number = f"static_cast<int>({operation.read(barrier, _U32)})"
    count = f"static_cast<int>({operation.read(threads[0], _U32)})" if threads else "-1"
    return f"cuda_emulator::{function}({number}, {count});"


def bar(operation: Operation) -> str:
    """``bar{.cta}.sync a{, b}``, ``bar{.cta}.arrive a, b``; as ``barrier``, ``.aligned`` as well.

    The emulator waits for single threads, so alignment asks nothing of it: a barrier that a warp
    reaches in parts is not noticed.
    """
    operation.flag("cta")
    action = operation.require("sync", "arrive")
    if operation.instruction.opcode[0] == "barrier":
        operation.flag("aligned")
    if action == "sync":
        return _barrier(operation, "bar_sync", (1, 2))
    return _barrier(operation, "bar_arrive", (2,))


TABLE = {"bra": bra, "ret": leave, "exit": leave, "bar": bar, "barrier": bar}
