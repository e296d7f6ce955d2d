# SPDX-License-Identifier: MIT
"""The main loop of a kernel, and the path that an ordinary block of keys takes through it.

The loop body has branches that every thread takes alike: masks, soft-cap, a rescaling that is
often skipped, rare repairs. Counts of the whole body would mix all of them. The *straight path* is
the way from the loop's head back to it that multiplies and copies the most and, of those, has the
fewest instructions: what a block costs when nothing special happens. It is found in the graph of
basic blocks, so it does not matter where the compiler put a block, or whether it turned the loop.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .disassembly import Instruction

Block = tuple[Instruction, ...]
Weight = tuple[int, ...]

MULTIPLIES = ("HMMA", "HGMMA")
COPIES = ("LDGSTS", "UTMALDG")


@dataclass(frozen=True)
class MainLoop:
    """The innermost loop that multiplies most.

    Attributes:
        path: The straight path, in order.
        body: Every instruction of the loop, with those of the loops inside it.
        fewest_multiplies: Matrix products on the way through the loop that has fewest of them,
            not counting those that a predicate may switch off.
        loops: How many loops of the kernel multiply.

    """

    path: tuple[Instruction, ...]
    body: tuple[Instruction, ...]
    fewest_multiplies: int
    loops: int


def find_main_loop(instructions: tuple[Instruction, ...]) -> MainLoop | None:
    """Return the main loop of a kernel, or None if no loop multiplies."""
    graph = Graph(instructions)
    loops = graph.loops()
    candidates = []
    for head, members in loops.items():
        inner = [other for key, other in loops.items() if key != head and other < members]
        own = members.difference(*inner)
        multiplies = sum(_multiplies(graph.blocks[start]) for start in own)
        if multiplies:
            path = graph.best_path(head, members, _straightness)
            candidates.append((multiplies, -len(path), head, path))
    if not candidates:
        return None
    _, _, head, path = max(candidates)
    shortest = graph.best_path(head, loops[head], lambda block: (-_certain_multiplies(block),))
    body = itertools.chain.from_iterable(graph.blocks[start] for start in sorted(loops[head]))
    return MainLoop(path, tuple(body), _certain_multiplies(shortest), len(candidates))


def _multiplies(block: Block) -> int:
    return sum(instruction.name in MULTIPLIES for instruction in block)


def _certain_multiplies(block: Block) -> int:
    return sum(instruction.name in MULTIPLIES and not instruction.guard for instruction in block)


def _straightness(block: Block) -> Weight:
    copies = sum(instruction.name in COPIES for instruction in block)
    return _multiplies(block), copies, -len(block)


class Graph:
    """Basic blocks of a kernel, known by the addresses of their first instructions."""

    def __init__(self, instructions: tuple[Instruction, ...]) -> None:
        """Cut the instructions into blocks and link them."""
        self.blocks: dict[int, Block] = {}
        self.successors: dict[int, list[int]] = {}
        addresses = {instruction.address for instruction in instructions}
        starts = {instructions[0].address} if instructions else set()
        barriers: dict[str, int] = {}  # where each convergence barrier, at this place, lets go
        following: dict[int, list[int]] = {}
        for instruction, after in itertools.zip_longest(instructions, instructions[1:]):
            fall_through = [after.address] if after else []
            if instruction.name == "BSSY" and instruction.target is not None:
                barriers[instruction.operands.partition(",")[0]] = instruction.target
            elif _ends_block(instruction):
                targets = list(_targets(instruction, barriers, fall_through))
                following[instruction.address] = [t for t in targets if t in addresses]
                starts.update(following[instruction.address], fall_through)
        block: list[Instruction] = []
        for instruction, after in itertools.zip_longest(instructions, instructions[1:]):
            block.append(instruction)
            if after is None or after.address in starts:
                start = block[0].address
                fall_through = [after.address] if after else []
                self.blocks[start] = tuple(block)
                self.successors[start] = following.get(instruction.address, fall_through)
                block = []
        self.entry = min(starts, default=0)

    @functools.cached_property
    def dominators(self) -> dict[int, set[int]]:
        """The blocks through which every way from the entry to a block leads; itself included."""
        order = self._reachable_in_order()
        predecessors: dict[int, list[int]] = {start: [] for start in order}
        for start in order:
            for successor in self.successors[start]:
                predecessors[successor].append(start)
        dominators = {start: set(order) for start in order}
        dominators[self.entry] = {self.entry}
        changed = True
        while changed:
            changed = False
            for start in order[1:]:
                common = set.intersection(*(dominators[p] for p in predecessors[start]))
                if common | {start} != dominators[start]:
                    dominators[start] = common | {start}
                    changed = True
        return dominators

    def loops(self) -> dict[int, set[int]]:
        """Return the natural loops: head, and the blocks that reach its back edges without it."""
        loops: dict[int, set[int]] = {}
        predecessors: dict[int, list[int]] = {}
        for start in self.dominators:
            for successor in self.successors[start]:
                predecessors.setdefault(successor, []).append(start)
        for tail, head in self._back_edges():
            members = loops.setdefault(head, {head})
            pending = [tail]
            while pending:
                start = pending.pop()
                if start not in members:
                    members.add(start)
                    pending += predecessors[start]
        return loops

    def best_path(
        self, head: int, members: set[int], weigh: Callable[[Block], Weight]
    ) -> tuple[Instruction, ...]:
        """Return the heaviest way once around a loop; the loops inside it are gone round once."""
        back = set(self._back_edges())
        best: dict[int, tuple[Weight, int | None]] = {}
        for start in reversed(self._reachable_in_order(head, members, back)):
            own = weigh(self.blocks[start])
            options: list[tuple[Weight, int | None]] = []
            for successor in self.successors[start]:
                if (start, successor) in back:
                    if successor == head:
                        options.append((own, None))
                elif successor in best:
                    weight = tuple(map(sum, zip(own, best[successor][0], strict=True)))
                    options.append((weight, successor))
            if options:
                best[start] = max(options, key=lambda option: option[0])
        path: list[Instruction] = []
        step: int | None = head
        while step is not None:
            path += self.blocks[step]
            step = best[step][1]
        return tuple(path)

    def _back_edges(self) -> Iterator[tuple[int, int]]:
        for start, dominators in self.dominators.items():
            for successor in self.successors[start]:
                if successor in dominators:
                    yield start, successor

    def _reachable_in_order(
        self,
        entry: int | None = None,
        members: set[int] | Mapping[int, Block] | None = None,
        without: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
    ) -> list[int]:
        """List blocks from an entry so that, back edges apart, each comes before its successors."""
        root = self.entry if entry is None else entry
        allowed = self.blocks if members is None else members
        finished: list[int] = []
        seen = {root}
        stack = [(root, iter(self.successors[root]))]
        while stack:
            start, successors = stack[-1]
            for successor in successors:
                if successor in allowed and successor not in seen:
                    if (start, successor) in without:
                        continue
                    seen.add(successor)
                    stack.append((successor, iter(self.successors[successor])))
                    break
            else:
                finished.append(start)
                stack.pop()
        return finished[::-1]


def _ends_block(instruction: Instruction) -> bool:
    return instruction.name in ("BRA", "BRX", "JMP", "EXIT", "RET", "CALL", "BSYNC", "WARPSYNC")


def _targets(
    instruction: Instruction, barriers: Mapping[str, int], fall_through: list[int]
) -> Iterator[int]:
    """Yield where control goes after an instruction that ends a block."""
    name, target = instruction.name, instruction.target
    if name == "BSYNC":
        # Threads that wait at a convergence barrier go on where its BSSY said.
        target = barriers.get(instruction.operands.split()[0])
        yield from [target] if target is not None else fall_through
        return
    if target is not None:
        yield target
    always = not instruction.guard and (
        name in ("EXIT", "RET", "BRX") or (name in ("BRA", "JMP") and _is_plain(instruction))
    )
    if not always:
        yield from fall_through


def _is_plain(branch: Instruction) -> bool:
    """Whether a branch has no predicate among its operands (``BRA.DIV UR4, 0x10``)."""
    return branch.operands.startswith("0x")
