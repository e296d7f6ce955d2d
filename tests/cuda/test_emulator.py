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
