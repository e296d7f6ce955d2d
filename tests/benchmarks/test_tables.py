# SPDX-License-Identifier: MIT
"""Tables and pages of the benchmarks, and the published ones."""

import json
import re
import sys

import ceilings
import cpu_attention
import pytest
import report
import report_attention
from smoke_problems import CAUSAL, DECODE
from sources import ROOT


def record(problem, **medians):
    """Make a record of a result."""
    return {
        "problem": str(problem), "kind": "decode" if problem.is_decode else "prefill",
        "batch": 1, "num_heads": 4, "num_kv_heads": 2, "seqlen_q": problem.seqlen_q,
        "seqlen_k": problem.seqlen_k, "head_dim": 32, "is_causal": True, "dtype": "bf16",
        "threads": 2, "load": 0.5, "flop": 10**9, "key_value_bytes": 10**7,
        "ceilings": {"fma fp32 GFLOP/s": 100.0, "fma bf16 GFLOP/s": 200.0, ceilings.READ: 20.0},
        "repeats": dict.fromkeys(medians, 1), "failed": [],
        "left_out": {cpu_attention.FLEX: "a | b\nc"},
        "rows": [
            {"implementation": name, "samples_ms": [median], "median_ms": median,
             "p10_ms": 0.9 * median, "p90_ms": 1.1 * median, "peak_bytes": 3 << 20,
             "first_call_seconds": 1.0, "tflops": 1 / median}
            for name, median in medians.items()
        ],
    }  # fmt: skip


class TestTables:
    def test_ratios_are_times_of_others_over_ours(self):
        medians = {cpu_attention.OURS: 10.0, cpu_attention.OURS_PLAIN: 8.0,
                   cpu_attention.SDPA: 25.0, cpu_attention.EAGER: 70.0}  # fmt: skip
        line = report_attention.summary({"records": [record(CAUSAL, **medians)]})[2]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        # 1 GFLOP in 10 ms is 100 GFLOP/s: half of bf16's peak.
        assert cells[1:6] == ["2", "10.0", "10%", "50%", "+25.0%"]
        assert cells[6:12] == ["2.50", "–", "–", "–", "–", "7.00"]
        assert cells[12:] == ["3", "–", "3"]

    def test_decoding_is_compared_with_the_folded_peer_first(self):
        medians = {cpu_attention.OURS: 1.0, cpu_attention.SDPA: 40.0,
                   cpu_attention.SDPA_FOLDED: 3.0}  # fmt: skip
        result = {"records": [record(DECODE, **medians)]}
        line = report_attention.short_table(result, problems=[str(DECODE)])[2]
        # 10 MB in 1 ms are 10 GB/s: half of what memory gives.
        assert "| 1.00 | 50% | 3.00 (40.00) |" in line

    def test_reasons_stay_in_their_row(self):
        lines = report_attention.details(
            {"records": [record(CAUSAL, **{cpu_attention.OURS: 1.0})], "products": {}}
        )
        assert f"| {cpu_attention.FLEX} | not timed: a \\| b c | | | | | | | | | |" in lines

    def test_failures_are_named_beneath(self):
        failing = record(CAUSAL, **{cpu_attention.OURS: 1.0}) | {"failed": [cpu_attention.FLEX]}
        last = report_attention.summary({"records": [failing]})[-1]
        assert last == f"- {CAUSAL}, {cpu_attention.FLEX}: a \\| b c"

    def test_headlines_are_problems(self):
        shown = {*report_attention.SHOWN, *report_attention.HEADLINES}
        assert shown <= {str(p) for p in cpu_attention.PROBLEMS}


