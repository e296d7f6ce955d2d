# SPDX-License-Identifier: MIT
"""What the benchmarks count: operations, bytes, percentiles, ceilings."""

import dataclasses
import doctest
import json
from pathlib import Path

import ceilings
import cpu_attention
import facts
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
    "module",
    [ceilings, cpu_attention, sampling, report, report_growth, report_headlines, study_speed],
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

    @pytest.mark.parametrize("is_causal", [False, True])
    @pytest.mark.parametrize("window", [0, 1, 4, 9, 20])
    @pytest.mark.parametrize(("rows", "keys"), [(1, 8), (3, 8), (8, 8)])
    def test_flop_counts_the_pairs_of_a_window(self, rows, keys, window, is_causal):
        pairs = sum(
            row - window <= key and (key <= row or not is_causal)
            for row in range(keys - rows, keys)
            for key in range(keys)
        )
        problem = Problem(2, 4, 2, rows, keys, 16, is_causal, window_left=window)
        assert problem.flop == 4 * 2 * 4 * 16 * pairs

    def test_bytes_of_keys_and_values(self):
        assert DECODE.key_value_bytes == 2 * 2 * 70 * 64 * 2
        windowed = dataclasses.replace(DECODE, window_left=9)
        assert windowed.key_value_bytes == DECODE.key_value_bytes * 10 // 70

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

    def test_ids_are_those_of_published_results(self):
        ids = [str(problem) for problem in cpu_attention.PROBLEMS]
        assert len({*ids}) == len(ids)
        for path in report.RESULTS.glob("cpu-*-attention.json"):
            assert {record["problem"] for record in json.loads(path.read_text())["records"]} <= {
                *ids
            }

    def test_a_forced_instruction_set_is_a_fact(self, monkeypatch):
        monkeypatch.setenv("GUIDE_EXT_CPU_ISA", "portable")
        assert facts.cpu_facts()[facts.FORCED] == "portable"
        monkeypatch.setenv("GUIDE_EXT_CPU_ISA", "")  # the library takes it for none
        assert facts.FORCED not in facts.cpu_facts()

    def test_ceilings_are_measured(self):
        found = ceilings.native(2)
        assert {"fma fp32 GFLOP/s", ceilings.READ, ceilings.COPY} <= set(found)
        assert all(rate > 0 for rate in found.values())
