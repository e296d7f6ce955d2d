# SPDX-License-Identifier: MIT
"""Tile sizes of the kernels, and what one block of keys must cost with them."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .tools import ROOT, find_host_compiler

TRAITS = ROOT / "csrc" / "attention" / "cuda" / "sm80" / "traits.h"
ELEMENTS = ("BFloat16", "Float16")
HEAD_DIMS = (32, 64, 96, 128, 256)

_SM80_FORWARD = re.compile(
    r"guide::cuda::sm80::forward_kernel<guide::cuda::sm80::Traits<guide::cuda::(\w+), (\d+), "
    r"\(guide::cuda::sm80::Extras\)(\d)> ?>"
)

# traits.h is asked, so that the sizes stand in one place.
_PROBE = """
#include <cstdio>
#include "attention/cuda/sm80/traits.h"

struct Element {};

template <int kHeadDim, guide::cuda::sm80::Extras kExtras>
void print(const char* extras) {
  using T = guide::cuda::sm80::Traits<Element, kHeadDim, kExtras>;
  std::printf("{\\"head_dim\\": %d, \\"extras\\": \\"%s\\", \\"channels\\": %d, \\"row_tiles\\": %d, "
              "\\"warps\\": %d, \\"block_n\\": %d, \\"min_blocks\\": %d, "
              "\\"query_in_registers\\": %s, \\"shared_bytes\\": %d}\\n",
              kHeadDim, extras, T::kIsGeneral ? 0 : T::kChannels, T::kRowTiles, T::kWarps,
              T::kBlockN, T::kMinBlocks, T::kQueryInRegisters ? "true" : "false", T::kSharedBytes);
}

int main() { CALLS }
"""  # noqa: E501 (C++)


@dataclass(frozen=True)
class Tile:
    """Sizes of one instance of the forward kernel.

    Attributes:
        head_dim: Elements of a head, keys and values alike.
        extras: What is computed besides: `None`, `OneChannel`, ... of the enumeration.
        channels: Influence channels that every block has; 0 where only the call knows how many.
        row_tiles: Times 16 queries that a warp holds.
        warps: Of a thread block.
        block_n: Keys of a block.
        min_blocks: Thread blocks that the launch bounds ask for on a multiprocessor.
        query_in_registers: Whether queries are read from shared memory only once.
        shared_bytes: Dynamic shared memory of a thread block.

    """

    head_dim: int
    extras: str
    channels: int
    row_tiles: int
    warps: int
    block_n: int
    min_blocks: int
    query_in_registers: bool
    shared_bytes: int

    @property
    def block_m(self) -> int:
        """Queries of a thread block."""
        return 16 * self.row_tiles * self.warps

    @property
    def threads(self) -> int:
        """Threads of a thread block."""
        return 32 * self.warps

    @property
    def scores(self) -> int:
        """Scores that a thread holds of one block: its share of 16 rows by 8 keys is 4."""
        return self.row_tiles * self.block_n // 8 * 4

    @property
    def rows(self) -> int:
        """Rows that a thread has a share of."""
        return 2 * self.row_tiles


@dataclass(frozen=True)
class Instance:
    """A kernel as its name says it."""

    element: str
    head_dim: int
    extras: str

    @property
    def label(self) -> str:
        """What tables and messages call it."""
        return f"{self.element} hd{self.head_dim} {self.extras}"


def parse_name(kernel: str) -> Instance | None:
    """Return what a demangled name says, or None if it is no forward kernel.

    Example:
        >>> parse_name("guide::cuda::sm80::forward_kernel<guide::cuda::sm80::Traits<"
        ...     "guide::cuda::Float16, 96, (guide::cuda::sm80::Extras)1> >").label
        'Float16 hd96 OneChannel'

    """
    match = _SM80_FORWARD.fullmatch(kernel)
    return Instance(match[1], int(match[2]), all_extras()[int(match[3])]) if match else None


@functools.cache
def all_extras() -> list[str]:
    """Return the names of ``enum class Extras`` in traits.h, without their k."""
    body = re.search(r"enum class Extras \{(.*?)\}", TRAITS.read_text(), re.DOTALL)
    return re.findall(r"^\s*k(\w+)", body[1], re.MULTILINE) if body else []


def exact_counts(tile: Tile) -> dict[str, int]:
    """Return what the straight path must hold, no more and no less, of each class.

    Per warp and block of keys. A matrix product of m16n8k16 takes 16 rows, 8 keys and 16 elements
    of the head, or 16 rows, 8 elements of the head and 16 keys; one ldmatrix.x4 brings the right
    operands of two of them, for all rows of the warp.
    """
    pieces = tile.block_n * tile.head_dim // 128  # of 8x16 or 16x8, in K as in V
    query_loads = 0 if tile.query_in_registers else tile.row_tiles * tile.head_dim // 16
    copied_bytes = 2 * tile.block_n * tile.head_dim * 2
    return {
        "HMMA.16816": 2 * pieces * tile.row_tiles,
        "LDSM.x4": pieces + query_loads,
        "LDGSTS.16": copied_bytes // (16 * tile.threads),
        "BAR": 1,
        "MUFU.EX2": tile.scores + tile.rows,  # every weight, and the factor of every row
        "F2FP": tile.scores // 2,
        "LDS.8": tile.block_n // 8 * (1 + tile.channels),  # bias and influence, two keys at once
        "SHFL": 2 * tile.rows,  # the maximum of a row, among four threads
    }


def most_counts(tile: Tile) -> dict[str, int]:
    """Return what the straight path may hold at most.

    One FFMA makes a dot product a score, one FADD measures it from the row's maximum, one sums it;
    a channel of influence is one more FFMA. The rest is per row, not per score.
    """
    per_row = tile.rows
    return {
        "FFMA": (1 + tile.channels) * (tile.scores + per_row),
        "FADD": 2 * tile.scores + per_row,
        "FMUL": 1,  # the one bias that a thread brings, to bits
        "FMNMX": tile.scores + 3 * per_row,
    }


def plain_counts(tile: Tile) -> dict[str, int]:
    """Return what attention without bias and influence needs with the same tile.

    What the inner loop of an FA2-class kernel holds beside addresses and branches: one FFMA per
    score instead of FFMA and FADD, as scaling and subtracting the maximum are one step.
    """
    exact = exact_counts(tile)
    return {
        **{name: exact[name] for name in ("HMMA.16816", "LDSM.x4", "LDGSTS.16", "BAR")},
        **{name: exact[name] for name in ("MUFU.EX2", "F2FP", "SHFL")},
        "FFMA": tile.scores + tile.rows,
        "FADD": tile.scores,
        "FMNMX": tile.scores + 2 * tile.rows,
    }


@functools.cache
def read_tiles() -> dict[tuple[int, str], Tile]:
    """Ask traits.h for the tile of every head_dim and extra.

    Raises:
        MissingToolError: If there is no C++ compiler.

    """
    calls = " ".join(
        f'print<{head_dim}, guide::cuda::sm80::Extras::k{extras}>("{extras}");'
        for head_dim in HEAD_DIMS
        for extras in all_extras()
    )
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "probe.cpp", Path(folder) / "probe"
        source.write_text(_PROBE.replace("CALLS", calls))
        includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'cuda_emulator'}"]
        flags = ["-std=c++17", "-w", "-DGUIDE_CUDA_EMULATED", *includes]
        subprocess.run([find_host_compiler(), *flags, str(source), "-o", str(program)], check=True)
        printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    tiles = [Tile(**json.loads(line)) for line in printed.splitlines()]
    return {(tile.head_dim, tile.extras): tile for tile in tiles}
