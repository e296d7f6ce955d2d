# SPDX-License-Identifier: MIT
"""The script for a GPU, as far as a machine without one can run it."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def day():
    return _module("gpu_day")


def _module(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _script(name, *arguments):
    paths = (BENCHMARKS.parent, BENCHMARKS.parent / "tests" / "helpers", BENCHMARKS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments],
        cwd=BENCHMARKS.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def here(monkeypatch, capsys):
    """Give a function that runs a script's main() in this process, which has torch already."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__file__, *arguments])
        capsys.readouterr()
        try:
            code = module.main()
        except SystemExit as error:
            code = error.code
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run


def _python(day, name, code, seconds=20, **options):
    return day.Part(name, seconds, [[sys.executable, "-c", code]], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = _script("gpu_day.py")
    assert done.returncode == 2
    assert (
        done.stderr == "make gpu needs a CUDA device and a torch built with CUDA: there is none\n"
    )


def test_dry_run_lists_every_part(day, here, tmp_path):
    done = here(day, "--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for part in day.parts(tmp_path, tmp_path):
        assert f"{part.name} (at most" in done.stdout
    assert "--tool=racecheck" in done.stdout


def test_unknown_part(day, here):
    done = here(day, "--dry-run", "--only", "bild")
    assert done.returncode == 2
    assert "--only must name parts" in done.stderr


@pytest.fixture
def run(day, tmp_path, monkeypatch):
    """Run parts in a folder; give the state that they leave."""
    monkeypatch.setattr(day, "machine", lambda _: {"GPU": "none"})

    def run(*chosen, seconds=60.0, **options):
        that_day = day.Day(tmp_path / "results", seconds)
        that_day.run(chosen, **options)
        return that_day.state

    return run


def test_a_failure_stops_nothing(day, run, tmp_path):
    state = run(
        _python(day, "good", "print('fine')"),
        _python(day, "bad", "print('so it goes'); raise SystemExit(3)"),
        _python(day, "slow", "import time; time.sleep(60)", seconds=2),
        day.Part("tool", 5, [["true"]], needs="no-such-program"),
        day.Part("nothing", 5, [["no-such-program"]]),
        _python(day, "json", "print('noise'); print('{\\n \"a\": 1}')",
                summarise=lambda _, outputs: gpu_parts(day).last_json(outputs[0])),
        _python(day, "judged", "", summarise=lambda *_: {"state": "failed"}),
    )  # fmt: skip
    assert {name: record["state"] for name, record in state.items()} == {
        "good": "passed", "bad": "failed", "slow": "failed", "tool": "skipped",
        "nothing": "failed", "json": "passed", "judged": "failed",
    }  # fmt: skip
    assert state["bad"]["exit_codes"] == [3]
    assert "so it goes" in state["bad"]["last_lines"]
    assert state["slow"]["exit_codes"] == [124]
    assert state["json"]["found"] == {"a": 1}
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {"log.txt", "state.json", "summary.md"}
    assert json.loads((results / "state.json").read_text()) == state
    page = (results / "summary.md").read_text()
    assert page.splitlines()[2] == "Failed: bad, slow, nothing, judged."
    assert "so it goes" in page
    log = (results / "log.txt").read_text()
    assert "==== good: " in log
    assert str(BENCHMARKS.parent) not in log


def gpu_parts(day):
    return sys.modules[day.Part.__module__]


def test_what_passed_is_repeated_only_for_a_reason(day, run, tmp_path, monkeypatch):
    counter, kept = tmp_path / "count", tmp_path / "kept"
    kept.touch()
    code = f"open({str(counter)!r}, 'a').write('x')"
    part = _python(day, "part", code, still_holds=["test", "-e", str(kept)])
    for expected, change in (
        ("x", lambda: {}),
        ("x", lambda: {}),
        ("xx", lambda: {"again": True}),
        ("xxx", lambda: kept.unlink() or {}),  # as on another machine
    ):
        run(part, **change())
        assert counter.read_text() == expected
    kept.touch()
    monkeypatch.setattr(day, "sources_digest", lambda: "others")
    run(part)
    assert counter.read_text() == "xxxx"


def test_out_of_time(day, run):
    state = run(_python(day, "late", ""), seconds=5.0)
    assert state["late"]["state"] == "not run"
    assert state["late"]["why"] == "out of time"


def test_a_command_that_comes_too_late_is_not_begun(day, run):
    part = day.Part("two", 2, [["sleep", "9"], ["true"]])
    assert run(part)["two"]["exit_codes"] == [124, None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_judged_by_what_serves_instead_of_the_kernels(day, run):
    state = run(_python(day, "tests", "", needs_kernels=True))
    assert state["tests"]["state"] == "not run"
    assert "the CUDA kernels do not serve" in state["tests"]["why"]


def test_a_part_that_is_stopped_leaves_nothing_running(day, run, tmp_path):
    """As a sanitizer, which starts the program that it watches."""
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run(_python(day, "watched", parent, seconds=5))

    def is_running():
        try:
            return "Z (zombie)" not in Path(f"/proc/{pid.read_text()}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    assert pid.exists()
    end = time.monotonic() + 10
    while is_running() and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running()


def test_the_time_that_is_left_is_told(day, run):
    part = _python(day, "bench", "import sys; print(sys.argv[1])", seconds=50)
    command = [*part.commands[0], gpu_parts(day).SECONDS]
    part = dataclasses.replace(part, commands=[command],
                               summarise=lambda _, outputs: {"told": int(outputs[0])})  # fmt: skip
    assert 15 <= run(part)["bench"]["found"]["told"] <= 20


def test_long_outputs_are_shortened(day, run, tmp_path, monkeypatch):
    monkeypatch.setattr(day, "KEPT_BYTES", 1000)
    run(_python(day, "long", "print('a' * 5000 + 'end')"))
    log = (tmp_path / "results" / "log.txt").read_text()
    assert "[…]" in log
    assert "aend" in log
    assert len(log) < 1500


def test_tests_are_counted(day, tmp_path):
    count_tests, path = gpu_parts(day).count_tests, tmp_path / "tests.xml"
    cases = (
        '<testcase classname="a" name="y"><failure/></testcase>'
        '<testcase classname="a" name="z"><skipped/></testcase>'
    )
    good = '<testcase classname="a" name="x"/>'
    path.write_text(f"<testsuites><testsuite>{good}{cases}</testsuite></testsuites>")
    assert count_tests(path) == {"passed": 1, "skipped": 1, "failed": ["a::y"]}
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert count_tests(path)["state"] == "failed"


PASSED = '{\n "small_calls": "passed"\n}\n'


@pytest.mark.parametrize(
    ("outputs", "state", "first"),
    [
        ([f"{PASSED}==== ERROR SUMMARY: 0 errors"] * 4, "passed", "0 errors"),
        ([f"{PASSED}==== ERROR SUMMARY: 2 errors"] * 4, "failed", "2 errors"),
        (["==== ERROR SUMMARY: 0 errors"] * 4, "failed", "the calls did not pass"),
        (["==== Error: Device not supported"] * 4, "skipped", "refused: Device not supported"),
        ([f"{PASSED}==== ERROR SUMMARY: 0 errors"] * 3, "failed", "0 errors"),
    ],
)
def test_sanitizers_are_read(day, outputs, state, first):
    found = gpu_parts(day).sanitizer_findings(outputs)
    assert (found["state"], found["memcheck"]) == (state, first)


def test_hazards_are_read(day):
    outputs = [f"{PASSED}==== ERROR SUMMARY: 0 errors"] * 4
    outputs[1] = f"{PASSED}==== RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
    assert gpu_parts(day).sanitizer_findings(outputs)["state"] == "passed"
    outputs[1] = f"{PASSED}==== RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)"
    assert gpu_parts(day).sanitizer_findings(outputs)["state"] == "failed"


def test_machine_code_is_hashed_by_kernel_and_architecture():
    sass_hashes = _module("gpu_sass").sass_hashes

    def listing(operand):
        return (
            f"code for sm_80\n Function : f\n /*0000*/ MOV R1, {operand} ; /* 0x1 */\n"
            "code for sm_90\n Function : f\n /*0000*/ EXIT ; /* 0x2 */\n"
        )

    before, after = sass_hashes(listing("R2")), sass_hashes(listing("R3"))
    assert list(before) == ["sm_80 f", "sm_90 f"]
    assert before["sm_80 f"] != after["sm_80 f"]
    assert before["sm_90 f"] == after["sm_90 f"]


def test_benchmark_runs_and_writes_its_page(tmp_path):
    done = _script("gpu_bench.py", "--device", "cpu", "--smoke", "--seconds", "60",
                   "--out", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    first = result["problems"][0]
    assert {row["implementation"] for row in first["rows"]} >= {"guide, neither"}
    assert all(len(row["samples_ms"]) >= 5 for row in first["rows"])
    assert first["left_out"]["SDPA cuDNN, neither"] == "needs a GPU"
    page = (tmp_path / "bench.md").read_text()
    assert "| guide, bias + 1 channel |" in page


@pytest.mark.usefixtures("restored_threads")
def test_benchmark_says_what_it_had_no_time_for(here, tmp_path):
    options = ["--device", "cpu", "--smoke", "--seconds", "0", "--out", str(tmp_path)]
    done = here(_module("gpu_bench"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert (result["problems"], len(result["not_run"])) == ([], 3)
    assert "Out of time before: bf16-b1" in (tmp_path / "bench.md").read_text()
