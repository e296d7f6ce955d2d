# SPDX-License-Identifier: MIT
"""Run tests at the ends of the versions that are claimed, or with others.

The package is built once, as a wheel, and installed into one environment per end: so its libraries,
built against one torch, meet all others.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

from versions.ends import PACKAGES, ends  # noqa: E402

FOLDER = ROOT / "build" / "versions"
# What meets torch and transformers.
TESTS = ("tests/integration", "tests/op", "tests/calibration")
# Everything but Ray, which none of these tests imports.
EXTRAS = "studies,gguf,harness"


class StepError(Exception):
    """A step that did not do its work; the message says which."""


def step(command: list[str | Path], log: Path) -> str:
    """Run a command and return the last line that it printed.

    Raises:
        StepError: If it fails; the message has its last lines.

    """
    with log.open("a", encoding="utf-8") as file:
        print("$", *command, file=file, flush=True)
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    lines = log.read_text(encoding="utf-8").rstrip().splitlines()
    if done.returncode != 0:
        raise StepError("\n".join([f"exit status {done.returncode}, all in {log}:", *lines[-40:]]))
    return lines[-1]


def wheel() -> Path:
    """Build the package as users get it."""
    target = FOLDER / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w"]
    step([*build, target, "."], FOLDER / "wheel.log")
    (built,) = target.glob("*.whl")
    return built


def try_one(name: str, wanted: list[str], built: Path, tests: list[str]) -> str:
    """Install into an environment, run the tests there, and return what came of it.

    Raises:
        StepError: If something cannot be installed, is replaced, or a test fails.

    """
    log, venv = FOLDER / f"{name}.log", FOLDER / name
    log.unlink(missing_ok=True)
    shutil.rmtree(venv, ignore_errors=True)
    step([sys.executable, "-m", "venv", venv], log)
    python = venv / "bin" / "python"
    step([python, "-m", "pip", "install", "-q", "pip>=25.1"], log)
    package = f"guide_ext[{EXTRAS}] @ {built.as_uri()}"
    step([python, "-m", "pip", "install", "-q", *wanted, package, "--group", "test"], log)
    show = "; ".join(f"import {package}" for package in PACKAGES)
    versions = ", ".join(f"'{package}', {package}.__version__" for package in PACKAGES)
    found = step([python, "-W", "ignore", "-c", f"{show}; print({versions})"], log)
    print(f"{name}: {found}; tests run, all they say is in {log}", flush=True)
    # Not `python -m pytest`, which would take the package from the current folder.
    pytest = [venv / "bin" / "pytest", "-q", "-m", "not long and not real", *tests]
    workers = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
    summary = step([*pytest, *workers], log)
    return f"{found}: {re.sub('^=+ | =+$', '', summary)}"


def main(words: list[str]) -> int:
    """Try each end, and print a line for each.

    Returns:
        1 if any failed.

    """
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument(
        "requirement", nargs="*", metavar="REQUIREMENT",
        help="what to try instead of both ends, as 'torch==2.12.*' 'transformers==5.24.0'",
    )  # fmt: skip
    parser.add_argument(
        "--tests", nargs="+", default=TESTS, help="files and folders (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the environments (7 GB each)")
    given = parser.parse_args(words)
    FOLDER.mkdir(parents=True, exist_ok=True)
    print("the package, as a wheel", flush=True)
    built = wheel()
    failed = 0
    chosen = {"chosen": given.requirement} if given.requirement else ends()
    for name, wanted in chosen.items():
        print(f"{name}: {', '.join(wanted)} (up to 7 GB; some minutes)", flush=True)
        try:
            print(f"{name}: {try_one(name, wanted, built, given.tests)}", flush=True)
        except StepError as failure:
            failed = 1
            print(f"{name}: FAILED: {failure}", flush=True)
        if not given.keep:
            shutil.rmtree(FOLDER / name, ignore_errors=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
