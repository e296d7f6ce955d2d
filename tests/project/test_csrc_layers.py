# SPDX-License-Identifier: MIT
"""Which C++ file may include what: the fences of csrc, as import-linter keeps those of Python.

Textual: an include is read as the compiler would find it, from the folder of the file or from csrc.
"""

import re
import shutil
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
BACKENDS = ("attention/cpu", "attention/cuda")
CUDA_DOORS = {"attention/cuda/choose.cpp", "attention/cuda/forward.cpp"}

# What the op's files may include of attention/, and which of them may.
ATTENTION_FOR_OPS = {
    r"attention/(params|backward_params|score_mod|explain)\.h": r"ops/.*",
    r"attention/cpu/(backward|choose|forward|workers)\.h": r"ops/\w+_cpu\.(cpp|h)",
    r"attention/cuda/(choose|forward)\.h": r"ops/\w+_cuda\.cpp",
}
# Headers of others than the C++ standard, and the files that may include them. Of torch, what
# its stable ABI has: one build serves many versions. Python in `_C` alone: the libraries work
# without it.
FOREIGN = {
    r"torch/(csrc/stable|headeronly)/.*": r"ops/.*|library\.cpp",
    r"torch/csrc/inductor/aoti_torch/c/shim\.h": r"ops/.*",
    r"Python\.h|pybind11/.*|error_keeper\.h": r"module\.cpp|error_keeper\.(h|cpp)",
    r"cuda_runtime\.h": r"attention/cuda/.*|ops/\w+_cuda\.cpp",
    r"cuda_emulator\.h": r"attention/cuda/runtime\.h",
    r"(immintrin|arm_neon)\.h": r"attention/cpu/.*",
    r"cpuid\.h|sys/syscall\.h|unistd\.h": r"attention/cpu/amx_processor\.cpp",
    r"amx_emulator\.h": r"attention/cpu/prefill/amx_tiles-inl\.h",
}


def _includes(csrc):
    """Yield every include as (file, included): paths below csrc, or the name if it lies outside."""
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        for name in INCLUDE.findall(path.read_text()):
            found = next((f for f in (path.parent / name, csrc / name) if f.exists()), None)
            included = name if found is None else found.resolve().relative_to(csrc).as_posix()
            yield path.relative_to(csrc).as_posix(), included


def _room(path, rooms):
    """Return which of some folders a file lies in, if in any."""
    return next((room for room in rooms if path.startswith(f"{room}/")), None)


def _subfolders(csrc, folder):
    return [
        path.relative_to(csrc).as_posix() for path in (csrc / folder).iterdir() if path.is_dir()
    ]


def _allows(table, file, included):
    return any(
        re.fullmatch(header, included) and re.fullmatch(files, file)
        for header, files in table.items()
    )


def _of_foreign_headers(file, included):
    """Say what is wrong with an include of something that is neither ours nor C++'s."""
    is_ours = included.startswith(("attention/", "ops/"))
    is_standard = re.fullmatch(r"\w+", included)
    if not (is_ours or is_standard or _allows(FOREIGN, file, included)):
        yield "FOREIGN does not allow that header here"


def _between_parts(file, included):
    """Say what is wrong with an include between attention/, its backends and ops/."""
    backend = _room(included, BACKENDS)
    if file.startswith("attention/"):
        if included.startswith("ops/"):
            yield "attention/ does not know ops/"
        if backend and _room(file, BACKENDS) is None:
            yield "what backends share includes none of them"
        elif backend and _room(file, BACKENDS) != backend:
            yield "backends do not include each other"
    elif included.startswith("attention/") and not _allows(ATTENTION_FOR_OPS, file, included):
        yield "ATTENTION_FOR_OPS does not allow that header here"


