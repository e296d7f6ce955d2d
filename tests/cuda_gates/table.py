# SPDX-License-Identifier: MIT
"""docs/cuda_kernels.md: what each kernel takes, and what that predicts."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .control_flow import find_main_loop
from .disassembly import Kernel, count
from .roofline import DEVICES, Cycles, cost, cycles_of, occupancy
from .tiles import Tile, all_extras, exact_counts, most_counts, parse_name, plain_counts
from .tools import RECORDED_NVCC, ROOT

DOCUMENT = ROOT / "docs" / "cuda_kernels.md"
COMMAND = "python -m tests.cuda_gates --write"

# The kernels of the oldest GPU are in every build; newer ones take a few instructions more.
ARCHITECTURE = "sm_80"
_PREDICTED = ("sm_80", "sm_90")
_INSTRUCTIONS_OF_COPY = 7  # address and predicate: from kernels that differ in copies only
_CHANNELS = {"None": "0", "OneChannel": "1", "TwoChannels": "2", "General": "any", "Dense": "dense"}
_COUNTED = (
    *("HMMA.16816", "LDSM.x4", "LDGSTS.16", "MUFU.EX2", "F2FP", "FFMA", "FADD", "FMNMX"),
    *("LDS.8", "SHFL", "BAR"),
)

_INTRODUCTION = f"""\
# The CUDA kernels in figures

Generated from the built library by `{COMMAND}`; a test compares them.
**Nothing here was measured on a GPU.** Tables 1 and 2 are what nvcc {RECORDED_NVCC} made of the
sources for {ARCHITECTURE}. Tables 3 to 5 are predictions of a model (`roofline.py`)
that knows rates, but no latency, bank conflicts or caches: kernels are slower than its bounds.
Use them to compare tiles and to see what an instruction costs, not to promise speed.

bf16 and fp16 kernels share a row where they are alike in every figure. *Channels*
are influence channels; every kernel takes a key bias, a soft-cap, masks and windows at run time.
*any*: up to eight at a time, and rows that are not aligned; its figures are those of a call that
has neither. *dense*: a dense `attn_bias` besides, read from global memory score by score, of which
no model is made.
"""
_RESOURCES = """
## 1. Resources

Thread blocks that fit on a multiprocessor, by registers, threads and shared memory.
"""
_LOOP = """
## 2. One block of keys, per warp

Instructions of the straight path through the main loop: a block that no mask cuts, whose rows keep
their maximum, without soft-cap or dense bias (`tests/cuda_gates/control_flow.py`). *Whole loop*
holds the other paths too. *Plain* is what an FA2-class loop over the same tile needs without bias,
influence, addresses and branches; *rest* is what is none of the counted classes.
"""
_BOUNDS = """
## 3. What bounds a block of keys (predicted)

Cycles for which one block of keys of one thread block keeps a resource of the multiprocessor busy:
tensor cores (1024 multiply-adds a cycle on A100; 2048 on H100, of which mma.sync reaches about
62 %), shared memory (128 bytes a cycle), issue (4 instructions a cycle), fp32 (64 and 128 lanes)
and MUFU (16 lanes). *Peak* is the part of the dense tensor peak, wgmma's on H100, that the busiest
resource leaves.
"""
_COSTS = """
## 4. What bias and influence cost (predicted)

By what part a block gets slower: from all hidden that can be, to every added instruction paying for
its issue slot. The bias is compared with the same kernel without it: one FADD a score and the loads
of the bias less. Each channel is compared with one channel less.
"""
_TILES = """
## 5. Sixteen or thirty-two queries a warp (predicted)

