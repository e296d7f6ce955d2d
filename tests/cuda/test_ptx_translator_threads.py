# SPDX-License-Identifier: MIT
"""PTX to C++: control flow, barriers and warps."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_emulator.ptx.selftest.case import HEADER
from cuda_emulator.ptx.selftest.harness import Unit, find_compiler

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

# Counts Collatz steps; the inner scope has a register and a label of the outer names, as inlined
# assembly has them.
COLLATZ = f"""{HEADER}
.visible .entry collatz(.param .u64 target, .param .u32 limit)
{{
.reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
ld.param.u64 %rd1, [target]; ld.param.u32 %r7, [limit];
mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
setp.eq.u32 %p1, %r1, 0; @%p1 exit;
mov.u32 %r2, 0;
loop:
setp.le.u32 %p2, %r1, 1; @%p2 bra done;
and.b32 %r3, %r1, 1; setp.eq.u32 %p3, %r3, 1;
{{ .reg .b32 %r1x; .reg .b32 half<2>;
  @!%p3 bra done;
  mad.lo.u32 %r1x, %r1, 3, 1; mov.u32 %r1, %r1x; bra.uni after;
done: shr.u32 half1, %r1, 1; mov.u32 %r1, half1;
after:
}}
add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, %r7; @%p2 bra loop;
done:
st.global.u32 [%rd3], %r2;
ret;
}}
"""


@needs_compiler
def test_loops_diverge_and_scopes_hide() -> None:
    target = np.full(64, 7, dtype=np.uint32)
    assert not Unit(COLLATZ).launch("collatz", target, np.uint32(50), threads=64)
    assert target[0] == 7
    for start in range(1, 64):
        number, steps = start, 0
        while number > 1 and steps < 50:
            number, steps = number * 3 + 1 if number % 2 else number // 2, steps + 1
        assert target[start] == steps


@needs_compiler
def test_a_register_that_is_read_too_early_is_poison() -> None:
    body = ".reg .f32 %f<2>; .reg .b32 %r<3>; .reg .b64 %rd<2>; .reg .pred %p<2>;"
    body += "ld.param.u64 %rd1, [target]; mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0;"
    body += "@%p1 mov.f32 %f1, 0f3F800000; @%p1 mov.u32 %r2, 5;"
    body += (
        "mad.wide.u32 %rd1, %r1, 8, %rd1; st.global.f32 [%rd1], %f1; st.global.u32 [%rd1+4], %r2;"
    )
    target = np.zeros(4, dtype=np.float32)
    unit = Unit(f"{HEADER}.entry early(.param .u64 target) {{ {body} }}")
    assert not unit.launch("early", target, threads=2)
    assert target[0] == 1
    assert np.isnan(target[2])
    assert target.view(np.uint32)[[1, 3]].tolist() == [5, 0xFFFFFFFF]


# Two warps copy, meet, and read what the other has copied; then one tells the other to go on.
COPIES = f"""{HEADER}
.extern .shared .align 16 .b8 memory[];
.visible .entry copies(.param .u64 source, .param .u64 target, .param .u32 size)
.reqntid 64
{{
.reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
ld.param.u64 %rd1, [source]; ld.param.u64 %rd2, [target]; ld.param.u32 %r7, [size];
mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 8; add.u64 %rd4, %rd1, %rd3; add.u64 %rd5, %rd2, %rd3;
mov.u32 %r2, memory; mad.lo.u32 %r3, %r1, 8, %r2;
cp.async.ca.shared.global.L2::128B [%r3], [%rd4], 8, %r7;
cp.async.wait_all;
barrier.cta.sync.aligned 1, 64;
xor.b32 %r4, %r1, 63; mad.lo.u32 %r4, %r4, 8, %r2; ld.shared.u64 %rd6, [%r4];
st.global.u64 [%rd5], %rd6;
barrier.sync 0;
setp.lt.u32 %p1, %r1, 32;
@!%p1 bra take;
st.shared.u32 [%r3], %r1; bar.arrive 2, 64; exit;
take: bar.sync 2, 64; ld.shared.u32 %r5, [%r3+-256]; st.global.u32 [%rd5+4], %r5;
}}
"""


@needs_compiler
@pytest.mark.parametrize("schedule", [("in-order", 0), ("reverse", 0), ("random", 1)])
def test_copies_and_barriers(schedule: tuple[str, int]) -> None:
    unit = Unit(COPIES)
    source = np.arange(128, dtype=np.uint32).reshape(64, 2) + 1000
    target = np.zeros((64, 2), dtype=np.uint32)
    arguments = (source, target, np.uint32(4))
    assert not unit.launch("copies", *arguments, threads=64, shared_bytes=512, schedule=schedule)
    assert np.array_equal(target[:, 0], source[::-1, 0])
    assert target[:32, 1].tolist() == [0] * 32
    assert target[32:, 1].tolist() == list(range(32))
    reports = unit.launch("copies", *arguments, threads=128, shared_bytes=1024)
    assert "another number of threads than .reqntid" in reports


def warp_kernel(name: str, body: str) -> str:
    """A kernel in which each lane gets %x and the mask %mask, and stores %d and %p."""
    return f"""
