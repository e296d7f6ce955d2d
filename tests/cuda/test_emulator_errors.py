# SPDX-License-Identifier: MIT
"""The CUDA emulator itself: each planted error is reported, with kernel, block, thread and place.

The kernels are those of `cuda_emulator/selftest/wrong_*.cpp`.
"""

import re

import numpy as np
import pytest

pytestmark = pytest.mark.emulated
pytest_plugins = ["cuda_emulator_selftest"]

# Both accesses of a race are named; which of them comes second depends on the schedule.
READ, WRITE = "ld.shared of 4 bytes", "st.shared of 4 bytes"


def _race(first, first_did, first_does, second, second_did, second_does, offset=40):
    def line(thread, does, other, other_did):
        return (
            rf"thread {thread} .*: race: {does} at shared offset {offset}: "
            rf"thread {other} {other_did} offset {offset}, and no barrier is in between"
        )

    return (
        f"({line(second, second_does, first, first_did)}|"
        f"{line(first, first_does, second, second_did)})"
    )


WRONG_KERNELS = {
    # Races
    "read_after_write": _race(3, "wrote", WRITE, 35, "read", READ),
    "write_after_read": _race(35, "read", READ, 3, "wrote", WRITE),
    "write_after_write": _race(3, "wrote", WRITE, 35, "wrote", WRITE),
    "missing_syncwarp": _race(3, "wrote", WRITE, 4, "read", READ),
    "partial_overlap": (
        "(thread 3 .* race: st.shared of 16 bytes at shared offset 32: thread 35 wrote offset 44|"
        "thread 35 .* race: st.shared of 4 bytes at shared offset 44: thread 3 wrote offset 44)"
    ),
    "barrier_of_others": _race(3, "wrote", WRITE, 67, "read", READ),
    "arrival_without_wait": _race(3, "wrote", WRITE, 35, "read", READ),
    "write_after_barrier": _race(3, "wrote", WRITE, 35, "read", READ),
    "matrix_race": (
        "(thread 3 .* race: ldmatrix of 16 bytes at shared offset 48: thread 35 wrote offset 56|"
        "thread 35 .* race: st.shared of 4 bytes at shared offset 56: thread 3 read offset 56)"
    ),
    # Copies
    "copy_to_misaligned": "thread 5 .* cp.async of 16 bytes at shared offset 88: .* multiple of 16",
    "copy_from_misaligned": (
        "thread 5 .* cp.async of 16 bytes to shared offset 80: the global address 0x[0-9a-f]+4 is "
        "not a multiple of 16"
    ),
    "copy_out_of_bounds": "thread 5 .* cp.async of 16 bytes at shared offset 1024: outside the",
    "copy_too_much": "thread 5 .* cp.async of 16 bytes from a source of 17",
    "never_waited_for": (
        "thread 5 .* exits while its cp.async of 16 bytes to shared offset 80 has not been waited"
    ),
    "never_committed": (
        "thread 5 .* exits while its cp.async of 16 bytes to shared offset 80 has not been commit"
    ),
    "read_under_way": (
        "thread 5 .* ld.shared of 4 bytes at shared offset 84: thread 5's cp.async to offset 84 is "
        "under way"
    ),
    "read_under_way_by_others": (
        "thread 35 .* ld.shared of 4 bytes at shared offset 84: thread 5's cp.async .* under way"
    ),
    "write_under_way": (
        "thread 5 .* st.shared of 4 bytes at shared offset 84: thread 5's cp.async .* under way"
    ),
    "copy_over_copy": (
        "thread 5 .* cp.async of 16 bytes at shared offset 80: thread 5's cp.async .* under way"
    ),
    "wait_for_too_few": (
        "thread 5 .* ld.shared of 4 bytes at shared offset 84: thread 5's cp.async .* under way"
    ),
    "copy_without_barrier": (
        "(thread 35 .* race: ld.shared of 4 bytes at shared offset 84: thread 5 wrote offset 84|"
        "thread 5 .* race: cp.async of 16 bytes at shared offset 80: thread 35 read offset 84)"
    ),
    "copy_over_reads": (
        "(thread 5 .* race: cp.async of 16 bytes at shared offset 80: thread 35 read offset 84|"
        "thread 35 .* race: ld.shared of 4 bytes at shared offset 84: thread 5 wrote offset 84)"
    ),
    # Barriers and warps
    "divergent_barrier": (
        r"deadlock: waiting at barrier 0 \(32 of 64 threads\): 0-31; exited: 32-63"
    ),
    "barrier_counts": (
        r"thread \d+ .* bar.sync 1 for (64|96) threads, but thread \d+ is there for (96|64)"
    ),
    "barrier_of_half_a_warp": "bar.sync 1 for 48 threads: must be a multiple of 32",
    "barrier_of_too_many": "bar.sync 1 for 96 threads: must .* at most the 64 of the block",
    "barrier_number": "bar.sync 16: barriers have the numbers 0 to 15",
    "arrival_without_count": "bar.arrive 1: needs a number of threads",
    "arrival_again": "thread 3 .* bar.arrive 1: this thread has arrived already",
    "two_barriers": (
        r"thread \d+ .* divergent warp: executes bar.sync [12] while thread \d+ waits at barrier"
    ),
    "ballot_and_shuffle": (
        r"thread \d+ .* divergent warp: executes (shfl|vote).* with mask 0xffffffff while thread "
        r"\d+ waits for it at (vote|shfl)"
    ),
    "two_products": r"divergent warp: executes mma.* or with other operands",
    "two_masks": r"divergent warp: executes bar.warp.sync with mask 0x",
    "mask_of_others": "thread 3 .* with mask 0xfffffff7, which leaves out the lane that executes",
    "lane_missing": (
        r"deadlock: waiting at bar.warp.sync: 0-2, 4-31; "
        r"waiting at barrier 0 \(1 of 32 threads\): 3$"
    ),
    "lane_exited": "deadlock: waiting at mma.sync: 0-2, 4-31; exited: 3$",
    "shuffle_from_inactive": (
        "thread 3 .* shfl.sync reads lane 19, which takes no part: the lanes that do are 0xffff$"
    ),
    "shuffle_from_exited": "thread 3 .* shfl.sync reads lane 2, .* 0xfffffffb$",
    # Addresses
    "load_past_shared": "thread 5 .* ld.shared of 4 bytes at shared offset 1024: outside the",
    "store_before_shared": "thread 5 .* st.shared of 4 bytes at shared offset -4: outside the",
    "store_across_end": "thread 5 .* st.shared of 16 bytes at shared offset 1016: outside the",
    "store_misaligned": "thread 5 .* st.shared of 16 bytes at shared offset 8: not a mult",
    "load_matrices_past": "thread 5 .* ldmatrix of 16 bytes at shared offset 1024: outside the",
    "load_matrices_misaligned": "thread 5 .* ldmatrix of 16 bytes at shared offset 40: not a mult",
}


