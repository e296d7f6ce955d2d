# SPDX-License-Identifier: MIT
"""What every probe is given and what it must answer, by numpy and torch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

LANES = 32
# The PTX ISA states no bound for the sums of mma. Tensor cores align the terms to the largest and
# cut off what is below it; the emulator adds in fp32, one by one.
MMA_ULPS = 8.0
EXP2_RELATIVE_ERROR = 2.0**-22  # PTX ISA, ex2.approx
SMALLEST_NORMAL = 2.0**-126

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Expectation:
    """Input and answer of one probe.

    Attributes:
        given: The bytes of whole items.
        wanted: The answer: uint16 and uint32 for bits, float32 for numbers.
        allowed: Largest absolute deviation per number; None where every bit counts. A NaN may have
            any payload.

    """

    given: bytes
    wanted: Array
    allowed: NDArray[np.float64] | None = None


def load_matrices(transposed: bool) -> Expectation:
    rng = np.random.default_rng(1)
    items = 16
    rows = rng.integers(0, 1 << 16, (items, 64, 8)).astype(np.uint16)
    chosen = rng.integers(0, 64, (items, LANES)).astype(np.uint32)
    chosen[0] = np.arange(LANES)
    chosen[1] = 7  # every lane gives the same row
    matrices = rows[np.arange(items)[:, None], chosen].reshape(items, 4, 8, 8)
    if transposed:
        matrices = matrices.swapaxes(2, 3)
    # Register i of lane 4 r + t: elements 2 t and 2 t + 1 of row r of matrix i.
    registers = matrices.reshape(items, 4, LANES, 2).swapaxes(1, 2)
    return Expectation(_items(rows, chosen), np.ascontiguousarray(registers))


def mma(dtype: torch.dtype) -> Expectation:
    operands = [torch.stack(parts) for parts in zip(*_mma_problems(), strict=True)]
    a, b, sums = operands[0].to(dtype), operands[1].to(dtype), operands[2].float()
    # One term per product, and the sums so far; infinities and NaN come out by themselves.
    terms = a.double()[:, :, None, :] * b.double().mT[:, None]
    terms = torch.cat([sums.double()[..., None], terms], -1)
    exact = terms.sum(-1)
    largest = torch.maximum(terms.abs(), terms.cumsum(-1).abs()).amax(-1)
    allowed = MMA_ULPS * (2.0**-23 * largest + 2.0**-149)
    given = _items(a.view(torch.int16).numpy(), b.view(torch.int16).numpy(), sums.numpy())
    return Expectation(given, exact.float().numpy(), allowed.nan_to_num(0, 0, 0).numpy())


def _mma_problems() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Give a [16, 16], b [16, 8] and sums [16, 8] in float32, values that float16 holds too."""
    generator = torch.Generator().manual_seed(2)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    zeros = torch.zeros(16, 8)
    problems = []
    for shift in range(16):  # every element of a meets every element of b once
        problems.append((torch.eye(16).roll(shift, 0), draw(16, 8), zeros))
    integers = [torch.randint(-9, 10, size, generator=generator).float() for size in _MMA_SIZES]
    problems.append((integers[0], integers[1], integers[2]))
    for scale_a, scale_b, scale_sums in _MMA_SCALES:
        problems.append((scale_a * draw(16, 16), scale_b * draw(16, 8), scale_sums * draw(16, 8)))
    spread = torch.exp2(torch.arange(16) - 12.0)
    problems.append((draw(16, 16) * spread, draw(16, 8) * spread.flip(0)[:, None], draw(16, 8)))
    # Large terms that cancel, so that what was cut off remains.
    cancelling = torch.ones(16, 16)
    cancelling[:, 8:] = -1.0
    large = 1e4 * torch.ones(16, 8)
    large[3] += 8.0
    problems.append((cancelling, large, draw(16, 8)))
    special = (draw(16, 16), draw(16, 8), draw(16, 8))
    special[0][1, 3], special[0][2, 5], special[0][9, 0] = torch.inf, -torch.inf, torch.nan
    special[1][3, 2], special[1][7, 6] = 0.0, torch.inf
    special[2][4, 4], special[2][12, 1], special[2][2, 7] = torch.inf, torch.nan, torch.inf
    problems.append(special)
    return problems


