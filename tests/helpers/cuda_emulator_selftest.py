# SPDX-License-Identifier: MIT
"""Builds the kernels of `cuda_emulator/selftest/` and runs them by name. A pytest plugin."""

import ctypes
import fcntl
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "cuda_emulator"
BUILD = ROOT / "build" / "cuda_emulator" / "selftest"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = [
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra",
    "-Wconversion", "-Werror", "-Wno-unknown-pragmas", "-DGUIDE_CUDA_EMULATED",
    f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}", *os.environ.get("CXXFLAGS", "").split(),
]  # fmt: skip
SCHEDULES = {
    "in-order": ("in-order", 0),
    "reverse": ("reverse", 0),
    "random-1": ("random", 1),
    "random-2": ("random", 2),
    "random-3": ("random", 3),
}


# ---- building and running


def _is_older(product, sources):
    return not product.exists() or product.stat().st_mtime < max(s.stat().st_mtime for s in sources)


def _run(command):
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def _build():
    """Compile what is older than its source or any header; return the library."""
    headers = [
        *EMULATOR.glob("*.h"), *EMULATOR.glob("runtime/*.h"), *EMULATOR.glob("selftest/*.h"),
        *(ROOT / "csrc" / "attention" / "cuda").glob("*.*h"), ROOT / "csrc/attention/params.h",
        Path(__file__),
    ]  # fmt: skip
    kernels = [path for path in EMULATOR.glob("selftest/*.cpp") if not path.match("ptx_*")]
    sources = [*EMULATOR.glob("runtime/*.cpp"), *kernels]
    objects = {source: BUILD / f"{source.parent.name}_{source.stem}.o" for source in sources}
    stale = [source for source in sources if _is_older(objects[source], [source, *headers])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda s: _run([COMPILER, *FLAGS, "-c", s, "-o", objects[s]]), stale))
    library = BUILD / "libselftest.so"
    if stale or _is_older(library, objects.values()):
        _run([COMPILER, *FLAGS, "-shared", "-o", library, *objects.values()])
    return library


class Emulator:
    """The kernels, and the emulator's C interface."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.cuda_emulator_take_reports.restype = ctypes.c_char_p
        self.library.cuda_emulator_take_statistics.restype = ctypes.c_char_p

    def set_schedule(self, policy, seed=0):
        return self.library.cuda_emulator_set_schedule(policy.encode(), ctypes.c_uint64(seed))

    def take_reports(self):
        return self.library.cuda_emulator_take_reports().decode().splitlines()

    def take_statistics(self):
        return json.loads(self.library.cuda_emulator_take_statistics())

    def add_range(self, array, name, is_writable, size=None):
        size = array.nbytes if size is None else size
        self.library.add_global_range(
            ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(size), name.encode(), is_writable
        )

    def launch(self, kernel, values=None, output=None, option=0):
        """Run a kernel on raw arrays; return the cudaError_t of the launch."""
        pointers = [
            ctypes.c_void_p(None if array is None else array.ctypes.data)
            for array in (values, output)
        ]
        return getattr(self.library, f"run_{kernel}")(*pointers, option)

    def run(self, kernel, values, output, option=0):
        """Run a right kernel; return its output."""
        assert self.launch(kernel, values, output, option) == 0
        assert self.take_reports() == []
        return output


@pytest.fixture(scope="session")
def library():
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:  # another run may be building
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Emulator(_build())


@pytest.fixture
def emulator(library):
    library.set_schedule("in-order")
    library.take_reports()
    library.take_statistics()
    yield library
    library.library.clear_global_ranges()
    library.take_reports()


@pytest.fixture(params=SCHEDULES)
def scheduled(emulator, request):
    """Give the emulator under each schedule in turn."""
    assert emulator.set_schedule(*SCHEDULES[request.param]) == 0
    return emulator
