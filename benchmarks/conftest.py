# SPDX-License-Identifier: MIT
"""What every benchmark needs: seeds, a time limit, the machine beside the numbers, and files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import report
import torch
from recording import Run

RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("guide_ext", "benchmarks of guide_ext")
    group.addoption("--problems", choices=("all", "smoke"), default="all", help="smoke: tiny ones")
    group.addoption("--seconds", type=float, default=1000.0, help="aim at so long a run")
    group.addoption("--rounds", type=int, default=15, help="at most so many samples of a problem")
    group.addoption("--results", type=Path, default=Path("bench_results"), help="folder of results")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run(config.getoption("--seconds"), config.getoption("--rounds"))
    config.pluginmanager.register(_Progress(config), "guide_ext_progress")


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[RUN].left = len(session.items)


class _Progress:
    """One line for each benchmark, as it ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        run = self._config.stash[RUN]
        run.left -= 1
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        line = dict(report.user_properties).get("progress")
        if reporter is None or line is None:
            return
        name = report.nodeid.partition("[")[2].rstrip("]")
        seconds = time.monotonic() - run.begin
        reporter.write_line(f" [{seconds:4.0f} s, {run.left} left] {name}: {line}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the files, and show the table of ratios."""
    run, folder = config.stash[RUN], config.getoption("--results")
    if config.getoption("--benchmark-disable"):
        return
    for kind in [kind for kind, records in run.records.items() if records]:
        result = run.result(kind)
        result["not_run"] = [
            str(skipped.nodeid).partition("[")[2].rstrip("]")
            for skipped in terminalreporter.stats.get("skipped", [])
            if f"bench_{kind}" in skipped.nodeid
        ]
        result = report.rounded(result)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
        (folder / f"{kind}.md").write_text(report.page(result))
        terminalreporter.section(kind)
        terminalreporter.write_line("\n".join(report.summary_lines(result)))
        terminalreporter.write_line(f"{folder / kind}.md, {folder / kind}.json")


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return request.config.stash[RUN]


@pytest.fixture(autouse=True)
def seeds() -> None:
    torch.manual_seed(0)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info |= config.stash[RUN].machine
