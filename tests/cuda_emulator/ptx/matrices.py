# SPDX-License-Identifier: MIT
"""Tensor cores."""

from __future__ import annotations

from .operation import B32, F32, Operation


def ldmatrix(operation: Operation) -> str:
    """``ldmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16``."""
    operation.require_all("aligned", "m8n8")
    count = int(operation.require("x1", "x2", "x4")[1:])
    is_transposed = str(operation.flag("trans")).lower()
    operation.require("shared", "shared::cta")
    operation.require("b16")
    d, source = operation.operands(2)
    items = operation.items(d, count)
    address = operation.address(source, "shared")
    return (
        f"std::uint32_t value[{count}]; "
        f"cuda_emulator::load_matrices(value, {count}, {is_transposed}, {address}); "
        + operation.write_items(items, B32, "value")
    )


def mma(operation: Operation) -> str:
    """``mma.sync.aligned.m16n8k16.row.col.f32.T.T.f32`` with T one of ``bf16`` and ``f16``."""
    operation.require_all("aligned", "m16n8k16", "row", "col", "f32")
    factor = operation.require("bf16", "f16")
    operation.require_all(factor, "f32")
    d, a, b, c = operation.operands(4)
    sums, left, right = (
        ", ".join(operation.read(item, kind) for item in operation.items(operand, count))
        for operand, kind, count in ((c, F32, 4), (a, B32, 4), (b, B32, 2))
    )
    return (
        f"float sums[] = {{{sums}}}; const std::uint32_t a[] = {{{left}}}, b[] = {{{right}}}; "
        f"cuda_emulator::mma_m16n8k16({str(factor == 'bf16').lower()}, sums, a, b); "
        + operation.write_items(operation.items(d, 4), F32, "sums")
    )


TABLE = {"ldmatrix.sync": ldmatrix, "mma.sync": mma}
