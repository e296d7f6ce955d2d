# SPDX-License-Identifier: MIT
"""What PTX to C++ refuses, and in which words; mutations of PTX; the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulator.ptx import MutationError, PtxError, mutate, translate
from cuda_emulator.ptx.selftest import refusals


def test_the_kernel_around_the_refusals_is_accepted() -> None:
    assert 'extern "C" void k(const void* params)' in translate(refusals.kernel(""))


@pytest.mark.parametrize(
    ("statement", "message"), refusals.STATEMENTS.items(), ids=refusals.STATEMENTS
)
def test_statements_are_refused(statement: str, message: str) -> None:
    with pytest.raises(PtxError) as refusal:
        translate(refusals.kernel(statement))
    assert message in refusal.value.problem
    assert refusal.value.line == 7
    assert str(refusal.value).startswith("PTX line 7: ")


@pytest.mark.parametrize(("module", "message"), refusals.MODULES.items())
def test_modules_are_refused(module: str, message: str) -> None:
    with pytest.raises(PtxError, match=re.escape(message)):
        translate(module)


def test_comments_do_not_count() -> None:
    module = "/* .entry a() {\n */ " + refusals.kernel("// frobnicate.u32;\n/* bad; */ frob;")
    with pytest.raises(PtxError, match="PTX line 9: instruction frob is not supported"):
        translate(module)


def test_mutations_say_what_they_miss() -> None:
    ptx = refusals.kernel("bar.sync 0; bar.warp.sync -1; // bar.sync 1;\nbar.sync 0;")
    assert mutate(ptx, "barrier_removed").count("bar.sync") == 1
    assert mutate(ptx, "barrier_removed", which=-1).index("bar.sync") < ptx.index("bar.warp")
    assert "bar.sync" not in mutate(ptx, "barrier_removed", which="all")
    assert "warp" not in mutate(ptx, "warp_barrier_removed", which="only")
    for arguments, message in (
        (("barrier_removed", "only", ""), "2 matches instead of one"),
        (("barrier_removed", 2, ""), "there is no match 2 of 2"),
        (("barrier_removed", 0, "other"), "nothing to change"),
        (("barrier_removed", "some", ""), "must be a number"),
        (("nan_dropped", "all", ""), "nothing to change"),
    ):
        name, which, kernel = arguments
        with pytest.raises(MutationError, match=message):
            mutate(ptx, name, which=which, kernel=kernel)


def test_command_line(tmp_path: Path) -> None:
    good, bad, output = (tmp_path / name for name in ("good.ptx", "bad.ptx", "unit.cpp"))
    good.write_text(refusals.kernel(""), encoding="utf-8")
    bad.write_text(refusals.kernel("frobnicate;"), encoding="utf-8")

    def run(source: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cuda_emulator.ptx", str(source), str(output)]
        folder = Path(__file__).parents[1]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert run(good).returncode == 0
    assert output.read_text(encoding="utf-8") == translate(good.read_text(encoding="utf-8"))
    output.unlink()
    failed = run(bad)
    assert failed.returncode == 1
    assert "bad.ptx: PTX line 7: instruction frobnicate is not supported" in failed.stderr
    assert not output.exists()