class TestPublished:
    @pytest.mark.parametrize(("load", "is_idle"), [("0.10", True), ("3.00", False)])
    def test_results_of_a_busy_machine_say_so(self, tmp_path, monkeypatch, load, is_idle):
        monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
        machine = {"processor": "Z 80", "cores": "1", "torch": "2", "load before": load}
        medians = {cpu_attention.OURS: 1.0, cpu_attention.SDPA: 2.0}
        headline = record(cpu_attention.PROBLEMS[0], **medians) | {
            "problem": report_attention.SHOWN[0]
        }
        (tmp_path / "found.json").write_text(json.dumps({
            "kind": "attention", "machine": machine, "seconds": 60.0, "products": {},
            "records": [headline],
        }))  # fmt: skip
        target = report.publish(tmp_path / "found.json")
        assert target.name == "cpu-z-80-1-cores-attention.json"
        assert target.with_suffix(".md").exists()
        marked = (
            "a\n<!-- bench attention: results/cpu-z-80-1-cores-attention.json -->\n<!-- /bench -->"
        )
        text = report.with_tables(marked, folder=tmp_path, root=tmp_path)
        assert "| 1.00 | " in text
        assert ("not idle: load 3.0" in text) != is_idle
        assert "](results/cpu-z-80-1-cores-attention.md)" in text
        assert report.with_tables(text, folder=tmp_path, root=tmp_path) == text
        below = report.with_tables(marked, folder=tmp_path / "docs", root=tmp_path)
        assert "](../results/cpu-z-80-1-cores-attention.md)" in below

    def test_headlines_name_the_processor_of_each_row(self, tmp_path):
        """Results of two machines stand in one table; each has a line with its own load."""
        medians = {cpu_attention.OURS: 1.0, cpu_attention.SDPA: 2.0, cpu_attention.EAGER: 3.0}
        headline = record(CAUSAL, **medians) | {"problem": report_attention.HEADLINES[0]}
        for name, instructions, load in (("a", "avx2", "0.1"), ("b", "neon", "3")):
            machine = {"processor": name, "cores": "4", "torch": "2", "load before": load,
                       "system": "Linux x86_64", "instruction set": instructions}  # fmt: skip
            result = {"kind": "attention", "machine": machine, "records": [headline]}
            (tmp_path / f"{name}.json").write_text(json.dumps(result))
        marked = "<!-- bench headlines: a.json b.json -->\n<!-- /bench -->"
        lines = report.with_tables(marked, folder=tmp_path, root=tmp_path).splitlines()
        label = "attention, prefill bf16, 4/2 heads of 32"
        rows = [line.removesuffix(" | 1.00 ms | 2.00 | 3.00 |") for line in lines if label in line]
        assert [row.split(" | ")[-1] for row in rows] == [
            "x86-64, AVX2, 4 cores", "x86-64, neon, 4 cores",
        ]  # fmt: skip
        assert [line for line in lines if "every figure" in line] == [
            "a, 4 cores, ?, torch 2: [every figure of attention](a.md).",
            "b, 4 cores, ?, torch 2: [every figure of attention](b.md)."
            " **The machine was not idle: load 3.0 before the run.**",
        ]

    @pytest.mark.parametrize("page", report.PAGES, ids=lambda path: path.name)
    def test_tables_are_what_the_results_give(self, page):
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- bench ") == text.count("<!-- /bench -->") > 0
        assert report.with_tables(text, page.parent) == text

    def test_the_readme_shows_six_rows(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        (table,) = re.findall(r"<!-- bench .*?<!-- /bench -->", text, re.DOTALL)
        rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
        assert len(rows) == 6
        assert all("x86-64, " in row for row in rows)
        assert not any("–" in row for row in rows)

    def test_the_documented_command_writes_all_pages(self, tmp_path, monkeypatch):
        pages = [tmp_path / path.relative_to(ROOT) for path in report.PAGES]
        for page, published in zip(pages, report.PAGES, strict=True):
            page.parent.mkdir(exist_ok=True)
            emptied = report._MARKED.sub(
                r"<!-- bench \1: \2 -->\n<!-- /bench -->", published.read_text(encoding="utf-8")
            )
            page.write_text(emptied, encoding="utf-8")
        (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
        monkeypatch.setattr(report, "PAGES", pages)
        monkeypatch.setattr(report, "ROOT", tmp_path)
        monkeypatch.setattr(sys, "argv", ["report.py", "tables"])
        assert report.main() == 0
        for page, published in zip(pages, report.PAGES, strict=True):
            assert page.read_text(encoding="utf-8") == published.read_text(encoding="utf-8")

    @pytest.mark.parametrize("path", [*report.RESULTS.glob("cpu-*.json")], ids=lambda p: p.stem)
    def test_pages_are_what_the_results_give(self, path):
        result = json.loads(path.read_text())
        assert path.with_suffix(".md").read_text() == report.page(result)
        assert path.stem == f"{report.slug(result['machine'])}-{result['kind']}"
