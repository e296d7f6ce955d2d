# SPDX-License-Identifier: MIT
"""What must hold of every kernel of the library, as sentences about what does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .control_flow import MainLoop, find_main_loop
from .disassembly import Kernel, count
from .roofline import DEVICES, occupancy
from .spec import Limits
from .tiles import ELEMENTS, Instance, Tile, exact_counts, most_counts, parse_name

Tiles = Mapping[tuple[int, str], Tile]

# What ptxas says when it makes a kernel slower than it was written. C75xx: it serialised wgmma.
_PTXAS_COMPLAINT = re.compile(
    r"\(C75\d\d\)|Registers are spilled|Local memory used"
    r"|\b[1-9]\d* bytes (?:stack frame|spill stores|spill loads)"
)


def check_library(kernels: Iterable[Kernel], tiles: Tiles, limits: Limits) -> list[str]:
    """Return what is wrong with a library: with its kernels, or because one is missing."""
    kernels = list(kernels)
    violations: list[str] = []
    for kernel in kernels:
        violations += check_kernel(kernel)
        if instance := parse_name(kernel.name):
            key = (instance.head_dim, instance.extras)
            violations += check_forward(kernel, tiles[key], limits.of(kernel.architecture, *key))
    for architecture in sorted({kernel.architecture for kernel in kernels}):
        there = {
            parse_name(kernel.name) for kernel in kernels if kernel.architecture == architecture
        }
        for instance in (Instance(element, *key) for element in ELEMENTS for key in tiles):
            if instance not in there:
                violations.append(f"{architecture} {instance.label}: not in the library")
    return violations


def check_kernel(kernel: Kernel) -> Iterator[str]:
    """Yield what is wrong with any kernel: memory that is local, copies that are narrow."""
    place = f"{kernel.architecture} {label_of(kernel)}"
    counts = count(kernel.instructions)
    if kernel.stack or kernel.local:
        yield f"{place}: {kernel.stack} bytes of stack, {kernel.local} of local memory, must be 0"
    if counts["LDL"] or counts["STL"]:
        yield f"{place}: {counts['LDL']} LDL and {counts['STL']} STL, registers must not spill"
    for name in ("LDGSTS.narrow", "LDSM.other", "HMMA.other"):
        if counts[name]:
            yield f"{place}: {counts[name]} {name}, must be 0"


def check_forward(kernel: Kernel, tile: Tile, most_instructions: int | None) -> Iterator[str]:
    """Yield what is wrong with the main loop of a forward kernel, and whether it fits.

    Without `most_instructions` only the exact counts are checked, as for a kernel that reads its
    bias from global memory.
    """
    place = f"{kernel.architecture} {label_of(kernel)}"
    device = DEVICES.get(kernel.architecture)
    if device is not None:
        blocks = occupancy(
            device,
            registers=kernel.registers,
            threads=tile.threads,
            shared_bytes=tile.shared_bytes,
        )
        if blocks < tile.min_blocks:
            yield f"{place}: {blocks} thread blocks fit on {device.name}, want {tile.min_blocks}"
    loop = find_main_loop(kernel.instructions)
    if loop is None:
        yield f"{place}: no loop multiplies"
        return
    yield from (f"{place}: {problem}" for problem in check_loop(loop, tile, most_instructions))


def check_loop(loop: MainLoop, tile: Tile, most_instructions: int | None) -> Iterator[str]:
    """Yield how a main loop differs from what its tile asks for."""
    counts = count(loop.path)
    exact = exact_counts(tile)
    for name, expected in exact.items():
        if counts[name] != expected:
            hint = ""
            if counts[name] and counts[name] % expected == 0:
                hint = f" ({counts[name] // expected} blocks an iteration: unrolled?)"
            yield f"{counts[name]} {name} a block, must be {expected}{hint}"
    if loop.fewest_multiplies != exact["HMMA.16816"]:
        yield f"a way through the loop multiplies only {loop.fewest_multiplies} times"
    if most_instructions is None:
        return
    for name, most in most_counts(tile).items():
        if counts[name] > most:
            yield f"{counts[name]} {name} a block, at most {most}"
    if counts["all"] > most_instructions:
        yield f"{counts['all']} instructions a block, at most {most_instructions} (spec.toml)"


def check_compiler_log(log: str) -> list[str]:
    """Return the lines of an nvcc log, with ``-Xptxas=-v``, that tell of a slow kernel."""
    return [line.strip() for line in log.splitlines() if _PTXAS_COMPLAINT.search(line)]


def label_of(kernel: Kernel) -> str:
    """Return a short name of a kernel."""
    instance = parse_name(kernel.name)
    return instance.label if instance else kernel.name
