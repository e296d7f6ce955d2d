# SPDX-License-Identifier: MIT
"""One-instruction kernels: how they are written, which operands they get, what counts as right."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from . import reference as ref

HEADER = ".version 9.0\n.target sm_80\n.address_size 64\n"

Number = int | float
Compute = Callable[..., Number]

_MAX_ELEMENTS = 1500


@dataclass(frozen=True)
class Case:
    """An instruction applied to many operands.

    Attributes:
        code: Statements that set %d from %a, %b and %c, of the given types.
        result: Type of %d.
        sources: Types of the operands that are there.
        compute: The result from numbers: of unsigned types and bits >= 0, of ``pred`` 0 or 1.
        ulps: How far a float may be off.
    """

    code: str
    result: str
    sources: tuple[str, ...]
    compute: Compute
    ulps: int = 0

    @property
    def name(self) -> str:
        """The code as an identifier."""
        plain = self.code.replace("%", "").replace("!", "not_").replace("-", "minus_")
        return "k_" + "".join(c if c.isalnum() else "_" for c in plain).strip("_")


def simple(
    opcode: str, kind: str, count: int, compute: Compute, result: str = "", ulps: int = 0
) -> Case:
    """Return the case of ``opcode.kind %d, %a…`` with sources of that type."""
    operands = ", ".join(["%d", "%a", "%b", "%c"][: count + 1])
    return Case(f"{opcode}.{kind} {operands};", result or kind, (kind,) * count, compute, ulps)


def width(kind: str) -> int:
    """Return the bits of a type."""
    return 1 if kind == "pred" else int(kind[1:])


def to_signed(value: int, bits: int) -> int:
    """Read a pattern as a signed number."""
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


# ---- The kernel ----------------------------------------------------------------------------------


def _register(kind: str) -> str:
    """Numbers of 8 bits live in registers of 16."""
    return kind if kind == "pred" or kind[0] == "f" else f"b{max(width(kind), 16)}"


def _load(name: str, kind: str, place: int) -> str:
    address = f"ld.param.u64 %base, [p{place}]; mad.wide.u32 %at, %i, {_bytes(kind)}, %base;"
    if kind == "pred":
        return f"{address} ld.global.u32 %flag, [%at]; setp.ne.u32 %{name}, %flag, 0;"
    return f"{address} ld.global.b{width(kind)} %{name}, [%at];".replace(
        f"ld.global.b{width(kind)}", f"ld.global.{kind if kind[0] == 'f' else f'b{width(kind)}'}"
    )


def _store(kind: str, place: int) -> str:
    address = f"ld.param.u64 %base, [p{place}]; mad.wide.u32 %at, %i, {_stored(kind)}, %base;"
    if kind == "pred":
        return f"{address} selp.u32 %flag, 1, 0, %d; st.global.u32 [%at], %flag;"
    return f"{address} st.global.{_register(kind)} [%at], %d;"


def _bytes(kind: str) -> int:
    return 4 if kind == "pred" else width(kind) // 8


def _stored(kind: str) -> int:
    return 4 if kind == "pred" else width(_register(kind)) // 8


def kernel(case: Case) -> str:
    """Return the PTX of a kernel that applies a case to arrays: sources, result, their length."""
    names = "abc"[: len(case.sources)]
    last = len(names)
    parameters = "".join(f".param .u64 p{i}, " for i in range(last + 1)) + ".param .u32 n"
    declared = [*zip(names, case.sources, strict=True), ("d", case.result)]
    registers = "".join(f".reg .{_register(kind)} %{name}; " for name, kind in declared)
    loads = "\n".join(_load(name, kind, i) for i, (name, kind) in enumerate(declared[:-1]))
    return f"""
.visible .entry {case.name}({parameters})
{{
.reg .pred %p, %q, %out; .reg .b32 %i, %n, %block, %threads, %flag; .reg .b64 %base, %at;
{registers}
mov.u32 %block, %ctaid.x; mov.u32 %threads, %ntid.x; mov.u32 %i, %tid.x;
mad.lo.u32 %i, %block, %threads, %i;
ld.param.u32 %n, [n]; setp.ge.u32 %out, %i, %n; @%out ret;
{loads}
{case.code}
{_store(case.result, last)}
ret;
}}
"""


def module(cases: Iterable[Case]) -> str:
    """Return the PTX of all kernels."""
    return HEADER + "".join(map(kernel, cases))


# ---- Operands and results ------------------------------------------------------------------------


def _choices(kind: str) -> Sequence[Number]:
    if kind == "pred":
        return [0, 1]
    if kind[0] == "f":
        return ref.edge_floats(width(kind))
    patterns = ref.edge_integers(width(kind))
    return [to_signed(x, width(kind)) if kind[0] == "s" else x for x in patterns]


def operands(case: Case) -> list[tuple[Number, ...]]:
    """Return all combinations of edge values, or a sample of them."""
    combinations = list(itertools.product(*map(_choices, case.sources)))
    if len(combinations) <= _MAX_ELEMENTS:
        return combinations
    random = np.random.default_rng(zlib.crc32(case.code.encode()))
    return [combinations[i] for i in random.integers(0, len(combinations), _MAX_ELEMENTS)]


def array(kind: str, values: Sequence[Number]) -> np.ndarray:
    """Return the memory in which a kernel finds values of a type."""
    if kind[0] == "f":
        return np.array(values, dtype=f"f{width(kind) // 8}")
    bits = 8 * _bytes(kind)
    return np.array([int(value) % (1 << bits) for value in values], dtype=f"u{bits // 8}")


def result_array(case: Case, count: int) -> np.ndarray:
    """Return memory for the results."""
    letter = "f" if case.result[0] == "f" else "u"
    return np.zeros(count, dtype=f"{letter}{_stored(case.result)}")


def mismatches(
    case: Case, given: Sequence[tuple[Number, ...]], results: np.ndarray
) -> list[tuple[tuple[Number, ...], Number, Number]]:
    """Return operands, expectation and result of what is wrong."""
    wrong = []
    for values, result in zip(given, results.tolist(), strict=True):
        expected = case.compute(*values)
        if case.result[0] == "f":
            is_right = _floats_agree(float(result), float(expected), results.dtype, case.ulps)
        else:
            expected = _extended(case.result, int(expected))
            is_right = result == expected
        if not is_right:
            wrong.append((values, expected, result))
    return wrong


def _extended(kind: str, value: int) -> int:
    """A number as its register holds it: an 8-bit one with its sign, if it has one."""
    bits = width(kind)
    if kind == "pred":
        return value
    number = to_signed(value % (1 << bits), bits) if kind[0] == "s" else value % (1 << bits)
    return number % (1 << width(_register(kind)))


def _floats_agree(result: float, expected: float, kind: np.dtype, ulps: int) -> bool:
    if np.isnan(expected):
        return bool(np.isnan(result))
    expected = float(kind.type(expected))
    if ulps and np.isfinite(expected) and np.isfinite(result):
        return abs(result - expected) <= ulps * float(np.spacing(kind.type(abs(expected))))
    return result == expected and np.signbit(result) == np.signbit(expected)
