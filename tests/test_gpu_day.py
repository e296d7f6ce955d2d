# SPDX-License-Identifier: MIT
"""The script for a GPU, as far as a machine without one can run it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def day():
    spec = importlib.util.spec_from_file_location("gpu_day", BENCHMARKS / "gpu_day.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_day"] = module
    spec.loader.exec_module(module)
    return module


def _script(name, *arguments):
    paths = (BENCHMARKS.parent, BENCHMARKS.parent / "tests", BENCHMARKS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments],
        cwd=BENCHMARKS.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def _python(day, name, code, seconds=20, **options):
    return day.Part(name, seconds, [[sys.executable, "-c", code]], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = _script("gpu_day.py")
    assert done.returncode == 2
    assert (
        done.stderr == "make gpu needs a CUDA device and a torch built with CUDA: there is none\n"
    )


def test_dry_run_lists_every_part(day, tmp_path):
    done = _script("gpu_day.py", "--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for part in day.parts(tmp_path):
        assert f"{part.name} (at most" in done.stdout
    assert "compute-sanitizer --tool=racecheck" in done.stdout
    assert sum(part.seconds for part in day.parts(tmp_path)) < 600


def test_unknown_part():
    done = _script("gpu_day.py", "--dry-run", "--only", "bild")
    assert done.returncode == 2
    assert "--only must name parts" in done.stderr


def test_a_failure_stops_nothing_and_what_passed_is_not_repeated(day, tmp_path, capsys):
    counter = tmp_path / "count"
    code = f"open({str(counter)!r}, 'a').write('x')"
    chosen = [
        _python(day, "good", code),
        _python(day, "bad", "print('so it goes'); raise SystemExit(3)"),
        _python(day, "slow", "import time; time.sleep(60)", seconds=1),
        day.Part("tool", 5, [["true"]], needs="no-such-program"),
        _python(day, "json", "print('noise'); print('{\\n \"a\": 1}')",
                summarise=lambda folder, log: day.last_json(log)),
    ]  # fmt: skip
    state = day.run_all(chosen, tmp_path, again=False)
    assert {name: record["state"] for name, record in state.items()} == {
        "good": "passed", "bad": "failed", "slow": "failed", "tool": "skipped", "json": "passed",
    }  # fmt: skip
    assert state["bad"]["exit_codes"] == [3]
    assert "so it goes" in state["bad"]["last_lines"]
    assert state["slow"]["exit_codes"] == [124]
    assert state["json"]["found"] == {"a": 1}
    assert json.loads((tmp_path / "state.json").read_text()) == state
    day.run_all(chosen[:2], tmp_path, again=False)
    assert counter.read_text() == "x"
    day.run_all(chosen[:1], tmp_path, again=True)
    assert counter.read_text() == "xx"
    page = day.summary_page(state, {"GPU": "none"})
    assert page.splitlines()[2] == "Failed: bad, slow."
    assert "so it goes" in page


def test_tests_are_counted(day, tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/>'
        '<testcase classname="a" name="y"><failure/></testcase>'
        '<testcase classname="a" name="z"><skipped/></testcase></testsuite></testsuites>'
    )
    assert day.count_tests(path) == {"passed": 1, "skipped": 1, "failed": ["a::y"]}


def test_benchmark_runs_and_writes_its_page(tmp_path):
    done = _script("gpu_bench.py", "--device", "cpu", "--smoke", "--seconds", "2",
                   "--out", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    first = result["problems"][0]
    assert {row["implementation"] for row in first["rows"]} >= {"guide, neither"}
    assert all(len(row["samples_ms"]) >= 5 for row in first["rows"])
    assert first["left_out"]["SDPA flash, neither"] == "needs a GPU"
    page = (tmp_path / "bench.md").read_text()
    assert "| guide, bias + 1 channel |" in page


def test_benchmark_refuses_to_time_what_is_wrong(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_attention
    import gpu_bench

    def wrong(inputs):
        call = gpu_attention.guide(inputs)
        return gpu_attention.Call(lambda: (1.1 * call.run()[0], None), True, 0)

    monkeypatch.setattr(gpu_bench, "IMPLEMENTATIONS", {"guide, broken": wrong})
    inputs = gpu_attention.Inputs.draw(gpu_attention.SMOKE[0], torch.device("cpu"))
    calls, left_out = gpu_bench.prepare(inputs)
    assert calls == {}
    assert left_out["guide, broken"].startswith("WRONG: out of head")
