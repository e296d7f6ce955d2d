# SPDX-License-Identifier: MIT
"""Short runs of the benchmarks: what is sampled, written and shown. No time is judged."""

import json
import os
import subprocess
import sys

import call_overhead
import cpu_attention
import pytest
import report
import report_generate
import report_growth
import report_influence
import report_study
import sampling
import torch
from smoke_problems import CAUSAL, left_out
from sources import ROOT


def run_smoke(*arguments, kind="attention", **environment):
    # Beside other workers pytest-benchmark measures nothing; this run has one process of its own.
    alone = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"benchmarks/bench_{kind}.py", "-p", "no:cacheprovider",
         "--problems", "smoke", "--benchmark-quiet", *arguments],
        cwd=ROOT, env=alone | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def run_script(name, *arguments):
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("tests/helpers", "benchmarks"))
    return subprocess.run(
        [sys.executable, f"benchmarks/{name}", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a short run over tiny problems writes."""
    folder = tmp_path_factory.mktemp("results")
    done = run_smoke("--rounds", "3", "--results", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "attention.json").read_text()), folder, done.stdout


@pytest.mark.long
class TestRun:
    def test_every_implementation_is_sampled_in_turns(self, results):
        result, _, _ = results
        assert [r["problem"] for r in result["records"]] == [str(p) for p in cpu_attention.SMOKE]
        for record, problem in zip(result["records"], cpu_attention.SMOKE, strict=True):
            wanted = set(cpu_attention.implementations(problem, {})) - left_out(problem)
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

    def test_disabled_timing_verifies_once_and_writes_nothing(self, tmp_path):
        done = run_smoke("--benchmark-disable", "--results", str(tmp_path / "none"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (tmp_path / "none").exists()

    def test_what_has_no_time_is_named(self, tmp_path):
        done = run_smoke("--seconds", "0", "--results", str(tmp_path), "-rs")
        assert "out of time: --seconds" in done.stdout

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
        done = run_script(
            "growth.py", "--smallest", "64", "--largest", "256", "--seconds", "0",
            "--threads", "1", "--out", str(tmp_path),
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


class TestStudySpeed:
    @pytest.mark.long
    def test_all_ways_answer_alike_and_are_timed(self, tmp_path):
        done = run_script(
            "study_speed.py", "--model", "embedded", "--documents", "1", "--rounds", "1",
            "--threads", "1", "--out", str(tmp_path),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "study.json").read_text())
        (record,) = result["records"]
        ways = [report_study.OURS, report_study.GENERATE, report_study.SDPA]
        assert [row["implementation"] for row in record["rows"]] == ways
        assert (record["answers"], record["different"]) == (7, 0)
        # Seven prompts about one document: what is before the mark counts once.
        assert record["prompt_tokens"] / 7 < record["least_tokens"] < record["prompt_tokens"]
        assert (tmp_path / "study.md").read_text() == report.page(result)

    def test_the_floor_and_the_rates_are_those_of_the_whole(self):
        times = {report_study.OURS: 10.0, report_study.SDPA: 25.0}
        rows = [{"implementation": name, "samples_s": [seconds], "median_s": seconds}
                for name, seconds in times.items()]  # fmt: skip
        record = {
            "problem": "needle", "dtype": "fp32", "threads": 2, "prompt_tokens": 900,
            "new_tokens": 100, "floor_s": 4.0, "rows": rows,
        }  # fmt: skip
        ours, sdpa = report_study.summary({"records": [record]})[2:]
        assert ours == "| needle | fp32 | 2 | study run | 10 | 100 | 1.00 | 4 | 40% |"
        assert sdpa.endswith("| 25 | 40 | 2.50 | 4 | 16% |")
        assert report_study.short_table({"records": [record]})[2] == (
            "| fp32, needle | 10 s | 100 | 40% | – | 2.50 |"
        )


def test_shapes_at_random_are_right(tmp_path):
    done = run_script("cliffs.py", "--shapes", "30", "--untimed", "--masks", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 shapes, 0 wrong." in done.stdout
    found = json.loads((tmp_path / "cliffs.json").read_text())["shapes"]
    assert len({one["problem"] for one in found}) > 25
    masks = {(one["window_left"] >= 0, one["has_dense_bias"]) for one in found}
    assert len(masks) == 4
    assert not any("ratio" in one for one in found)


@pytest.mark.long
def test_what_a_learned_delta_is_worth(tmp_path):
    done = run_script(
        "learned_delta.py", "--documents", "6", "--judged", "6", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "learned.json").read_text())
    assert (tmp_path / "learned.md").read_text() == report.page(result)
    ways = [row["way"] for row in result["tasks"]["french"]]
    assert ways[:2] == ["plain", "best single Δ"]
    assert "learned, by head" in ways


def test_small_calls_are_timed_in_every_mode():
    done = run_script("call_overhead.py", "--rounds", "2", "--repeats", "2", "--keys", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:-1]]
    assert [row[:2] for row in rows] == [
        [mode, name] for mode in call_overhead.MODES for name in call_overhead.PEERS
    ]
    assert all(float(row[at]) > 0 for row in rows for at in (2, 4, 5))


@pytest.mark.parametrize("name", ["biased_attention", "attention_with_share"])
def test_no_wrong_small_call_is_timed(monkeypatch, capsys, name):
    right = getattr(call_overhead, name)

    def wrong(*args):
        out, *others = right(*args)
        return out + 0.01, *others

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["call_overhead.py", "--rounds", "1", "--repeats", "1"])
    monkeypatch.setattr(call_overhead, name, wrong)
    with pytest.raises(pytest.fail.Exception, match=f"out of {name}"):
        call_overhead.main()
    assert not capsys.readouterr().out
