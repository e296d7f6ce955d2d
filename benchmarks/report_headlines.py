# SPDX-License-Identifier: MIT
"""The table of the README: a few figures of several results, each with its class of processor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from facts import FORCED

# By the instruction set that served the calls, as `guide-ext doctor` names it.
_CLASSES = {
    "amx": "AMX",
    "avx512bf16": "AVX-512 with bf16 products",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "neon": "NEON",
    "portable": "portable code",
}


@dataclass(frozen=True)
class Headline:
    """One figure with bias and Influence.

    Attributes:
        name: What was timed.
        ours: Its time, with the unit.
        sdpa: Time of torch's SDPA, which computes neither, over ours.
        eager: Time of eager attention over ours.

    """

    name: str
    ours: str
    sdpa: str
    eager: str


def table(rows: Iterable[tuple[Headline, dict[str, str]]]) -> list[str]:
    """Write the table, from figures and the machine of each."""
    lines = [
        "| with bias and Influence | class of processor | ours "
        "| SDPA over ours | eager over ours |",
        "|---|---|---:|---:|---:|",
    ]
    for row, machine in rows:
        cells = [row.name, processor_class(machine), row.ours, row.sdpa, row.eager]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def processor_class(machine: dict[str, str]) -> str:
    """Name the class of processor whose figures these are: another has other ones.

    Example:
        >>> processor_class({"system": "Linux x86_64", "instruction set": "avx512", "cores": "8"})
        'x86-64, AVX-512, 8 cores'

    """
    architecture = machine["system"].split()[-1].replace("_", "-")
    return f"{architecture}, {instruction_set(machine)}, {cores(machine)}"


def cores(machine: dict[str, str]) -> str:
    """Count the cores, in words."""
    return f"{machine['cores']} core{'' if machine['cores'] == '1' else 's'}"


def instruction_set(machine: dict[str, str]) -> str:
    """Name the instructions that served the calls, and say if they were forced.

    Example:
        >>> instruction_set({"instruction set": "avx2", "forced instruction set": "avx2"})
        'AVX2 (forced)'

    """
    found = machine["instruction set"]  # or, in words, why there is none
    fallback = "not compiled: PyTorch" if " " in found else found
    return _CLASSES.get(found, fallback) + (" (forced)" if FORCED in machine else "")
