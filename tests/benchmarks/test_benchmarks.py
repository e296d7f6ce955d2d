# SPDX-License-Identifier: MIT
"""The machinery of the benchmarks: it verifies, counts and reports. No time is judged."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ceilings
import cpu_attention
import memory
import peers
import pytest
import report
import report_attention
import report_generate
import report_growth
import report_headlines
import report_influence
import sampling
import torch
import verification
from problems import Inputs, Problem

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CAUSAL = cpu_attention.SMOKE[1]
DECODE = cpu_attention.SMOKE[2]


def run_smoke(*arguments, kind="attention", **environment):
    # Beside other workers pytest-benchmark measures nothing; this run has one process of its own.
    alone = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"benchmarks/bench_{kind}.py", "-p", "no:cacheprovider",
         "--problems", "smoke", "--benchmark-quiet", *arguments],
        cwd=ROOT, env=alone | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a short run over tiny problems writes."""
    folder = tmp_path_factory.mktemp("results")
    done = run_smoke("--rounds", "3", "--results", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "attention.json").read_text()), folder, done.stdout


class TestRun:
    def test_every_implementation_is_sampled_in_turns(self, results):
        result, _, _ = results
        assert [r["problem"] for r in result["records"]] == [str(p) for p in cpu_attention.SMOKE]
        for record, problem in zip(result["records"], cpu_attention.SMOKE, strict=True):
            wanted = set(cpu_attention.implementations(problem, {})) - {cpu_attention.FLEX}
            assert {row["implementation"] for row in record["rows"]} == wanted
            assert len({len(row["samples_ms"]) for row in record["rows"]}) == 1
            assert len(record["rows"][0]["samples_ms"]) >= 3
            assert "compiles" in record["left_out"][cpu_attention.FLEX]

    def test_what_is_written_is_what_is_shown(self, results):
        result, folder, shown = results
        page = (folder / "attention.md").read_text()
        assert page == report.page(result)
        for line in report.summary_lines(result):
            assert line in page
            assert line in shown

    def test_the_machine_is_beside_the_numbers(self, results):
        result, _, _ = results
        assert {"processor", "cores", "torch", "git revision", "load before"} <= set(
            result["machine"]
        )
        assert result["products"]["1"]["torch.mm fp32 GFLOP/s"] > 0

    def test_progress_is_shown(self, results):
        assert f"left] prefill-{CAUSAL}-t1: " in results[2]

    @pytest.mark.long
    def test_disabled_timing_verifies_once_and_writes_nothing(self, tmp_path):
        done = run_smoke("--benchmark-disable", "--results", str(tmp_path / "none"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (tmp_path / "none").exists()

    def test_what_has_no_time_is_named(self, tmp_path):
        done = run_smoke("--seconds", "0", "--results", str(tmp_path), "-rs")
        assert "out of time: --seconds" in done.stdout

    @pytest.mark.long
    def test_without_a_compiler_there_are_times_and_a_reason(self, tmp_path):
        done = run_smoke("-k", "decode", "--rounds", "1", "--results", str(tmp_path),
                         CXX="no-such-compiler")  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "attention.json").read_text())
        assert result["records"][0]["ceilings"] == {}
        assert result["machine"]["peak"].startswith("no C++ compiler (no-such-compiler)")
        assert "no-such-compiler" in (tmp_path / "attention.md").read_text()


