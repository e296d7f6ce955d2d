# SPDX-License-Identifier: MIT
"""PTX to C++: all families of opcodes against exact arithmetic, memory, and what is reported."""

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
