# SPDX-License-Identifier: MIT
"""What bounds a kernel, from counts of instructions and published rates. A prediction.

Nothing here was measured. A block of keys keeps five resources of a multiprocessor busy; with
enough warps they overlap, and the block takes as long as the busiest of them. Latency, bank
conflicts, instruction fetch, the second-level cache and the ends of the loop are left out, so real
kernels are slower: use it to compare tiles and instructions, not to promise speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .tiles import Tile

_FMA_OF_HMMA_16816 = 16 * 8 * 16


@dataclass(frozen=True)
class Device:
    """Limits and rates of one multiprocessor, as the CUDA C++ Programming Guide states them.

    Attributes:
        name: A chip of this architecture.
        max_warps: Resident warps.
        max_blocks: Resident thread blocks.
        shared_bytes: Shared memory, 1 KiB of which is reserved for every thread block.
        fma_per_clock: Dense 16-bit multiply-adds of the tensor cores, fp32 sums.
        mma_sync_efficiency: Part of that which mma.sync reaches; Hopper keeps the rest for wgmma.
        fp32_per_clock: FFMA, FADD and FMUL lanes.

    """

    name: str
    max_warps: int
    max_blocks: int
    shared_bytes: int
    fma_per_clock: int = 0
    mma_sync_efficiency: float = 1.0
    fp32_per_clock: int = 0


DEVICES = {
    "sm_80": Device("A100", 64, 32, 164 << 10, 1024, 1.0, 64),
    "sm_86": Device("RTX 30", 48, 16, 100 << 10),
    "sm_89": Device("RTX 40", 48, 24, 100 << 10),
    "sm_90": Device("H100", 64, 32, 228 << 10, 2048, 0.62, 128),
    "sm_100": Device("B200", 64, 32, 228 << 10),
    "sm_120": Device("RTX 50", 48, 24, 100 << 10),
}
_REGISTERS = 65536  # of a multiprocessor, since sm_70
_ISSUE_PER_CLOCK = 4
_MUFU_PER_CLOCK = 16
_SHARED_BYTES_PER_CLOCK = 128
_RESERVED_SHARED_BYTES = 1 << 10
_SHARED_GRANULE = 128
_REGISTER_GRANULE = 256  # a warp's registers are given out in this many

# Cycles of shared memory per warp: bytes that 32 threads move, over 128. A shuffle goes the same
# way. LDS.8 is a broadcast of at most 32 distinct bytes: one cycle.
_SHARED_CYCLES = {"LDSM.x4": 4, "LDGSTS.16": 4, "LDS.4": 1, "LDS.8": 1, "LDS.16": 4}
_SHARED_CYCLES |= {"STS.4": 1, "STS.8": 2, "STS.16": 4, "SHFL": 1}


@dataclass(frozen=True)
class Cycles:
    """Cycles for which one block of keys keeps each resource of a multiprocessor busy."""

    tensor: float
    shared: float
    issue: float
    fp32: float
    mufu: float

    @property
    def bound(self) -> float:
        """The busiest resource: what the block takes if everything else hides behind it."""
        return float(max(vars(self).values()))

    @property
    def bound_by(self) -> str:
        """Its name."""
        return max(vars(self), key=lambda name: vars(self)[name])


def occupancy(device: Device, *, registers: int, threads: int, shared_bytes: int) -> int:
    """Return how many thread blocks fit on a multiprocessor.

    Args:
        device: Its limits.
        registers: Of a thread.
        threads: Of a thread block, a multiple of 32.
        shared_bytes: Shared memory of a thread block, without what the system reserves.

    Example:
        >>> occupancy(DEVICES["sm_80"], registers=128, threads=256, shared_bytes=66560)
        2

    """
    warps = threads // 32
    registers_of_warp = _round_up(registers * 32, _REGISTER_GRANULE)
    # Each of the four schedulers has its own quarter of the registers.
    resident_warps = _REGISTERS // 4 // registers_of_warp * 4
    shared = _round_up(shared_bytes + _RESERVED_SHARED_BYTES, _SHARED_GRANULE)
    return min(
        resident_warps // warps,
        device.max_warps // warps,
        device.max_blocks,
        device.shared_bytes // shared,
    )


def cycles_of(device: Device, tile: Tile, counts: Mapping[str, int]) -> Cycles:
    """Return what one block of keys costs a multiprocessor, for one thread block.

    Args:
        device: Its rates; `fma_per_clock` must be known.
        tile: How many warps share the work.
        counts: Instructions of one warp by class, "all" among them.

    """

    def warps(*names: str) -> int:
        return tile.warps * sum(counts.get(name, 0) for name in names)

    tensor_rate = device.fma_per_clock * device.mma_sync_efficiency
    return Cycles(
        tensor=warps("HMMA.16816") * _FMA_OF_HMMA_16816 / tensor_rate,
        shared=sum(warps(name) * cycles for name, cycles in _SHARED_CYCLES.items()),
        issue=warps("all") / _ISSUE_PER_CLOCK,
        fp32=warps("FFMA", "FADD", "FMUL") * 32 / device.fp32_per_clock,
        mufu=warps("MUFU") * 32 / _MUFU_PER_CLOCK,
    )


def cost(base: Cycles, further: Cycles) -> tuple[float, float]:
    """Return by what part a block gets slower: if all hides that can, and if nothing does.

    Example:
        >>> base = Cycles(tensor=1000, shared=800, issue=500, fp32=200, mufu=100)
        >>> more = Cycles(tensor=1000, shared=810, issue=560, fp32=250, mufu=100)
        >>> cost(base, more)
        (0.0, 0.06)

    """
    hidden = further.bound / base.bound - 1
    exposed = (further.issue - base.issue) / base.bound
    return hidden, max(hidden, exposed)


def _round_up(value: int, granule: int) -> int:
    return -(-value // granule) * granule
