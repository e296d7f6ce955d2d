# SPDX-License-Identifier: MIT
"""PTX that must be refused, and what the refusal says: one of each kind."""

from __future__ import annotations

from .case import HEADER

_DECLARED = (
    ".reg .pred %p<4>; .reg .b16 %rs<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<8>; "
    ".reg .f64 %fd<4>;\nmov.u32 %r1, 1; mov.u32 %r2, 2; mov.u64 %rd1, 1; mov.f32 %f1, 0f00000000; "
    "mov.f32 %f2, %f1; mov.u16 %rs1, 1; setp.eq.u32 %p1, %r1, %r2; "
    "mov.f64 %fd1, 0d0000000000000000;"
)


def kernel(body: str) -> str:
    """Return a module of one kernel with registers; the body is on line 7."""
    memory = ".extern .shared .align 16 .b8 memory[];"
    return f"{HEADER}{memory}\n.entry k(.param .u64 p0) {{ {_DECLARED}\n{body}\nret; }}"


STATEMENTS = {
    # ---- opcodes and modifiers
    "frobnicate.u32 %r3, %r1;": "instruction frobnicate.u32 is not supported",
    "wgmma.fence.sync.aligned;": "instruction wgmma.fence.sync.aligned is not supported",
    "atom.global.add.u32 %r3, [%rd1], 1;": "is not supported",
    "membar.gl;": "is not supported",
    "add.cc.u32 %r3, %r1, %r2;": "found .cc",
    "add.u32.rn %r3, %r1, %r2;": "modifier .rn is not supported",
    "add.sat.u32 %r3, %r1, %r2;": "expected .s32",
    "mul.u32 %r3, %r1, %r2;": "expected .lo or .hi or .wide",
    "mul.wide.u64 %rd3, %rd1, %rd1;": "no .wide of 64 bits",
    "add.f16 %rs3, %rs1, %rs1;": "found .f16",
    "fma.f32 %f3, %f1, %f1, %f1;": "expected .rn",
    "fma.rn.relu.f32 %f3, %f1, %f1, %f1;": "found .relu",
    "fma.rn.ftz.f64 %fd3, %fd1, %fd1, %fd1;": "expected .f32",
    "ex2.f32 %f3, %f1;": "expected .approx",
    "tanh.approx.f32 %f3, %f1;": "is not supported",
    "max.xorsign.abs.f32 %f3, %f1, %f2;": "found .xorsign",
    "setp.lo.s32 %p2, %r1, %r2;": "comparison .lo does not fit .s32",
    "setp.lt.b32 %p2, %r1, %r2;": "comparison .lt does not fit .b32",
    "setp.ltu.u32 %p2, %r1, %r2;": "comparison .ltu does not fit .u32",
    "prmt.b32.f4e %r3, %r1, %r1, %r2;": "modifier .f4e is not supported",
    "cvt.f32.bf16 %f3, %rs1;": "found .bf16",
    "cvt.rz.f32.f64 %f3, %fd1;": "found .rz",
    "cvt.f32.f64 %f3, %fd1;": "only .rn is supported to a smaller float",
    "cvt.f32.s32 %f3, %r1;": "only .rn is supported from integers",
    "cvt.s32.f32 %r3, %f1;": "an integer rounding is needed",
    "cvt.rn.f64.f32 %fd3, %f1;": ".rn does not fit",
    "cvt.rn.relu.bf16x2.f32 %r3, %f1, %f2;": "found .relu",
    "cvt.rn.satfinite.f16x2.f32 %r3, %f1, %f2;": "found .satfinite",
    "ld.relaxed.gpu.global.u32 %r3, [%rd1];": "found .relaxed",
    "ld.global.L2::cache_hint.u32 %r3, [%rd1], %rd1;": "found .L2::cache_hint",
    "ld.global.v8.u32 {%r3, %r4}, [%rd1];": "found .v8",
    "ld.global.v4.u64 {%rd3, %rd4, %rd5, %rd6}, [%rd1];": "more than 16 bytes",
    "ld.local.u32 %r3, [%rd1];": "local memory",
    "st.param.u32 [p0], %r1;": "a store to .param",
    "cvta.to.shared.u64 %rd3, %rd1;": "generic addresses of .shared",
    "cvta.shared.u64 %rd3, %rd1;": "generic addresses of .shared",
    "cp.async.cg.shared.global [%r1], [%rd1], 8;": "a copy of 8 bytes",
    "cp.async.ca.shared.global [%r1], [%rd1], %r2;": "integer constant",
    "cp.async.bulk.commit_group;": "found .bulk",
    "cp.async.wait_group -1;": "negative",
    "ldmatrix.sync.aligned.m8n8.x4.b16 {%r3, %r4, %r5, %r6}, [%r1];": "expected .shared",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4}, [%r1];": "expected a vector of 4",
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f3}, {%r1}, {%r1}, {};": "found .m16n8k8",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32 {%f3}, {%r1}, {%r1}, {};": "found .bf16",
    "shfl.bfly.b32 %r3, %r1, 1, 31;": "is not supported",
    "shfl.sync.bfly.b64 %rd3, %rd1, 1, 31, -1;": "found .b64",
    "bar.red.popc.u32 %r3, 0, %p1;": "found .red",
    "bar.arrive 0;": "expected 2 operands",
    "barrier.cluster.arrive;": "found .cluster",
    "call f, ();": "functions and calls",
    # ---- operands
    "add.u32 %r3, %r1;": "expected 3 operands, found 2",
    "add.u32 %r3, %r1, %r9;": "%r9 is not declared",
    "add.u32 %r3, %r1, %clock;": "%clock is not declared or not supported",
    "add.u32 %r3, %r1, %rd1;": "a .b64 register does not fit .u32",
    "add.u32 %r3, %r1, %f1;": "a .f32 register does not fit .u32",
    "add.u32 %rd3, %r1, %r2;": "a .b64 register does not fit .u32",
    "add.f32 %f3, %f1, 1;": "an integer constant does not fit .f32",
    "add.u32 %r3, %r1, 1.5;": "float constant",
    "add.u32 %r3, %r1, 4294967296;": "4294967296 does not fit .u32",
    "add.u32 %r3, %r1, 2+3;": "operand form",
    "add.u32 5, %r1, %r2;": "is no destination",
    "and.pred %p2, %p1, %r1;": "does not fit .pred",
    "ld.shared.u32 %r3, [%r1*4];": "address form",
    "ld.shared.u32 %r3, %r1;": "expected an address",
    "ld.global.u32 %r3, [%r1];": "an address of 32 bits in .global",
    "ld.global.u32 %r3, [memory];": "memory is in .shared",
    "ld.param.u32 %r3, [p0+8];": "outside of the 8 bytes",
    "ld.param.u32 %r3, [p0+2];": "not aligned",
    "mov.u16 %rs3, memory;": "an address of 32 bits does not fit",
    "mov.b32 {%r3, %r4, %r5}, %r1;": "way to split",
    "@%r1 bra done; done:": "is no predicate",
    # ---- control flow and registers
    "bra nowhere;": "there is no label 'nowhere'",
    "one: one:": "label is there twice",
    "brx.idx %r1, targets;": "is not declared",
    "add.u32 %r3, %r1, %r4;": "register r4 is read but never written",
    "@%p1 setp.eq.u32 %p2, %r1, 3; @%p2 ret;": "predicate p2 may be read before it is written",
    # ---- directives
    ".local .align 4 .b8 depot[16];": "local memory",
    ".shared .align 4 .b8 tile[16];": "directive .shared is not supported here",
    ".reg .f16 %h<4>;": "registers of this type",
    ".reg .b128 %q;": "registers of this type",
    '.pragma "something";': "directive .pragma is not supported here",
}

MODULES = {
    ".version 9.0\n.target sm_90a": "only sm_80 is supported",
    ".address_size 32": "only 64-bit addresses",
    HEADER + ".func f() { ret; }": "functions and calls",
    HEADER + ".extern .func (.param .b32 r) vprintf (.param .b64 a);": "functions and calls",
    HEADER + ".shared .align 4 .b8 tile[16];": "static shared memory",
    HEADER + ".extern .global .b32 value;": "variables of other modules",
    HEADER + ".global .b32 table[2][2];": "one known dimension",
    HEADER + ".global .b32 table[2] = {1, 2, 3};": "more values than elements",
    HEADER + ".global .u64 table[1] = {other};": "initial value other",
    HEADER + ".global .texref texture;": "type .texref",
    HEADER + ".alias a, b;": "directive .alias",
    HEADER + "nonsense": "neither a directive nor a declaration",
    HEADER + ".entry k(.param .b32 p[4], .reg .b32 q) { ret; }": "parameter '.reg .b32 q'",
    HEADER + ".entry k() .explicitcluster 1 { ret; }": "directive .explicitcluster",
    HEADER + ".entry k() { ret;": "kernel without an end",
    HEADER + ".entry k() { ret": "statement without an end",
}
