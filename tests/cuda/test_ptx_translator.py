# SPDX-License-Identifier: MIT
"""PTX to C++: all families of opcodes against exact arithmetic, memory, control flow, warps."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from cuda_emulator.ptx.selftest import case as cases
from cuda_emulator.ptx.selftest.case import HEADER, Case
from cuda_emulator.ptx.selftest.conversion_cases import comparisons, conversions
from cuda_emulator.ptx.selftest.float_cases import floats
from cuda_emulator.ptx.selftest.harness import SANITIZE, Unit, find_compiler
from cuda_emulator.ptx.selftest.integer_cases import bits, integers

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

FAMILIES = {
    family.__name__: list(family()) for family in (integers, bits, floats, comparisons, conversions)
}
CASES = [(name, case) for name, family in FAMILIES.items() for case in family]


@functools.cache
def family_unit(name: str) -> Unit:
    return Unit(cases.module(FAMILIES[name]))


@needs_compiler
@pytest.mark.parametrize(("family", "case"), CASES, ids=[case.code for _, case in CASES])
def test_instruction(family: str, case: Case) -> None:
    given = cases.operands(case)
    arrays = [
        cases.array(kind, [values[i] for values in given]) for i, kind in enumerate(case.sources)
    ]
    results = cases.result_array(case, len(given))
    blocks = -(-len(given) // 128)
    count = np.uint32(len(given))
    reports = family_unit(family).launch(
        case.name, *arrays, results, count, blocks=blocks, threads=128
    )
    assert not reports
    assert cases.mismatches(case, given, results)[:5] == []


@needs_compiler
@pytest.mark.long
def test_no_instruction_is_undefined_behaviour() -> None:
    # In a process of its own, which ends where the sanitizer finds something.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, SANITIZE: "1"}
    done = subprocess.run(
        [*command, "-k", "test_instruction"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Memory and parameters -----------------------------------------------------------------------

WIDTHS = f"""{HEADER}
.extern .shared .align 16 .b8 memory[];
.visible .entry widths(.param .u64 source, .param .u64 target)
{{
.reg .b16 %h<8>; .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .f32 %f<4>; .reg .f64 %fd<2>;
ld.param.u64 %rd1, [source]; ld.param.u64 %rd2, [target];
cvta.to.global.u64 %rd3, %rd1;
mov.u32 %r1, memory;
ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd3];
st.shared.v4.b32 [%r1], {{%r2, %r3, %r4, %r5}};
ld.volatile.shared.v2.u64 {{%rd4, %rd5}}, [memory];
st.global.cs.v2.u64 [%rd2], {{%rd4, %rd5}};
ld.shared.u8 %h1, [%r1+3]; ld.shared.s8 %h2, [%r1+3]; ld.shared.s8 %r6, [memory+3];
ld.shared::cta.v2.u16 {{%h3, _}}, [%r1+4];
mov.b32 %r7, {{%h1, %h2}};
st.v2.u32 [%rd2+16], {{%r7, %r6}};
st.global.u8 [%rd2+24], %r2; st.global.u16 [%rd2+26], %h3;
ld.f32 %f1, [%rd1+16]; st.weak.global.L1::evict_last.f32 [%rd2+28], %f1;
ld.global.cg.f64 %fd1, [%rd1+24]; st.global.wt.f64 [%rd2+32], %fd1;
mov.u64 %rd6, memory; st.shared.f32 [%rd6+8], %f1; ld.shared.b32 %r8, [%r1+8];
st.global.u32 [%rd2+40], %r8; st.global.u32 [%rd2+44], 0xCAFE;
ret;
}}
"""


@needs_compiler
def test_widths_of_accesses() -> None:
    source = np.arange(32, dtype=np.uint8) * 7 + 0x83
    target = np.zeros(48, dtype=np.uint8)
    assert not Unit(WIDTHS).launch("widths", source, target, threads=1, shared_bytes=16)
    assert np.array_equal(target[:16], source[:16])
    byte = int(source[3])
    extended = (byte - 256 if byte > 127 else byte) % (1 << 32)
    assert target[16:24].view(np.uint32).tolist() == [byte | (extended & 0xFFFF) << 16, extended]
    assert target[24] == source[0]
    assert np.array_equal(target[26:28], source[4:6])
    assert np.array_equal(target[28:32], source[16:20])
    assert np.array_equal(target[32:40], source[24:32])
    assert np.array_equal(target[40:44], source[16:20])
    assert target[44:].view(np.uint32)[0] == 0xCAFE


PARAMETERS = f"""{HEADER}
.visible .entry parameters(
  .param .u8 small, .param .f64 wide, .param .align 8 .b8 pair[16], .param .s16 short,
  .param .u64 .ptr .global .align 8 target, .param .u32 offset)
