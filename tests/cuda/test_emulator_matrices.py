# SPDX-License-Identifier: MIT
"""Matrices on the CUDA emulator: products, and loads from shared memory."""

import numpy as np
import pytest

pytestmark = pytest.mark.emulated
pytest_plugins = ["cuda_emulator_selftest"]


# ---- matrices: layouts as the PTX ISA writes them, section "Matrix Fragments for mma.m16n8k16"
def _a_place(lane, i):
    row = lane // 4 + (0 if i < 2 or 4 <= i < 6 else 8)
    return row, lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)


def _b_place(lane, i):
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane // 4


def _c_place(lane, i):
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def _fragments(matrix, place, count):
    return np.stack([[matrix[place(lane, i)] for i in range(count)] for lane in range(32)])


def _bits16(numbers, element):
    """Exact only: the numbers must be of the type."""
    if element == "float16":
        return numbers.astype(np.float16).view(np.uint16)
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _multiply(emulator, element, a, b, c):
    registers = np.concatenate(
        [
            _fragments(_bits16(a, element), _a_place, 8).view(np.uint32),
            _fragments(_bits16(b, element), _b_place, 4).view(np.uint32),
            _fragments(c.astype(np.float32), _c_place, 4).view(np.uint32),
        ],
        axis=1,
    )
    assert registers.shape == (32, 10)
    output = emulator.run(
        f"multiply_{element}", np.ascontiguousarray(registers), np.zeros((32, 4), np.float32)
    )
    product = np.full((16, 8), np.nan, np.float32)
    for lane in range(32):
        for i in range(4):
            product[_c_place(lane, i)] = output[lane, i]
    return product


@pytest.mark.parametrize("element", ["bfloat16", "float16"])
def test_product_is_that_of_the_matrices(scheduled, element):
    generator = np.random.default_rng(0)
    a = generator.integers(-16, 17, (16, 16)).astype(np.float64)
    b = generator.integers(-16, 17, (16, 8)).astype(np.float64)
    c = generator.integers(-1000, 1001, (16, 8)).astype(np.float64)
    np.testing.assert_array_equal(_multiply(scheduled, element, a, b, c), a @ b + c)
    assert scheduled.take_statistics()["mma"] == 1


@pytest.mark.parametrize("element", ["bfloat16", "float16"])
def test_product_of_special_numbers(emulator, element):
    # Denormals count, infinities stay, NaN and inf - inf give NaN, only in their own rows.
    smallest = 2.0**-24 if element == "float16" else 2.0**-133
    a = np.zeros((16, 16))
    b = np.ones((16, 8))
    a[0, 3], a[1, 0], a[2, 5], a[2, 6], a[3, 7] = smallest, np.inf, np.inf, -np.inf, np.nan
    a[4] = smallest
    product = _multiply(emulator, element, a, b, np.zeros((16, 8)))
    expected = np.zeros((16, 8))
    expected[0], expected[1], expected[2:4], expected[4] = smallest, np.inf, np.nan, 16 * smallest
    np.testing.assert_array_equal(product, expected.astype(np.float32))


def test_product_sums_in_fp32(emulator):
    # 1 + 2^-23 is a number of fp32; bf16 sums, or one less bit, would lose the last term.
    a, b = np.zeros((16, 16)), np.ones((16, 8))
    a[:, 0], a[:, 9] = 1, 2.0**-23
    product = _multiply(emulator, "bfloat16", a, b, np.zeros((16, 8)))
    np.testing.assert_array_equal(product, np.float32(1 + 2.0**-23))


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(scheduled, transposed):
    rows = np.arange(256, dtype=np.uint16).reshape(32, 8)
    output = scheduled.run(
        "load_transposed" if transposed else "load_plain", rows, np.zeros((32, 4), np.uint32), 16
    )
    halves = output.view(np.uint16).reshape(32, 4, 2)
    for lane in range(32):
        for matrix in range(4):
            elements = rows[8 * matrix : 8 * matrix + 8]
            row = (elements.T if transposed else elements)[lane // 4]
            expected = row[lane % 4 * 2 : lane % 4 * 2 + 2]
            np.testing.assert_array_equal(halves[lane, matrix], expected)


@pytest.mark.parametrize(
    ("pitch", "conflicts"), [(16, 0), (32, 4), (64, 12), (128, 28), (144, 0), (0, 0)]
)
def test_bank_conflicts_are_counted(emulator, pitch, conflicts):
    # Eight rows share eight groups of banks; the number of passes is that of the fullest group.
    # Equal rows (pitch 0) are one access, though writing them is a race.
    rows, output = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint32)
    assert emulator.launch("load_plain", rows, output, pitch) == 0
    assert (emulator.take_reports() == []) == (pitch > 0)
    statistics = emulator.take_statistics()
    assert statistics["load_matrices"] == 1
    assert statistics["bank_conflicts"] == conflicts
