# SPDX-License-Identifier: MIT
"""Tables and pages of the benchmarks, and the published ones."""

import dataclasses
import json
import re
import sys

import ceilings
import cpu_attention
import pytest
import report
import report_attention
import torch
from smoke_problems import CAUSAL, DECODE
from sources import ROOT

NAMED = ("num_heads", "num_kv_heads", "head_dim", "is_causal", "window_left", "has_dense_bias",
         "channels")  # fmt: skip


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
        result = {"records": [record(DECODE, **medians) | {"flop": 10**7}]}
        line = report_attention.short_table(result, problems=[str(DECODE)])[2]
        # 10 MB in 1 ms are 10 GB/s: half of what memory gives.
        assert "| 1.00 | 50% | 3.00 (40.00) |" in line
        # And 160 MFLOP in 1 ms, as by more queries, four fifths of the arithmetic.
        result["records"][0]["flop"] = 16 * 10**7
        line = report_attention.short_table(result, problems=[str(DECODE)])[2]
        assert "| 1.00 | 80% | 3.00 (40.00) |" in line

    def test_what_few_problems_have_is_named(self):
        def named(problem):
            found = record(problem) | {"dtype": "fp32"}
            found |= {name: getattr(problem, name) for name in NAMED}
            return report_attention.label(found)

        assert [named(problem) for problem in cpu_attention.PROBLEMS[:3]] == [
            "tiny fp32, 8 heads of 64, 1 token full",
            "tiny fp32, 8 heads of 64, 16 tokens causal",
            "prefill fp32, 8 heads of 64, 512 full, dense attn_bias",
        ]
        assert named(cpu_attention.rows(63)[0]) == (
            "rows fp32, 8/2 heads of 128, 63 queries, 4096 keys causal"
        )
        windowed = cpu_attention.windowed(torch.float32)
        assert named(dataclasses.replace(windowed, channels=8)) == (
            "prefill fp32, 4 heads of 64, 4096 causal, window of 256, 8 channels"
        )

    def test_ours_has_the_channels_of_the_problem(self):
        eight = dataclasses.replace(CAUSAL, channels=8)
        medians = {cpu_attention.ours(8): 10.0, cpu_attention.SDPA: 25.0}
        result = {"records": [record(eight, **medians) | {"channels": 8}], "products": {}}
        shown = report_attention.short_table(result, problems=[str(eight)])
        assert shown[2].endswith(", 8 channels | 10.0 | 50% | 2.50 | – | – | – |")
        assert "| 10.0 | 10% | 50% |" in report_attention.summary(result)[2]
        assert any("| 2.50 |" in line for line in report_attention.details(result))

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
        machine = {"processor": "Z 80", "cores": "1", "torch": "2", "load before": load,
                   "instruction set": "portable"}  # fmt: skip
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
            "x86-64, AVX2, 4 cores", "x86-64, NEON, 4 cores",
        ]  # fmt: skip
        assert [line for line in lines if "every figure" in line] == [
            "a, AVX2, 4 cores, ?, torch 2: [every figure of attention](a.md).",
            "b, NEON, 4 cores, ?, torch 2: [every figure of attention](b.md)."
            " **The machine was not idle: load 3.0 before the run.**",
        ]

    def test_every_processor_has_a_table_of_its_own(self, tmp_path):
        shown = report_attention.SHOWN[0]
        for name, instructions, time in (("a", "avx2", 2.0), ("b", "avx512bf16", 1.0)):
            machine = {"processor": "E", "processor family, model": f"25, {name}", "cores": "2",
                       "torch": "2", "instruction set": instructions}  # fmt: skip
            found = record(CAUSAL, **{cpu_attention.OURS: time}) | {"problem": shown}
            result = {"kind": "attention", "machine": machine, "records": [found]}
            (tmp_path / f"{name}.json").write_text(json.dumps(result))
        marked = "<!-- bench attention: a.json b.json -->\n<!-- /bench -->"
        text = report.with_tables(marked, folder=tmp_path, root=tmp_path)
        assert report.with_tables(text, folder=tmp_path, root=tmp_path) == text
        blocks = text.split("\n\n")
        assert blocks[1] == "**E (family 25, model a), AVX2, 2 cores**"
        assert blocks[3] == "**E (family 25, model b), AVX-512 with bf16 products, 2 cores**"
        assert [block.count("\n| ") for block in (blocks[2], blocks[4])] == [1, 1]
        assert ("| 2.00 |" in blocks[2], "| 1.00 |" in blocks[4]) == (True, True)
        assert [line.split(",")[2] for line in blocks[5].splitlines()] == [
            " AVX2", " AVX-512 with bf16 products",
        ]  # fmt: skip

    @pytest.mark.parametrize("forced", [False, True])
    def test_a_forced_instruction_set_is_published_apart(self, tmp_path, monkeypatch, forced):
        machine = {"processor": "Z 80", "cores": "1", "torch": "2", "instruction set": "portable"}
        machine |= {"forced instruction set": "portable"} if forced else {}
        result = {"kind": "attention", "machine": machine, "seconds": 1.0, "products": {},
                  "records": [record(CAUSAL, **{cpu_attention.OURS: 1.0})]}  # fmt: skip
        (tmp_path / "found.json").write_text(json.dumps(result))
        text = "<!-- bench attention: results/old-attention.json -->\n<!-- /bench -->"
        (tmp_path / "page.md").write_text(text)
        results = tmp_path / "results"
        results.mkdir()
        (results / "old-attention.json").write_text(json.dumps(result))
        monkeypatch.setattr(report, "ROOT", tmp_path)
        monkeypatch.setattr(report, "RESULTS", results)
        monkeypatch.setattr(report, "PAGES", [tmp_path / "page.md"])
        monkeypatch.setattr(sys, "argv", ["report.py", "publish", str(tmp_path / "found.json")])
        assert report.main() == 0
        own = "cpu-z-80-1-cores-attention.json"
        apart = "cpu-z-80-1-cores-forced-portable-attention.json"
        written = {path.name for path in results.glob("cpu-*.json")}
        assert written == {apart if forced else own}
        page = (tmp_path / "page.md").read_text()
        assert ("bench attention: results/old-attention.json" in page) == forced
        assert ("portable code (forced), 1 core," in page) == forced

    def test_the_plot_is_not_of_a_forced_instruction_set(self, tmp_path, monkeypatch):
        own = next(report.RESULTS.glob("cpu-*-growth.json"))
        result = json.loads(own.read_text())
        result["machine"]["forced instruction set"] = "portable"
        (tmp_path / "found.json").write_text(json.dumps(result))
        monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(report, "ROOT", tmp_path)
        (tmp_path / "docs").mkdir()
        report.publish(tmp_path / "found.json")
        assert not list((tmp_path / "docs").iterdir())

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