class TestGenerate:
    @pytest.mark.long
    def test_models_are_verified_and_timed(self, tmp_path):
        done = run_smoke("--rounds", "3", "--results", str(tmp_path), kind="generate")
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "generate.json").read_text())
        assert (tmp_path / "generate.md").read_text() == report.page(result)
        assert [record["model"] for record in result["records"]] == ["llama", "qwen3"]
        names = [report_generate.SDPA, report_generate.GUIDE, report_generate.GUIDE_BIAS,
                 report_generate.GUIDE_INFLUENCE, report_generate.EAGER]  # fmt: skip
        for record in result["records"]:
            assert [row["implementation"] for row in record["rows"]] == names
            assert all(len(row["decode"]["samples"]) == 3 for row in record["rows"])

    def test_ratios_are_those_of_rounds(self):
        def row(name, *rates):
            found = {"samples": list(rates)} | sampling.summary(rates, "tokens_per_s")
            return {"implementation": name, "peak_bytes": None, "prefill": found, "decode": found}

        # Of every round half as fast, though a slow round came between.
        rows = [
            row(report_generate.SDPA, 10.0, 2.0, 10.0),
            row(report_generate.GUIDE, 5.0, 1.0, 5.1),
        ]
        made = {"model": "llama", "dtype": "bf16", "prompt": 9, "threads": 1, "rows": rows}
        line = report_generate.summary({"records": [made]})[3]
        assert line == (
            "| llama bf16 | 9 | 1 | guide | 5.0 | 41.0% | 0.500 | 5.0 | 41.0% | 0.500 "
            "| not measured |"
        )


class TestInfluence:
    @pytest.mark.long
    def test_a_pass_is_verified_and_timed(self, tmp_path):
        done = run_smoke("--rounds", "3", "--results", str(tmp_path), kind="influence")
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "influence.json").read_text())
        assert (tmp_path / "influence.md").read_text() == report.page(result)
        (record,) = result["records"]
        names = [report_influence.SDPA, report_influence.PLAIN, report_influence.INFLUENCE,
                 report_influence.EAGER]  # fmt: skip
        assert [row["implementation"] for row in record["rows"]] == names
        assert all(len(row["samples_ms"]) == 3 for row in record["rows"])

    def test_what_was_left_out_is_a_dash(self):
        rows = [
            {"implementation": name, "median_ms": time, "peak_bytes": 1 << 20}
            for name, time in ((report_influence.PLAIN, 100.0), (report_influence.INFLUENCE, 103.0))
        ]
        made = {"tokens": 9, "dtype": "bf16", "threads": 1, "rows": rows}
        assert report_influence.summary({"records": [made]})[2] == (
            "| 9 | bf16 | 1 | – | – | 100 | 1 | 103 | 1 | – | – | +3.0% | – |"
        )
        assert report_influence.short_table({"records": [made]})[2] == (
            "| bf16, 9 tokens | 100 ms | 103 ms | +3.0% | 1 MiB | – | – |"
        )


class TestGrowth:
    def test_sizes_are_timed_fitted_and_drawn(self, tmp_path):
        paths = os.pathsep.join(str(ROOT / name) for name in ("tests/helpers", "benchmarks"))
        done = subprocess.run(
            [sys.executable, "benchmarks/growth.py", "--smallest", "64", "--largest", "256",
             "--seconds", "0", "--threads", "1", "--out", str(tmp_path)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "growth.json").read_text())
        assert [record["keys"] for record in result["records"]] == [64, 64, 128, 128, 256, 256]
        assert len(result["fits"]) == 6  # three implementations, two dtypes
        assert (tmp_path / "growth.md").read_text() == report.page(result)
        assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")

    def test_exponents_are_those_of_the_large_sizes(self):
        def row(keys):
            time, memory = keys**2 + 700.0**2, 5 * keys << 20
            return {"implementation": "ours", "median_ms": time, "peak_bytes": memory}

        sizes = [1024 << n for n in range(8)]
        records = [{"keys": keys, "dtype": "bf16", "rows": [row(keys)]} for keys in sizes]
        (fit,) = report_growth.fits({"records": records})
        assert fit["keys"] == sizes[2:]
        assert fit["ms_exponent"] == pytest.approx(2.0, abs=0.05)
        assert fit["MiB_exponent"] == pytest.approx(1.0)


def spoiled(make, change):
    """Return an implementation whose results are changed."""

    def wrong(inputs):
        call = make(inputs)
        return peers.Call(
            lambda: change(*call.run()),
            *(call.is_biased, call.channels, call.weighs_in_float32, call.judged_as),
        )

    return wrong


