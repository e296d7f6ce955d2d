# SPDX-License-Identifier: MIT
"""What the benchmarks count: operations, bytes, percentiles, ceilings."""

import doctest
from pathlib import Path

import ceilings
import memory
import pytest
import report
import report_growth
import report_headlines
import sampling
import study_speed
import torch
from problems import Problem
from smoke_problems import CPU, DECODE


@pytest.mark.parametrize(
    "module", [ceilings, sampling, report, report_growth, report_headlines, study_speed]
)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.failed == 0 < found.attempted


class TestCounts:
    def test_flop_counts_visible_pairs(self):
        full, causal = (Problem(2, 4, 2, 8, 8, 16, is_causal) for is_causal in (False, True))
        assert full.flop == 4 * 2 * 4 * 16 * 64
        assert causal.flop == 4 * 2 * 4 * 16 * 36
        assert Problem(1, 4, 2, 1, 8, 16, is_causal=True).flop == 4 * 4 * 16 * 8

    def test_bytes_of_keys_and_values(self):
        assert DECODE.key_value_bytes == 2 * 2 * 70 * 64 * 2

    def test_percentiles(self):
        assert sampling.summary([float(n) for n in range(11)]) == {
            "median_ms": 5.0, "p10_ms": 1.0, "p90_ms": 9.0,
        }  # fmt: skip

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells")
    def test_peak_memory_of_what_is_freed_again(self):
        for _ in range(2):  # the second time from an allocator that has it
            with memory.PeakMemory(CPU) as peak:
                torch.ones(1 << 24).add(1.0)  # 64 MiB, twice
            assert peak.peak_bytes is not None
            assert 120 << 20 < peak.peak_bytes < 160 << 20

    def test_ceilings_are_measured(self):
        found = ceilings.native(2)
        assert {"fma fp32 GFLOP/s", ceilings.READ, ceilings.COPY} <= set(found)
        assert all(rate > 0 for rate in found.values())