.visible .entry {name}(.param .u64 source, .param .u64 target, .param .u32 mask)
{{
.reg .pred %p, %q; .reg .b32 %lane, %x, %d, %mask, %flag; .reg .b64 %rd<4>;
ld.param.u64 %rd1, [source]; ld.param.u64 %rd2, [target]; ld.param.u32 %mask, [mask];
mov.u32 %lane, %laneid;
mad.wide.u32 %rd1, %lane, 4, %rd1; mad.wide.u32 %rd2, %lane, 8, %rd2;
ld.global.u32 %x, [%rd1]; setp.ne.u32 %q, %x, 0; mov.u32 %d, 0; mov.pred %p, 0;
{body}
selp.u32 %flag, 1, 0, %p; st.global.v2.u32 [%rd2], {{%d, %flag}};
ret;
}}
"""


SHUFFLES = [
    (mode, width, operand)
    for mode in ("up", "down", "bfly", "idx")
    for width in (2, 8, 32)
    for operand in (0, 1, 5, 31)
]


def shuffle_operands(mode: str, width: int, operand: int) -> str:
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    return f"shfl.sync.{mode}.b32 %d|%p, %x, {operand}, {clamp}, %mask;"


@needs_compiler
def test_shuffles() -> None:
    names = [f"shuffle_{mode}_{width}_{operand}" for mode, width, operand in SHUFFLES]
    kernels = map(warp_kernel, names, (shuffle_operands(*shuffle) for shuffle in SHUFFLES))
    unit = Unit(HEADER + "".join(kernels))
    source = np.arange(32, dtype=np.uint32) * 3 + 100
    for name, (mode, width, operand) in zip(names, SHUFFLES, strict=True):
        target = np.zeros((32, 2), dtype=np.uint32)
        assert not unit.launch(name, source, target, np.uint32(0xFFFFFFFF))
        for lane in range(32):
            first = lane // width * width
            place = {
                "up": lane - operand,
                "down": lane + operand,
                "bfly": lane ^ operand,
                "idx": first + operand % width,
            }[mode]
            # A butterfly may reach a lower segment, but none of the others leaves its own.
            is_within = place < first + width and (place >= first or mode == "bfly")
            assert target[lane, 1] == is_within, (name, lane)
            assert target[lane, 0] == source[place if is_within else lane], (name, lane)


VOTES = {
    "any": ("vote.sync.any.pred %p, %q, %mask;", lambda x, mask: (0, bool(x & mask))),
    "not_any": ("vote.sync.any.pred %p, !%q, %mask;", lambda x, mask: (0, bool(~x & mask))),
    "all": ("vote.sync.all.pred %p, %q, %mask;", lambda x, mask: (0, x & mask == mask)),
    "uni": ("vote.sync.uni.pred %p, %q, %mask;", lambda x, mask: (0, x & mask in (0, mask))),
    "ballot": ("vote.sync.ballot.b32 %d, %q, %mask;", lambda x, mask: (x & mask, 0)),
    "active": ("activemask.b32 %d; and.b32 %d, %d, %mask; bar.warp.sync %mask;", None),
}


@needs_compiler
@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0000FFFF, 0x00000101])
def test_votes(mask: int) -> None:
    leave = ".reg .pred %out; .reg .b32 %bit; shr.u32 %bit, %mask, %lane; and.b32 %bit, %bit, 1;"
    leave += "setp.eq.u32 %out, %bit, 0; @%out exit;"
    kernels = (warp_kernel(name, leave + code) for name, (code, _) in VOTES.items())
    unit = Unit(HEADER + "".join(kernels))
    for pattern in (0, 0xFFFFFFFF, 0x00000101, 0x80000001, mask):
        source = np.array([pattern >> lane & 1 for lane in range(32)], dtype=np.uint32)
        for name, (_, compute) in VOTES.items():
            target = np.zeros((32, 2), dtype=np.uint32)
            assert not unit.launch(name, source, target, np.uint32(mask))
            for lane in range(32):
                is_there = mask >> lane & 1
                expected = compute(pattern, mask) if compute else (1 << lane, 0)
                assert target[lane].tolist() == (list(expected) if is_there else [0, 0]), name


@needs_compiler
def test_special_registers() -> None:
    names = [
        "%tid.x",
        "%ntid.x",
        "%ctaid.x",
        "%nctaid.x",
        "%laneid",
        "%tid.y",
        "%ntid.z",
        "WARP_SZ",
    ]
    names += [f"%lanemask_{relation}" for relation in ("eq", "lt", "le", "gt", "ge")]
    body = ".reg .b32 %v, %i, %b, %n; .reg .b64 %rd;"
    body += "mov.u32 %i, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %n, %ntid.x;"
    body += "mad.lo.u32 %i, %b, %n, %i; ld.param.u64 %rd, [target];"
    body += f"mad.wide.u32 %rd, %i, {4 * len(names)}, %rd;"
    body += "".join(
        f"mov.u32 %v, {x}; st.global.u32 [%rd+{4 * i}], %v;" for i, x in enumerate(names)
    )
    unit = Unit(f"{HEADER}.entry special(.param .u64 target) {{ {body} }}")
    target = np.zeros((3 * 64, len(names)), dtype=np.uint32)
    assert not unit.launch("special", target, blocks=3, threads=64)
    for i, row in enumerate(target.tolist()):
        lane = i % 32
        assert row[:8] == [i % 64, 64, i // 64, 3, lane, 0, 1, 32]
        below = (1 << lane) - 1
        masks = [1 << lane, below, below << 1 | 1, ~(below << 1 | 1), ~below]
        assert row[8:] == [mask & 0xFFFFFFFF for mask in masks]
