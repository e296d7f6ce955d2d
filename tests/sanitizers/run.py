# SPDX-License-Identifier: MIT
"""Run the CPU kernels under sanitizers: `make sanitize`.

AddressSanitizer and UndefinedBehaviorSanitizer watch the op's tests, in a build of their own.
ThreadSanitizer watches `threads.cpp`: it would take torch's pool, which it cannot see into, for a
source of races.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
TESTS = [
    *("tests/op/test_attention.py", "tests/op/test_derivatives.py", "tests/op/test_checks.py"),
    "tests/op/test_backward_kernel.py",
]
# Python and torch free nothing at exit; a failed allocation is an error of the op, not of the test.
ASAN_OPTIONS = "detect_leaks=0:allocator_may_return_null=1:strict_string_checks=1"


def main() -> int:
    """Build and run; return the exit status of the first run that found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sanitizers", nargs="*", default=["address,undefined", "thread"])
    for sanitizers in parser.parse_args().sanitizers:
        build_dir = BUILD / sanitizers.replace(",", "-")
        configure(build_dir, sanitizers)
        run = run_threads if sanitizers == "thread" else run_tests
        status = run(build_dir)
        if status != 0:
            return status
        sys.stdout.write(f"{sanitizers}: nothing found\n")
    return 0


def configure(build_dir: Path, sanitizers: str) -> None:
    """Configure a build with sanitizers."""
    call(
        *("cmake", "-S", ROOT, "-B", build_dir, "-G", "Ninja", "-DGUIDE_CUDA=OFF"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DGUIDE_SANITIZE={sanitizers}",
    )


def run_tests(build_dir: Path) -> int:
    """Run the op's tests on the CPU with a library under sanitizers, on every instruction set."""
    package = build_dir / "package"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        ROOT / "guide_ext",
        package / "guide_ext",
        ignore=shutil.ignore_patterns("*.so", "*.safetensors"),
    )
    call("cmake", "--build", build_dir)
    call("cmake", "--install", build_dir, "--prefix", package)
    # Both before Python: AddressSanitizer looks for the function that throws when it is loaded.
    runtime = " ".join(library_path(name) for name in ("libasan.so", "libstdc++.so"))
    for instruction_set in instruction_sets():
        sys.stdout.write(f"instruction set: {instruction_set}\n")
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": ASAN_OPTIONS,
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": str(package),
            "GUIDE_EXT_CPU_ISA": instruction_set,
        }
        # Python looks into the folder where it runs before it looks into PYTHONPATH.
        probe = "import guide_ext; print(guide_ext.__file__)"
        found = subprocess.run(
            [sys.executable, "-c", probe],
            check=True, capture_output=True, text=True, cwd=package, env=environment,
        )  # fmt: skip
        if package not in Path(found.stdout.strip()).parents:
            raise RuntimeError(f"not the library under sanitizers: {found.stdout.strip()}")
        tests = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("--rootdir", ROOT, "-c", ROOT / "pyproject.toml"),
                *(ROOT / test for test in TESTS),
                *("-k", "not emulated and not amx and not chunked and not cuda"),
            ],
            cwd=package,
            env=environment,
            check=False,
        )
        if tests.returncode != 0:
            return tests.returncode
    return 0


def library_path(name: str) -> str:
    """Return where the compiler has a library."""
    command = [os.environ.get("CXX", "g++"), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def instruction_sets() -> list[str]:
    """List the instruction sets that were built and that this processor has."""
    probe = "from guide_ext import _C; print(*_C.build_info()['instruction_sets'])"
    built = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.split()
    run = "import torch, guide_ext; q = torch.ones(1, 1, 1, 1); guide_ext.biased_attention(q, q, q)"
    return [
        name
        for name in built
        if subprocess.run(
            [sys.executable, "-c", run],
            env=os.environ | {"GUIDE_EXT_CPU_ISA": name},
            cwd=ROOT,
            capture_output=True,
            check=False,
        ).returncode
        == 0
    ]


def run_threads(build_dir: Path) -> int:
    """Run the program of threads."""
    call("cmake", "--build", build_dir, "--target", "threads")
    return subprocess.run([build_dir / "threads"], check=False).returncode


def call(*command: str | Path) -> None:
    """Run a step of the build; stop if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": path})


if __name__ == "__main__":
    sys.exit(main())