.maxntid 32, 1, 1
.minnctapersm 1
{{
.reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .f64 %fd<2>; .reg .f32 %f<3>;
ld.param.u64 %rd1, [target]; ld.param.u8 %r1, [small]; ld.param.f64 %fd1, [wide];
ld.param.v2.f32 {{%f1, %f2}}, [pair+8]; ld.param.s16 %r2, [short];
st.global.u32 [%rd1], %r1; st.global.u32 [%rd1+4], %r2; st.global.f64 [%rd1+8], %fd1;
st.global.v2.f32 [%rd1+16], {{%f1, %f2}};
mov.b64 %rd2, pair; ld.param.u32 %r3, [offset]; cvt.s64.s32 %rd3, %r3; add.s64 %rd2, %rd2, %rd3;
ld.param.u64 %rd4, [%rd2+-8]; st.global.u64 [%rd1+24], %rd4;
}}
"""


@needs_compiler
def test_parameters() -> None:
    unit = Unit(PARAMETERS)
    target = np.zeros(32, dtype=np.uint8)
    # The pair of 16 bytes comes as two numbers of 8.
    pair = (np.uint64(0x1122334455667788), np.array([1.5, -2.5], np.float32).view(np.uint64)[0])
    arguments = (np.uint8(200), np.float64(0.1), *pair, np.int16(-3), target)
    assert not unit.launch("parameters", *arguments, np.int32(8), threads=1)
    assert target[:8].view(np.int32).tolist() == [200, -3]
    assert target[8:16].view(np.float64)[0] == 0.1
    assert target[16:24].view(np.float32).tolist() == [1.5, -2.5]
    assert target[24:].view(np.uint64)[0] == pair[0]
    for offset in (-8, -400, 44, 400, 1):
        reports = unit.launch("parameters", *arguments, np.int32(offset), threads=1)
        assert ("ld.param outside of the parameters" in reports) == (offset != -8), offset
    reports = unit.launch("parameters", *arguments, np.int32(8), threads=64)
    assert "more threads than .maxntid allows" in reports


TABLES = f"""{HEADER}
.const .align 4 .f32 halves[4] = {{0f3F000000, 0f3FC00000, 2.5}};
.global .align 8 .u64 squares[4] = {{0, 1, 4, 0x9}};
.visible .entry tables(.param .u64 target, .param .u32 first)
{{
.reg .b32 %r<3>; .reg .b64 %rd<8>; .reg .f32 %f<3>;
ld.param.u64 %rd1, [target]; ld.param.u32 %r1, [first];
mov.u64 %rd2, halves; mad.wide.u32 %rd3, %r1, 4, %rd2;
ld.const.f32 %f1, [%rd3]; ld.const.f32 %f2, [halves+12];
mov.u64 %rd4, squares; mad.wide.u32 %rd5, %r1, 8, %rd4;
ld.global.nc.u64 %rd6, [%rd5];
st.global.f32 [%rd1], %f1; st.global.f32 [%rd1+4], %f2; st.global.u64 [%rd1+8], %rd6;
ret;
}}
"""


@needs_compiler
def test_module_variables() -> None:
    unit = Unit(TABLES)
    target = np.zeros(4, dtype=np.float32)
    assert not unit.launch("tables", target, np.uint32(2), threads=1)
    assert target[:2].tolist() == [2.5, 0.0]
    assert target[2:].view(np.uint64)[0] == 4
    reports = unit.launch("tables", target, np.uint32(4), threads=1)
    assert "ld.const outside of the module's variables" in reports
    assert "ld.global" in reports
    assert np.isnan(target[0])


# ---- Control flow and threads --------------------------------------------------------------------

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


REPORTS = {
    "div.s32 %r3, %r1, %r2;": "integer division by zero",
    "rem.u32 %r3, %r1, %r2;": "remainder of an integer division by zero",
    "ld.global.u32 %r3, [%rd1+4];": "ld.global of 4 bytes",
    "st.global.u16 [%rd1+1], %r1;": "not a multiple of 2",
    "st.global.v2.u32 [%rd1+-8], {%r1, %r1};": "st.global of 8 bytes",
    "ld.shared.u32 %r3, [memory+64];": "outside the 64 bytes",
    "mov.u64 %rd2, 0x100000000; ld.shared.u32 %r3, [%rd2];": "more than 32 bits",
    "cp.async.ca.shared.global [memory], [%rd1], 4; cp.async.commit_group;": "waited for",
    "cp.async.ca.shared.global [memory], [%rd1], 4, %r1;": "must be 0 to 4",
    "bar.sync 17;": "barriers have the numbers",
}


@needs_compiler
@pytest.mark.parametrize(("code", "report"), REPORTS.items(), ids=REPORTS)
def test_errors_of_a_run_are_reported(code: str, report: str) -> None:
    start = (
        ".reg .b32 %r<4>; .reg .b64 %rd<3>; ld.param.u64 %rd1, [p]; mov.u32 %r1, 9; mov.u32 %r2, 0;"
    )
    module = f"{HEADER}.extern .shared .b8 memory[]; .entry k(.param .u64 p) {{ {start} {code} }}"
    reports = Unit(module).launch("k", np.zeros(1, np.uint32), threads=1, shared_bytes=64)
    assert report in reports
