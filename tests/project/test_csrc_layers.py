# SPDX-License-Identifier: MIT
"""Which C++ folder may include which: the fences of csrc, as import-linter keeps those of Python.

Textual: an include is read as the compiler would find it, from the folder of the file or from csrc.
"""

import re
import shutil
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
CUDA_DOORS = {"attention/cuda/choose.cpp", "attention/cuda/forward.cpp"}


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


def _violations(csrc):
    passes = [room for room in _subfolders(csrc, "attention/cpu") if not room.endswith("/units")]
    kernels = _subfolders(csrc, "attention/cuda")
    found = []
    for file, included in _includes(csrc):
        line = f"{file} includes {included}"
        if file.startswith("attention/") and included.startswith(
            ("torch/", "ATen/", "c10/", "ops/")
        ):
            found.append(f"{line}: attention/ knows neither torch nor ops/")
        room, target = _room(file, passes), _room(included, passes)
        if room and target and room != target:
            found.append(f"{line}: the folders of cpu/ share headers of cpu/ alone")
        target = _room(included, kernels)
        if target and _room(file, kernels) != target and file not in CUDA_DOORS:
            found.append(
                f"{line}: a folder of cuda/ is entered by {' and '.join(CUDA_DOORS)} alone"
            )
    return found


def test_every_folder_keeps_to_its_fences():
    assert len(list(_includes(CSRC))) > 100
    assert _violations(CSRC) == []


@pytest.mark.parametrize(
    ("file", "include", "words"),
    [
        ("attention/cpu/forward.cpp", "<torch/csrc/stable/tensor.h>", "knows neither torch"),
        ("attention/params.h", '"ops/biased_attention.h"', "knows neither torch nor ops/"),
        ("attention/cpu/decode/tile-inl.h", '"../prefill/tile-inl.h"', "share headers of cpu/"),
        ("attention/cpu/prefill/task-inl.h", '"attention/cpu/decode/plan-inl.h"', "share headers"),
        ("attention/cuda/math.cuh", '"sm80/traits.h"', "is entered by"),
        ("ops/biased_attention_cuda.cpp", '"attention/cuda/sm80/launch.h"', "is entered by"),
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