def _within_backends(csrc, file, included):
    """Say what is wrong with an include between the folders of one backend."""
    passes = [room for room in _subfolders(csrc, "attention/cpu") if not room.endswith("/units")]
    room, target = _room(file, passes), _room(included, passes)
    if room and target and room != target:
        yield "the folders of cpu/ share headers of cpu/ alone"
    target = _room(included, _subfolders(csrc, "attention/cuda"))
    enters = target and not file.startswith(f"{target}/")
    if enters and file.startswith("attention/cuda/") and file not in CUDA_DOORS:
        yield f"a folder of cuda/ is entered by {' and '.join(sorted(CUDA_DOORS))} alone"


def _violations(csrc):
    return [
        f"{file} includes {included}: {violation}"
        for file, included in _includes(csrc)
        for violation in (
            *_of_foreign_headers(file, included),
            *_between_parts(file, included),
            *_within_backends(csrc, file, included),
        )
    ]


def test_every_folder_keeps_to_its_fences():
    assert len(list(_includes(CSRC))) > 100
    assert _violations(CSRC) == []


@pytest.mark.parametrize(
    ("file", "include", "words"),
    [
        # Headers of others.
        ("attention/cpu/forward.cpp", "<torch/csrc/stable/tensor.h>", "FOREIGN"),
        ("attention/params.h", "<Python.h>", "FOREIGN"),
        ("attention/params.h", "<cuda_runtime.h>", "FOREIGN"),
        ("attention/cpu/forward.cpp", "<cuda_runtime.h>", "FOREIGN"),
        ("attention/cpu/choose.cpp", '"error_keeper.h"', "FOREIGN"),
        ("attention/cuda/ptx.cuh", "<mma.h>", "FOREIGN"),
        ("ops/biased_attention.cpp", "<ATen/ATen.h>", "FOREIGN"),
        ("ops/biased_attention.cpp", "<torch/extension.h>", "FOREIGN"),
        ("ops/biased_attention.cpp", "<cuda_runtime.h>", "FOREIGN"),
        ("ops/python_errors.cpp", "<pybind11/pybind11.h>", "FOREIGN"),
        ("ops/python_errors.cpp", '"error_keeper.h"', "FOREIGN"),
        ("library.cpp", "<Python.h>", "FOREIGN"),
        ("module.cpp", "<torch/csrc/stable/library.h>", "FOREIGN"),
        # The parts of csrc.
        ("attention/params.h", '"ops/biased_attention.h"', "does not know ops/"),
        ("attention/params.h", '"cpu/kernel.h"', "what backends share"),
        ("attention/score_mod.h", '"attention/cuda/math.cuh"', "what backends share"),
        ("attention/cpu/forward.cpp", '"../cuda/forward_params.h"', "each other"),
        ("attention/cuda/forward.cpp", '"../cpu/kernel.h"', "each other"),
        ("ops/biased_attention_cpu.cpp", '"attention/cpu/prefill/tile-inl.h"', "FOR_OPS"),
        ("ops/biased_attention_cpu.cpp", '"attention/cuda/forward.h"', "FOR_OPS"),
        ("ops/biased_attention.cpp", '"attention/cpu/forward.h"', "FOR_OPS"),
        ("ops/biased_attention_cuda.cpp", '"attention/cuda/sm80/launch.h"', "FOR_OPS"),
        ("library.cpp", '"attention/params.h"', "FOR_OPS"),
        # The folders of a backend.
        ("attention/cpu/decode/tile-inl.h", '"../prefill/tile-inl.h"', "share headers of cpu/"),
        ("attention/cpu/prefill/task-inl.h", '"attention/cpu/decode/plan-inl.h"', "share headers"),
        ("attention/cuda/math.cuh", '"sm80/traits.h"', "is entered by"),
    ],
)
def test_a_wrong_include_is_seen(tmp_path, file, include, words):
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    path = csrc / file
    path.write_text(f"#include {include}\n{path.read_text()}")
    (violation,) = _violations(csrc)
    assert violation.startswith(f"{file} includes ")
    assert words in violation
