# SPDX-License-Identifier: MIT
"""The CUDA emulator itself: right kernels give right values, under every schedule, and no report.

The kernels are those of `cuda_emulator/selftest/`; a test names the one it runs.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytestmark = pytest.mark.emulated
pytest_plugins = ["cuda_emulator_selftest"]

THREADS_OF_WARP = np.arange(32)

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


# ---- asynchronous copies


def _random_bytes(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_copies_of_a_part_fill_with_zeros(scheduled):
    source = _random_bytes(96, 16)
    expected = source.copy()
    expected[0::3] = 0
    expected[1::3, 8:] = 0
    output = scheduled.run("copy_parts", source, np.zeros_like(source))
    np.testing.assert_array_equal(output, expected[np.arange(96) ^ 1])
    assert scheduled.take_statistics()["async_copies"] == 96


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_copies_in_a_pipeline(scheduled, rows):
    source = _random_bytes(rows, 64, 16).view(np.uint32)
    output = scheduled.run("pipeline", source, np.zeros((64, 4), np.uint32), rows)
    expected = np.roll(source, -1, axis=1).sum(axis=0, dtype=np.uint32)
    np.testing.assert_array_equal(output, expected)


def test_copies_in_groups(scheduled):
    source = _random_bytes(3, 16)
    output = scheduled.run("groups", source, np.zeros((64, 3, 16), np.uint8))
    np.testing.assert_array_equal(output, np.broadcast_to(source, (64, 3, 16)))


def test_copies_of_small_sizes(scheduled):
    source = _random_bytes(16)
    expected = source.copy()
    expected[:4], expected[13:] = 0, 0
    np.testing.assert_array_equal(
        scheduled.run("copy_small", source, np.zeros(16, np.uint8)), expected
    )


# ---- threads


def test_blocks_and_threads_have_coordinates(scheduled):
    output = scheduled.run("coordinates", None, np.zeros((2, 3, 32, 4), np.uint32))
    for y in range(2):
        for x in range(3):
            expected = [[x, y, 6, thread] for thread in range(32)]
            np.testing.assert_array_equal(output[y, x], expected)
    assert scheduled.take_statistics()["blocks"] == 6


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_problem_that_fills_no_block(scheduled, count):
    numbers = np.arange(count, dtype=np.float32)
    output = scheduled.run("double_numbers", numbers, np.full(count + 64, -1, np.float32), count)
    np.testing.assert_array_equal(output[:count], 2 * numbers)
    np.testing.assert_array_equal(output[count:], -1)


def test_shared_memory_is_poisoned_before_each_block(scheduled):
    output = scheduled.run("poison", None, np.zeros((192, 2), np.float32))
    np.testing.assert_array_equal(output[:, 0].view(np.uint32), 0xFFFFFFFF)
    np.testing.assert_array_equal(output[:, 1], np.arange(192))


def test_barriers_order_a_reduction(scheduled):
    numbers = np.arange(256, dtype=np.float32)
    assert scheduled.run("reduce", numbers, np.zeros(1, np.float32)) == numbers.sum()


def test_named_barriers_join_producer_and_consumer(scheduled):
    rounds = 5
    output = scheduled.run("produce", None, np.zeros(32, np.float32), rounds)
    expected = rounds * (THREADS_OF_WARP ^ 1) + sum(range(rounds))
    np.testing.assert_array_equal(output, expected)


def test_named_barriers_of_some_warps(scheduled):
    output = scheduled.run("pairs", None, np.zeros(128, np.uint32))
    np.testing.assert_array_equal(output, np.arange(128) ^ 32 ^ 64)


def test_named_barriers_order_along_a_chain(scheduled):
    output = scheduled.run("chain", None, np.zeros(32, np.uint32))
    np.testing.assert_array_equal(output, THREADS_OF_WARP)


def test_lanes_exchange(scheduled):
    output = scheduled.run("exchange", None, np.zeros((32, 14), np.int32))
    lane = THREADS_OF_WARP
    expected = [
        0 * lane + 105,
        0 * lane + 103,
        100 + (lane & 24) + 3,
        100 + (lane ^ 1),
        100 + (lane ^ 24),
        # Earlier groups may be read, later ones not.
        100 + np.where(lane ^ 12 > (lane | 7), lane, lane ^ 12),
        100 + np.where(lane + 3 > 31, lane, lane + 3),
        100 + np.where(lane % 4 == 0, lane + 3, lane),
        0 * lane + sum(1 << i for i in range(0, 32, 3)),
        0 * lane + 1,
        0 * lane,
        0 * lane + 1,
        0 * lane,
        # 64 bits: shifted right by one, bit 32 becomes the sign.
        (100 + (lane ^ 2)) // 2 - 2**31,
    ]
    np.testing.assert_array_equal(output, np.stack(expected, axis=1))


def test_lanes_in_groups(scheduled):
    output = scheduled.run("masks", None, np.zeros(32, np.uint32))
    lane = THREADS_OF_WARP
    expected = np.where(lane < 8, 0xF0, lane ^ 1) + (lane ^ 1)
    np.testing.assert_array_equal(output, expected)


def test_lanes_that_have_exited_are_not_waited_for(scheduled):
    output = scheduled.run("partial", None, np.zeros(48, np.uint32))
    thread = np.arange(48)
    expected = np.where(thread < 32, 0x77777777, 0x7777)
    np.testing.assert_array_equal(output, np.where(thread % 4 == 3, 0, expected))


# ---- numbers

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


# ---- launches and schedules


@pytest.mark.parametrize(("option", "error"), [(0, 9), (1, 9), (2, 9), (3, 9), (4, 1)])
def test_launch_that_cuda_refuses(emulator, option, error):
    output = np.zeros(128, np.uint32)
    assert emulator.launch("launch", None, output, option) == error
    assert not output.any()


def _order(emulator, policy, seed=0):
    assert emulator.set_schedule(policy, seed) == 0
    output = emulator.run("order", None, np.zeros(1 + 5 * 96, np.uint32))
    assert output[0] == 5 * 96
    return output[1:].tolist()


def test_schedules_differ_and_repeat(emulator):
    every_thread = list(range(5 * 96))
    assert _order(emulator, "in-order") == every_thread
    assert _order(emulator, "reverse") == every_thread[::-1]
    first, second = _order(emulator, "random", 1), _order(emulator, "random", 2)
    assert sorted(first) == sorted(second) == every_thread
    assert first != second
    assert first == _order(emulator, "random", 1)
    # Blocks, and lanes within a warp, are mixed; for warps see the next test.
    assert [thread // 96 for thread in first[::96]] != list(range(5))
    assert [thread for thread in first if thread < 32] != list(range(32))


def test_warps_take_turns(emulator):
    def count_changes(policy):
        emulator.set_schedule(policy, 1)
        output = emulator.run("turns", None, np.zeros(1 + 4 * 50, np.uint32), 50)
        return np.count_nonzero(np.diff(output[1:].astype(int)))

    assert count_changes("in-order") == count_changes("reverse") == 3
    assert count_changes("random") > 20


def test_unknown_schedule_is_refused(emulator):
    assert emulator.set_schedule("backwards") != 0


def test_launches_from_many_threads(emulator):
    numbers = np.arange(256, dtype=np.float32)

    def launch(_):
        output = np.zeros(1, np.float32)
        emulator.launch("reduce", numbers, output)
        return output.item()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(launch, range(40))) == {numbers.sum()}
    assert emulator.take_reports() == []
