# SPDX-License-Identifier: MIT
"""Single instructions: the emulator and, where there is one, a GPU against numpy and torch.

A GPU that disagrees with the expectations, which the emulator meets, shows an error of both.
"""

import ctypes
import json
import os
import subprocess
from pathlib import Path

import emulated_op
import numpy as np
import pytest
import torch
from cuda_probes.expectations import PROBES

SOURCE = emulated_op.ROOT / "tests" / "cuda_probes" / "probes.cu"
# Where `make gpu` wants the largest deviations.
SUMMARY = os.environ.get("GUIDE_PROBE_SUMMARY")


def _compile_for_gpu(folder: Path, *architectures: str) -> Path:
    nvcc = emulated_op.nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    library = folder / "libprobes.so"
    command = [
        *(nvcc, "-std=c++17", "-O3", "-fmad=false", "-shared", "-Xcompiler=-fPIC"),
        *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures),
        *(f"-I{emulated_op.ROOT / 'csrc'}", str(SOURCE), "-o", str(library)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr, done.stderr
    return library


@pytest.fixture(scope="module")
def emulated():
    try:
        path = emulated_op.build("cuda_probes_emulated")
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))
    library = ctypes.CDLL(str(path))
    library.cuda_emulator_take_reports.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    return ctypes.CDLL(str(_compile_for_gpu(tmp_path_factory.mktemp("probes"), f"{major}{minor}")))


def _run(library, name, expectation):
    """Give the answer of a probe in the dtype of what is wanted."""
    out = np.empty(expectation.wanted.shape, expectation.wanted.dtype)
    given = expectation.given
    library.run_probe.argtypes = [
        *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t)
    ]
    status = library.run_probe(name.encode(), given, len(given), out.ctypes.data, out.nbytes)
    assert status == 0, f"{name}: error {status}"
    return out


# Bits of infinity; what is larger is NaN, which may have any payload.
_INFINITY = {"pack_bfloat16": 0x7F80, "pack_float16": 0x7C00}


def _judge(name, found, expectation):
    """Compare with what is wanted; return the largest deviation, relative to what is allowed."""
    wanted = expectation.wanted
    if expectation.allowed is None:
        same = found == wanted
        if name in _INFINITY:
            same |= ((found & 0x7FFF) > _INFINITY[name]) & ((wanted & 0x7FFF) > _INFINITY[name])
        if wanted.dtype.kind == "f":  # every bit counts, but NaN has no payload worth the name
            signs = np.signbit(found) == np.signbit(wanted)
            same = (same & (signs | (wanted != 0))) | (np.isnan(found) & np.isnan(wanted))
        assert same.all(), f"{name}: {found[~same][:4]} where {wanted[~same][:4]} is right"
        return 0.0
    special = ~np.isfinite(wanted)
    assert np.array_equal(found[special], wanted[special], equal_nan=True), name
    assert np.isfinite(found[~special]).all(), name
    error = np.abs(found[~special].astype(np.float64) - wanted[~special])
    # `wanted` is itself rounded to float32.
    rounding = np.abs(np.spacing(wanted[~special].astype(np.float32))).astype(np.float64)
    allowed = expectation.allowed[~special] + rounding
    worst = np.max(error / allowed, initial=0.0)
    assert worst <= 1.0, f"{name}: {worst:.3g} times the allowed deviation"
    return float(worst)


def test_every_probe_has_an_expectation(emulated):
    emulated.probe_name.restype = ctypes.c_char_p
    emulated.probe_name.argtypes = [ctypes.c_size_t]
    names, index = [], 0
    while (name := emulated.probe_name(index)) is not None:
        names.append(name.decode())
        index += 1
    assert sorted(names) == sorted(PROBES)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("schedule", [("in-order", 0), ("random", 1)], ids=str)
def test_emulator(emulated, name, schedule):
    policy, seed = schedule
    assert emulated.cuda_emulator_set_schedule(policy.encode(), ctypes.c_uint64(seed)) == 0
    emulated.cuda_emulator_take_reports()
    expectation = PROBES[name]()
    _judge(name, _run(emulated, name, expectation), expectation)
    assert emulated.cuda_emulator_take_reports() == b""


@pytest.mark.cuda
@pytest.mark.parametrize("name", PROBES)
def test_gpu(gpu, emulated, name):
    expectation = PROBES[name]()
    found = _run(gpu, name, expectation)
    worst = _judge(name, found, expectation)
    if SUMMARY is not None:
        path = Path(SUMMARY)
        summary = json.loads(path.read_text()) if path.exists() else {}
        same = found.tobytes() == _run(emulated, name, expectation).tobytes()
        summary[name] = {"deviation_of_allowed": worst, "bits_of_the_emulator": same}
        path.write_text(json.dumps(summary, indent=2) + "\n")


def test_probes_compile_for_a_gpu(tmp_path):
    assert _compile_for_gpu(tmp_path, "80").exists()


def test_a_wrong_answer_is_noticed(emulated):
    expectation = PROBES["mma_bfloat16"]()
    found = _run(emulated, "mma_bfloat16", expectation)
    found.flat[5] += 1.0
    with pytest.raises(AssertionError):
        _judge("mma_bfloat16", found, expectation)
    expectation = PROBES["load_matrices"]()
    found = _run(emulated, "load_matrices", expectation)
    found.flat[[0, 1]] = found.flat[[1, 0]]
    with pytest.raises(AssertionError):
        _judge("load_matrices", found, expectation)
