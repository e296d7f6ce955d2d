# SPDX-License-Identifier: MIT
"""Which registers a kernel may read before it has written them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Step:
    """One statement as the flow of control sees it.

    Attributes:
        label: The label that stands here, if it is one.
        target: The label that it branches to, if it does.
        is_conditional: Whether it may do nothing, because it has a guard.
        leaves: Whether it ends the thread.
    """

    label: str | None = None
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    target: str | None = None
    is_conditional: bool = False
    leaves: bool = False


@dataclass
class _Block:
    """Steps that follow each other, with what they need and what they give."""

    needs: int = 0
    gives: int = 0
    next: list[int] = field(default_factory=list)


def read_before_written(steps: Sequence[Step]) -> set[str]:
    """Return the registers that some path reads first, whether or not a thread can take it."""
    names = sorted(set().union(*(step.reads | step.writes for step in steps)))
    bits = {name: 1 << i for i, name in enumerate(names)}
    blocks = _blocks(steps, bits)
    needed = [block.needs for block in blocks]
    is_changed = True
    while is_changed:
        is_changed = False
        for i in range(len(blocks) - 1, -1, -1):
            after = 0
            for successor in blocks[i].next:
                after |= needed[successor]
            wanted = blocks[i].needs | (after & ~blocks[i].gives)
            is_changed |= wanted != needed[i]
            needed[i] = wanted
    return {name for name, bit in bits.items() if blocks and needed[0] & bit}


def _blocks(steps: Sequence[Step], bits: dict[str, int]) -> list[_Block]:
    """Cut the steps after every branch and before every label."""
    blocks = [_Block()]
    starts: dict[str, int] = {}
    jumps: list[tuple[_Block, str]] = []
    falls_through = True
    for step in steps:
        if step.label is not None:
            _start_block(blocks, falls_through)
            falls_through = True
            starts[step.label] = len(blocks) - 1
            continue
        block = blocks[-1]
        for name in step.reads:
            block.needs |= bits[name] & ~block.gives
        if not step.is_conditional:
            for name in step.writes:
                block.gives |= bits[name]
        if step.target is not None or step.leaves:
            if step.target is not None:
                jumps.append((block, step.target))
            _start_block(blocks, step.is_conditional)
    for block, label in jumps:
        block.next.append(starts[label])
    return blocks


def _start_block(blocks: list[_Block], falls_through: bool) -> None:
    if falls_through:
        blocks[-1].next.append(len(blocks))
    blocks.append(_Block())