_MMA_SIZES = ((16, 16), (16, 8), (16, 8))
# Of a, b and the sums: ordinary, large, small down to denormals of float16, sums above and below.
_MMA_SCALES = [
    (1, 1, 1), (1, 1, 0), (1e4, 1e3, 1), (1e4, 1e4, 1e9), (1e-6, 1e-6, 0), (1e-7, 1e-3, 1e-9),
    (1e-3, 1e-3, 1e30), (1, 1, 1e-38), (1e-7, 1e-7, 1e-40), (1e4, 1e-7, 1e-3),
]  # fmt: skip


def copy_async() -> Expectation:
    rng = np.random.default_rng(3)
    items = 6
    chunks = rng.integers(0, 256, (items, LANES, 16)).astype(np.uint8)
    counts = rng.choice([0, 8, 16], (items, LANES)).astype(np.uint32)
    counts[0], counts[1], counts[2] = 0, 8, 16
    counts[3] = rng.choice([0, 4, 8, 12, 16], LANES)
    copied = np.where(np.arange(16) < counts[:, :, None], chunks, 0).astype(np.uint8)
    wanted = np.ascontiguousarray(copied[:, ::-1]).view(np.uint32)
    return Expectation(_items(chunks, counts), wanted)


def copy_async_groups() -> Expectation:
    rng = np.random.default_rng(4)
    chunks = rng.integers(0, 1 << 32, (4, 3, LANES // 2, 2, 4), dtype=np.uint32)
    return Expectation(chunks.tobytes(), np.ascontiguousarray(chunks[:, :, :, ::-1]))


def shared_words() -> Expectation:
    rng = np.random.default_rng(5)
    words = rng.integers(0, 1 << 32, (4, LANES), dtype=np.uint32)
    words[0, :4] = [0x7FC00001, 0xFF800000, 0x00000001, 0x80000000]  # NaN, -inf, denormal, -0
    slots = _permutations(rng, 4)
    in_order = np.empty_like(words)
    np.put_along_axis(in_order, slots.astype(np.int64), words, 1)
    wanted = np.concatenate([words, in_order, in_order], 1)
    return Expectation(_items(words, slots), wanted)


def shared_chunks() -> Expectation:
    rng = np.random.default_rng(6)
    chunks = rng.integers(0, 1 << 32, (4, LANES, 4), dtype=np.uint32)
    slots = _permutations(rng, 4)
    wanted = np.empty_like(chunks)
    np.put_along_axis(wanted, slots.astype(np.int64)[:, :, None], chunks, 1)
    return Expectation(_items(chunks, slots), wanted)


def shuffles() -> Expectation:
    rng = np.random.default_rng(7)
    values = rng.standard_normal((4, LANES)).astype(np.float32)
    sources = rng.integers(0, LANES, (4, LANES)).astype(np.uint32)
    sources[0] = 5
    lanes = np.arange(LANES)
    rows = [values[:, lanes ^ step] for step in (1, 2, 4, 8, 16)]
    rows.append(np.take_along_axis(values, sources.astype(np.int64), 1))
    return Expectation(_items(values, sources), np.stack(rows, 1))


def votes() -> Expectation:
    rng = np.random.default_rng(8)
    yes = rng.integers(0, 2, (8, LANES)).astype(np.uint32)
    yes[0], yes[1], yes[2], yes[3] = 0, 1, 0, 1
    yes[2, 31], yes[3, 0] = 1, 0
    ballot = (yes << np.arange(LANES, dtype=np.uint32)).sum(1, dtype=np.uint32)
    columns = [yes.any(1).astype(np.uint32), yes.all(1).astype(np.uint32), ballot]
    wanted = np.stack(columns, 1)[:, :, None].repeat(LANES, 2)
    return Expectation(yes.tobytes(), wanted)


def pack(dtype: torch.dtype) -> Expectation:
    numbers = _numbers(dtype)
    rng = np.random.default_rng(9)
    pairs = np.stack([numbers, rng.permutation(numbers)], -1)
    rounded = torch.from_numpy(pairs).to(dtype)
    return Expectation(pairs.tobytes(), _bits(rounded))


def _numbers(dtype: torch.dtype) -> NDArray[np.float32]:
    """Give every number of a 16-bit type, what lies between two, specials, and random bits."""
    exact = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    exact = exact[exact.isfinite()].double()
    exact = exact.unique()
    middles = (exact[1:] + exact[:-1]) / 2
    ulp = torch.finfo(torch.float32).eps * middles.abs()
    random = np.random.default_rng(10).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    largest = torch.finfo(dtype).max
    specials = [
        0.0, -0.0, np.inf, -np.inf, np.nan, largest, -largest, largest * (1 + 2.0**-12),
        np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45, -1e-45, 1.17e-38, 6e-8, 3e-8,
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        parts = [
            t.numpy().astype(np.float32) for t in (exact, middles, middles - ulp, middles + ulp)
        ]
    everything = np.concatenate([*parts, random.view(np.float32), np.float32(specials)])
    return _whole_items(everything)


def from_16_bits(dtype: torch.dtype) -> Expectation:
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = torch.from_numpy(bits.view(np.int16)).view(dtype).float()
    return Expectation(bits.tobytes(), numbers.numpy())


def exp2() -> Expectation:
    rng = np.random.default_rng(11)
    edges = np.float32([
        0.0, -0.0, 1.0, -1.0, 127.0, 127.99999, 128.0, 1e30, -125.99999, -126.0, -126.00001, -127.0,
        -149.0, -150.0, -1e30, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.17e-38, 2.0**-24,
        -(2.0**-25),
    ])  # fmt: skip
    parts = [
        edges,
        np.linspace(-130, 130, 1 << 15, dtype=np.float32),
        np.linspace(-1, 1, 1 << 14, dtype=np.float32),
        -np.exp(rng.uniform(-20, 5, 1 << 14)).astype(np.float32),
    ]
    x = _whole_items(np.concatenate(parts))
    with np.errstate(over="ignore"):
        exact = np.exp2(x.astype(np.float64))
        allowed = np.where(np.isfinite(exact), EXP2_RELATIVE_ERROR * exact, 0.0)
        wanted = np.where(exact < SMALLEST_NORMAL, 0.0, exact).astype(np.float32)
    # Where the bound leaves open whether the result is normal, it may be flushed.
    open_question = np.abs(exact / SMALLEST_NORMAL - 1) < 2 * EXP2_RELATIVE_ERROR
    allowed = np.where(open_question, 2 * SMALLEST_NORMAL, allowed)
    return Expectation(
        x.tobytes(), wanted, np.where(exact > np.finfo(np.float32).max, 0.0, allowed)
    )


def max_or_nan() -> Expectation:
    rng = np.random.default_rng(12)
    edges = np.float32([0.0, -1.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38])
    pairs = np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2)
    random = rng.standard_normal((4096, 2)).astype(np.float32)
    pairs = _whole_items(np.concatenate([pairs, random]))
    return Expectation(pairs.tobytes(), np.maximum(pairs[:, 0], pairs[:, 1]))


PROBES: dict[str, Callable[[], Expectation]] = {
    "load_matrices": lambda: load_matrices(transposed=False),
    "load_matrices_transposed": lambda: load_matrices(transposed=True),
    "mma_bfloat16": lambda: mma(torch.bfloat16),
    "mma_float16": lambda: mma(torch.float16),
    "copy_async": copy_async,
    "copy_async_groups": copy_async_groups,
    "shared_words": shared_words,
    "shared_chunks": shared_chunks,
    "shuffles": shuffles,
    "votes": votes,
    "pack_bfloat16": lambda: pack(torch.bfloat16),
    "pack_float16": lambda: pack(torch.float16),
    "from_float16": lambda: from_16_bits(torch.float16),
    "from_bfloat16": lambda: from_16_bits(torch.bfloat16),
    "exp2": exp2,
    "max_or_nan": max_or_nan,
}


def _items(*parts: Array) -> bytes:
    """Join arrays, whose first axis counts the items, item by item."""
    rows = [np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1) for part in parts]
    return np.concatenate(rows, 1).tobytes()


def _whole_items(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat the first rows until the number of rows is a multiple of a warp."""
    return np.concatenate([numbers, numbers[: -len(numbers) % LANES]])


def _permutations(rng: np.random.Generator, items: int) -> NDArray[np.uint32]:
    slots = np.stack([rng.permutation(LANES) for _ in range(items)])
    slots[0] = np.arange(LANES)
    return slots.astype(np.uint32)


def _bits(tensor: torch.Tensor) -> NDArray[np.uint16]:
    return tensor.view(torch.int16).numpy().view(np.uint16)