EVERY = [
    pytest.param(problem, name, id=f"{problem}-{name}")
    for problem in (CAUSAL, DECODE)
    for name in cpu_attention.implementations(problem, {})
    if name != cpu_attention.FLEX
]


class TestVerification:
    @pytest.mark.parametrize(("problem", "name"), EVERY)
    def test_a_wrong_implementation_is_not_timed(self, problem, name):
        make = cpu_attention.implementations(problem, {})[name]
        inputs = Inputs.draw(problem, CPU)
        prepared = sampling.prepare(
            inputs, {"right": make, "wrong": spoiled(make, lambda out, share: (1.1 * out, share))}
        )
        assert list(prepared.calls) == ["right"]
        assert prepared.left_out["wrong"].startswith("WRONG: out of (batch, head)")

    def test_coarse_influence_of_ours_is_noticed(self):
        coarse = spoiled(peers.guide, lambda out, share: (out, share.bfloat16().float()))
        prepared = sampling.prepare(Inputs.draw(CAUSAL, CPU), {"coarse": coarse})
        assert prepared.left_out["coarse"].startswith("WRONG: influence_out of (batch")

    def test_small_rows_are_judged_by_themselves(self):
        """Deep causal rows are averages: an error of their own size must not hide behind row 0."""
        problem = Problem(1, 1, 1, 2048, 2048, 32, is_causal=True)
        last = 7  # of the rows that are compared

        def zero_last(out, share):
            out = out.clone()
            out[:, :, -1] = 0.0
            return out, share

        prepared = sampling.prepare(
            Inputs.draw(problem, CPU), {"wrong": spoiled(peers.sdpa, zero_last)}
        )
        assert f"at ({last}, " in prepared.left_out["wrong"]

    def test_shape_and_rest_of_the_output(self):
        inputs = Inputs.draw(CAUSAL, CPU)
        call = peers.sdpa(inputs)
        out, _ = call.run()
        with pytest.raises(pytest.fail.Exception, match="finite numbers"):
            verification.Judge(inputs).verify(call, (out[:, :, 1:], None))
        out[0, 1, 7, 3] = torch.nan  # in a row that need not be compared
        with pytest.raises(pytest.fail.Exception, match="finite numbers"):
            verification.Judge(inputs).verify(call, (out, None))

    def test_errors_of_peers_stop_nothing(self):
        def broken(inputs):
            raise RuntimeError("it broke")

        prepared = sampling.prepare(
            Inputs.draw(DECODE, CPU), {"broken": broken, "ours": peers.guide}
        )
        assert prepared.left_out == {"broken": "RuntimeError: it broke"}
        assert prepared.failed == ["broken"]
        assert list(prepared.calls) == ["ours"]

    def test_time_that_is_up(self):
        prepared = sampling.prepare(Inputs.draw(DECODE, CPU), {"ours": peers.guide}, end=0.0)
        assert prepared.left_out == {"ours": "out of time"}

    def test_hopeless_products_are_left_out_with_the_reason(self):
        eager = cpu_attention.implementations(CAUSAL, {"torch.mm fp32 GFLOP/s": 1e-5})[
            cpu_attention.EAGER
        ]
        prepared = sampling.prepare(Inputs.draw(CAUSAL, CPU), {"eager": eager})
        assert "torch.mm does 0.0 GFLOP/s" in prepared.left_out["eager"]

    def test_large_matrices_are_left_out_with_the_reason(self):
        with pytest.raises(peers.UnavailableError, match="matrices of all heads take more than"):
            peers.eager(Inputs.draw(CAUSAL, CPU), largest_matrix=1000)


@pytest.mark.parametrize("module", [ceilings, sampling, report, report_growth, report_headlines])
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

    def test_the_documented_command_writes_both_pages(self, tmp_path, monkeypatch):
        pages = [tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"]
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