A warp reads all of K and V from shared memory, whatever number of queries it holds: with 32, half
as often. Estimated per 128 queries and 64 keys for a kernel without influence, whose queries stay
in shared memory if a warp has 32. Registers decide. Compiled with `kRowTiles = 2`, four warps and
32 keys a block, ptxas spills nothing up to head_dim 96 (64 keys: up to 64), and 8 to 76 bytes
at 128 (64 keys: 112 to 164).
"""


@dataclass(frozen=True)
class Row:
    """One kernel: its tile, registers, and instructions of the straight path by class."""

    tile: Tile
    registers: int
    counts: Counter[str]
    body: int

    @property
    def label(self) -> list[str]:
        """Its first two cells."""
        return [str(self.tile.head_dim), _CHANNELS[self.tile.extras]]


def write_page(kernels: Iterable[Kernel], tiles: Mapping[tuple[int, str], Tile]) -> str:
    """Return the page for the kernels of a library."""
    rows = collect(kernels, tiles)
    modelled = [row for row in rows if row.tile.extras != "Dense"]
    return "".join(
        [
            _INTRODUCTION,
            *(_RESOURCES, _resources(rows)),
            *(_LOOP, _loops(modelled)),
            *(_BOUNDS, _bounds(modelled)),
            *(_COSTS, _costs(modelled)),
            *(_TILES, _tiles(modelled)),
        ]
    )


def collect(kernels: Iterable[Kernel], tiles: Mapping[tuple[int, str], Tile]) -> list[Row]:
    """Return the rows of `ARCHITECTURE`: one for all element types where they are alike.

    Raises:
        ValueError: If a kernel has no main loop.

    """
    rows: dict[tuple[int, str], list[Row]] = {}
    for kernel in kernels:
        instance = parse_name(kernel.name)
        if kernel.architecture != ARCHITECTURE or instance is None:
            continue
        loop = find_main_loop(kernel.instructions)
        if loop is None:
            raise ValueError(f"{instance.label} has no loop that multiplies")
        key = (instance.head_dim, instance.extras)
        row = Row(tiles[key], kernel.registers, count(loop.path), len(loop.body))
        same = rows.setdefault(key, [])
        if row not in same:
            same.append(row)
    order = all_extras()
    ordered = sorted(rows, key=lambda key: (key[0], order.index(key[1])))
    return [row for key in ordered for row in rows[key]]


def _resources(rows: list[Row]) -> str:
    def fits(row: Row) -> list[str]:
        tile = row.tile
        return [
            str(
                occupancy(
                    device,
                    registers=row.registers,
                    threads=tile.threads,
                    shared_bytes=tile.shared_bytes,
                )
            )
            for device in DEVICES.values()
        ]

    header = ["head_dim", "channels", "queries × keys", "warps", "registers", "shared KiB"]
    header += [device.name for device in DEVICES.values()]
    return _markdown(
        header,
        (
            [
                *row.label,
                f"{row.tile.block_m} × {row.tile.block_n}",
                str(row.tile.warps),
                str(row.registers),
                f"{row.tile.shared_bytes / 1024:.1f}",
                *fits(row),
            ]
            for row in rows
        ),
    )


def _loops(rows: list[Row]) -> str:
    header = ["head_dim", "channels", "all", "plain", *_COUNTED, "rest", "whole loop"]
    return _markdown(
        [name.removesuffix(".16816") for name in header],
        (
            [
                *row.label,
                str(row.counts["all"]),
                str(sum(plain_counts(row.tile).values())),
                *(str(row.counts[name]) for name in _COUNTED),
                str(_rest(row)),
                str(row.body),
            ]
            for row in rows
        ),
    )


def _bounds(rows: list[Row]) -> str:
    resources = [field.name for field in dataclasses.fields(Cycles)]
    header = ["head_dim", "channels"]
    for architecture in _PREDICTED:
        header += [f"{DEVICES[architecture].name} {resources[0]}", *resources[1:]]
        header += ["bound by", "peak"]

    def cells(row: Row) -> list[str]:
        made = []
        for architecture in _PREDICTED:
            cycles = cycles_of(DEVICES[architecture], row.tile, row.counts)
            made += [f"{getattr(cycles, name):.0f}" for name in resources]
            made += [cycles.bound_by, _percent(_peak(architecture, row.tile, cycles))]
        return made

    return _markdown(header, ([*row.label, *cells(row)] for row in rows))


def _costs(rows: list[Row]) -> str:
    by_key = {(row.tile.head_dim, row.tile.extras): row for row in rows}
    header = ["head_dim"]
    for architecture in _PREDICTED:
        name = DEVICES[architecture].name
        header += [f"{name} bias", "first channel", "second channel"]

    def cells(head_dim: int) -> list[str]:
        none, one, two = (by_key[head_dim, extras] for extras in all_extras()[:3])
        unbiased = dataclasses.replace(none, counts=_without_bias(none))
        made = []
        for architecture in _PREDICTED:
            device = DEVICES[architecture]
            steps = [cycles_of(device, row.tile, row.counts) for row in (unbiased, none, one, two)]
            made += [_range(*cost(less, more)) for less, more in itertools.pairwise(steps)]
        return made

    head_dims = sorted({row.tile.head_dim for row in rows})
    return _markdown(header, ([str(head_dim), *cells(head_dim)] for head_dim in head_dims))


def _tiles(rows: list[Row]) -> str:
    header = ["head_dim", "queries a warp"]
    for architecture in _PREDICTED:
        name = DEVICES[architecture].name
        header += [f"{name} tensor", "shared", "issue", "bound by", "peak"]

    def cells(row: Row, row_tiles: int) -> list[str]:
        tile = dataclasses.replace(
            row.tile,
            row_tiles=row_tiles,
            warps=8 // row_tiles,
            block_n=64,
            query_in_registers=row.tile.query_in_registers and row_tiles == 1,
        )
        needed = exact_counts(tile) | most_counts(tile)
        further_copies = needed["LDGSTS.16"] - row.counts["LDGSTS.16"]
        rest = _rest(row) + _INSTRUCTIONS_OF_COPY * further_copies
        needed["all"] = sum(needed.values()) + rest
        made = []
        for architecture in _PREDICTED:
            cycles = cycles_of(DEVICES[architecture], tile, needed)
            made += [f"{cycles.tensor:.0f}", f"{cycles.shared:.0f}", f"{cycles.issue:.0f}"]
            made += [cycles.bound_by, _percent(_peak(architecture, tile, cycles))]
        return made

    return _markdown(
        header,
        (
            [str(row.tile.head_dim), str(16 * row_tiles), *cells(row, row_tiles)]
            for row in rows
            if row.tile.extras == "None" and row.tile.head_dim in (64, 96, 128)
            for row_tiles in (1, 2)
        ),
    )


def _rest(row: Row) -> int:
    return row.counts["all"] - sum(row.counts[name] for name in _COUNTED)


def _without_bias(row: Row) -> Counter[str]:
    """Return the counts of the same kernel if scores were not biased."""
    saved = Counter({"FADD": row.tile.scores, "LDS.8": row.tile.block_n // 8})
    saved["all"] = sum(saved.values())
    return row.counts - saved


def _peak(architecture: str, tile: Tile, cycles: Cycles) -> float:
    multiply_adds = 2 * tile.block_m * tile.block_n * tile.head_dim
    return multiply_adds / DEVICES[architecture].fma_per_clock / cycles.bound


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _range(least: float, most: float) -> str:
    low, high = round(100 * least), round(100 * most)
    return f"{low} %" if low == high else f"{low}–{high} %"


def _markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
