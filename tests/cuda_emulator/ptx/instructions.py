# SPDX-License-Identifier: MIT
"""The instructions of PTX: one small function per family, in one table.

Each function takes what it understands of the opcode and returns C++ statements. What nobody has
taken is an error, so no modifier is ever ignored. A new instruction is a function and an entry in
the table of its file; a new target a name in `parse.TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import bits, compare, control, convert, copies, floats, integers, matrices, memory, warps
from .operation import Operation

Translate = Callable[[Operation], str]

TABLE: dict[str, Translate] = {
    **integers.TABLE,
    **bits.TABLE,
    **floats.TABLE,
    **compare.TABLE,
    **convert.TABLE,
    **memory.TABLE,
    **copies.TABLE,
    **control.TABLE,
    **warps.TABLE,
    **matrices.TABLE,
}
"""By the first parts of the opcode; the longest entry that fits serves."""


def translate(operation: Operation) -> str:
    """Return the C++ statements of one instruction, without its guard.

    Raises:
        PtxError: If there is anything in it that is not understood.
    """
    opcode = operation.instruction.opcode
    for parts in range(min(3, len(opcode)), 0, -1):
        function = TABLE.get(".".join(opcode[:parts]))
        if function is not None:
            operation.require_all(*opcode[:parts])
            statements = function(operation)
            operation.check_modifiers_taken()
            return statements
    raise operation.error(f"instruction {'.'.join(opcode)} is not supported")
