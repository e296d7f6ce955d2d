# SPDX-License-Identifier: MIT
"""Numbers on the CUDA emulator: rounding, powers, and the functions of CUDA."""

import numpy as np
import pytest

pytestmark = pytest.mark.emulated
pytest_plugins = ["cuda_emulator_selftest"]

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 2.0**-126, 3.4e38], np.float32
)


def _values_of_type(element):
    """The finite numbers from zero up, as float64, and the power of two that would come next."""
    if element == "float16":
        numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
        return np.append(numbers, 2.0**16)
    bits = np.arange(0x7F80, dtype=np.uint32) << 16
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


def _round(numbers, element):
    """Round to nearest, ties to even, by searching among all numbers of the type."""
    table = _values_of_type(element)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        magnitude = np.abs(numbers.astype(np.float64))
    above = np.clip(np.searchsorted(table, magnitude), 1, len(table) - 1)
    lower, upper = magnitude - table[above - 1], table[above] - magnitude
    nearest = np.where(lower == upper, above - above % 2, np.where(lower < upper, above - 1, above))
    nearest = np.where(np.isinf(magnitude), len(table) - 1, nearest)  # the bits of infinity
    bits = nearest | np.where(np.signbit(numbers), 0x8000, 0)
    return np.where(np.isnan(numbers), 0x7FFF, bits).astype(np.uint16)


def _numbers_to_round(element):
    """Every 16-bit number, every midpoint between two, their neighbours, and any bits."""
    table = _values_of_type(element)
    midpoints = ((table[:-1] + table[1:]) / 2).astype(np.float32)
    exact = np.concatenate([table[:-1].astype(np.float32), midpoints])
    near = [np.nextafter(exact, np.float32(-np.inf)), np.nextafter(exact, np.float32(np.inf))]
    random = np.random.default_rng(2).integers(0, 2**32, 50_000, dtype=np.uint32)
    numbers = np.concatenate([exact, *near, random.view(np.float32), SPECIAL])
    return np.concatenate([numbers, -numbers])


@pytest.mark.parametrize("element", ["bfloat16", "float16"])
def test_pack_rounds_to_nearest_even(emulator, element):
    numbers = _numbers_to_round(element)
    output = np.zeros(len(numbers), np.uint32)
    emulator.run(f"pack_{element}", numbers, output, len(numbers))
    expected = _round(numbers, element)
    np.testing.assert_array_equal(output & 0xFFFF, expected)
    np.testing.assert_array_equal(output >> 16, np.append(expected[1:], expected[-1]))


def test_pack_agrees_with_numpy(emulator):
    numbers = _numbers_to_round("float16")
    numbers = numbers[~np.isnan(numbers)]
    output = np.zeros(len(numbers), np.uint32)
    emulator.run("pack_float16", numbers, output, len(numbers))
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    np.testing.assert_array_equal((output & 0xFFFF).astype(np.uint16), expected.view(np.uint16))


def test_every_float16_is_read(emulator):
    bits = np.arange(1 << 16, dtype=np.uint16)
    output = emulator.run("unpack_float16", bits, np.zeros(len(bits), np.float32), len(bits))
    expected = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(np.signbit(output), np.signbit(expected))


def test_powers_of_two(emulator):
    exponents = np.arange(-126, 128, dtype=np.float32)
    output = emulator.run("powers", exponents, np.zeros_like(exponents), len(exponents))
    np.testing.assert_array_equal(output, np.exp2(exponents.astype(np.float64)))


def test_powers_in_between_and_at_the_ends(emulator):
    numbers = np.linspace(-126, 127.9, 10_001, dtype=np.float32)
    output = emulator.run("powers", numbers, np.zeros_like(numbers), len(numbers))
    expected = np.exp2(numbers.astype(np.float64))
    # What the instruction promises.
    assert np.max(np.abs(output - expected) / expected) < 2.0**-22
    # Denormal results are zero, and denormal arguments too: their power is 1.
    edges = np.array([-127, -140, -1e9, -np.inf, 1e-45, -1e-45, 128, np.inf, np.nan], np.float32)
    output = emulator.run("powers", edges, np.zeros_like(edges), len(edges))
    np.testing.assert_array_equal(output, [0, 0, 0, 0, 1, 1, np.inf, np.inf, np.nan])


def test_larger_of_two(emulator):
    pairs = np.array(
        [[1, 2], [2, 1], [-0.0, 0.0], [0.0, -0.0], [-np.inf, -1], [np.nan, 1], [1, np.nan]],
        np.float32,
    )
    output = emulator.run("maxima", pairs, np.zeros(len(pairs), np.float32), len(pairs))
    np.testing.assert_array_equal(output, [2, 2, 0, 0, -1, np.nan, np.nan])
    assert not np.signbit(output[2:4]).any()
    np.testing.assert_array_equal(output[5:].view(np.uint32), 0x7FFFFFFF)


def test_functions_of_cuda_are_there(emulator):
    x, y = -np.inf, 4  # with these every result is exact
    output = emulator.run("functions", np.array([x, y], np.float32), np.zeros(12, np.float32))
    np.testing.assert_array_equal(output, [x, y, x, 2, -1, y, x, 0.5, x, 2, -1, x])


def test_rounding_of_the_caller_is_neither_used_nor_lost(emulator):
    numbers = np.array([1, 2.0**-30], np.float32)
    assert emulator.run("add_rounding_upwards", numbers, np.zeros(1, np.float32)) == 1