def _aligned_bytes(size):
    """An array at an address of 16 n."""
    array = np.zeros(size + 16, np.uint8)
    shift = -array.ctypes.data % 16
    return array[shift : shift + size]


def _assert_reported(emulator, kernel, pattern, values, output):
    assert emulator.launch(kernel, values, output) == 0
    reports = emulator.take_reports()
    assert reports
    name = re.escape(f"selftest::{kernel}, block (0, 0, 0)")
    for report in reports:
        assert re.match(rf"{name}|and \d+ more reports$", report)
    assert any(re.search(pattern, report) for report in reports), "\n".join(reports)
    return reports


@pytest.mark.parametrize("kernel", WRONG_KERNELS)
def test_planted_error_is_reported(scheduled, kernel):
    _assert_reported(
        scheduled, kernel, WRONG_KERNELS[kernel], _aligned_bytes(64), _aligned_bytes(256)
    )
    # Nothing of it is left for the next launch.
    numbers = np.arange(256, dtype=np.float32)
    assert scheduled.run("reduce", numbers, np.zeros(1, np.float32)) == numbers.sum()
    source = np.arange(48, dtype=np.uint8)
    scheduled.run("groups", source, np.zeros((64, 3, 16), np.uint8))


WRONG_GLOBAL_ACCESSES = {
    "load_past_global": "ld.global of 4 bytes at 0x.* is out of bounds: ends 12 bytes past the end "
    "of input, which has 64 bytes",
    "load_before_global": "ld.global of 4 bytes at 0x.*: begins 8 bytes before the begin of input",
    "load_across_end": "ld.global of 16 bytes at 0x.*: ends 8 bytes past the end of input",
    "store_past_global": "st.global of 4 bytes at 0x.*: ends 4 bytes past the end of output",
    "store_to_input": "st.global of 4 bytes at byte 8 of input, which is read-only",
    "load_misaligned_global": "ld.global of 8 bytes at byte 12 of input: .* not a multiple of 8",
}


@pytest.fixture
def ranges(scheduled):
    """Give an input and an output, of which kernels may touch 64 bytes amid 192."""
    arrays = [_aligned_bytes(320)[128:192] for _ in range(2)]
    scheduled.add_range(arrays[0], "input", False)
    scheduled.add_range(arrays[1], "output", True)
    return arrays


@pytest.mark.parametrize("kernel", WRONG_GLOBAL_ACCESSES)
def test_wrong_access_to_global_memory_is_reported(scheduled, ranges, kernel):
    before = ranges[0].base.copy(), ranges[1].base.copy()
    scheduled.launch(kernel, *ranges)
    reports = scheduled.take_reports()
    pattern = (
        rf"selftest::{kernel}, block \(\d, 0, 0\), thread 5 .*" + WRONG_GLOBAL_ACCESSES[kernel]
    )
    assert all(re.match(pattern, report) for report in reports), reports
    assert len(reports) == (2 if kernel == "load_past_global" else 1)
    # ptx.cuh does not make an access of which the emulator says that it must not be.
    np.testing.assert_array_equal(ranges[0].base, before[0])
    np.testing.assert_array_equal(ranges[1].base[192:], before[1][192:])


def test_copy_from_beyond_global_memory_is_reported(scheduled):
    source = _aligned_bytes(64)
    scheduled.add_range(source, "input", False, size=20)
    _assert_reported(
        scheduled, "copy_from_out_of_bounds",
        "thread 5 .* cp.async of 8 bytes at 0x.*: ends 4 bytes past the end of input",
        source, None,
    )  # fmt: skip


def test_right_accesses_to_global_memory(scheduled, ranges):
    ranges[0][:] = np.arange(64)
    np.testing.assert_array_equal(scheduled.run("touch_global", *ranges), ranges[0])
    scheduled.library.clear_global_ranges()
    # Without ranges nothing is checked.
    scheduled.run("load_past_global", *ranges)
    scheduled.run("store_to_input", *ranges)


def test_many_reports_are_counted(emulator):
    emulator.launch("many_races")
    reports = emulator.take_reports()
    assert len(reports) == 25
    assert reports[-1] == "and 39 more reports"
    assert emulator.take_reports() == []
