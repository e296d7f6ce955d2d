# SPDX-License-Identifier: MIT
"""What the threads of a warp do together, other than matrices."""

from __future__ import annotations

from .operation import B32, Operation
from .syntax import PREDICATE, TYPES

_U32 = TYPES["u32"]
_MODES = {"up": "kUp", "down": "kDown", "bfly": "kButterfly", "idx": "kIndex"}


def bar_warp_sync(operation: Operation) -> str:
    """``bar.warp.sync mask``."""
    (mask,) = operation.operands(1)
    return f"cuda_emulator::sync_warp({operation.read(mask, _U32)});"


def shfl_sync(operation: Operation) -> str:
    """``shfl.sync.mode.b32 d{|p}, a, b, c, mask``: p says whether the lane was within bounds."""
    mode = _MODES[operation.require(*_MODES)]
    operation.require("b32")
    d, a, b, c, mask = operation.operands(5)
    place = f"{operation.read(b, _U32)}, {operation.read(c, _U32)}"
    return (
        f"const std::uint32_t in = {operation.read(a, B32)}; std::uint32_t out; bool is_in_range; "
        f"const int source = ptx::shuffle_source(ptx::Shuffle::{mode}, {place}, is_in_range); "
        f"cuda_emulator::shuffle({operation.read(mask, _U32)}, &in, &out, 4, source); "
        + operation.write_pair(d, B32, "out", "is_in_range")
    )


def vote_sync(operation: Operation) -> str:
    """``vote.sync.any``, ``.all``, ``.uni``, ``.ballot``: of the lanes of the mask still there."""
    mode = operation.require("any", "all", "uni", "ballot")
    kind = operation.require_type("b32" if mode == "ballot" else "pred")
    d, predicate, mask = operation.operands(3)
    lanes, vote = operation.read(mask, _U32), operation.read_predicate(predicate)
    if mode == "ballot":
        return operation.write(d, kind, f"cuda_emulator::ballot({lanes}, {vote})")
    some = f"cuda_emulator::ballot({lanes}, vote) != 0"
    every = f"cuda_emulator::ballot({lanes}, !vote) == 0"
    value = {"any": some, "all": every, "uni": f"!({some}) || {every}"}[mode]
    return f"const bool vote = {vote}; " + operation.write(d, PREDICATE, value)


def activemask(operation: Operation) -> str:
    """``activemask.b32``: only the thread itself, the least that may be active with it."""
    operation.require("b32")
    (d,) = operation.operands(1)
    return operation.write(d, B32, "1u << ptx::lane()")


TABLE = {
    "bar.warp.sync": bar_warp_sync,
    "shfl.sync": shfl_sync,
    "vote.sync": vote_sync,
    "activemask": activemask,
}
