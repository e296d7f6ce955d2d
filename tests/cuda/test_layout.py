# SPDX-License-Identifier: MIT
"""Which thread holds which element: `ptx.cuh` and the emulator against CuTe, NVIDIA's own word.

The emulator and its tests were written from one reading of the PTX ISA; another opinion finds a
misreading. CuTe's headers come with a wheel that only this test needs, see CONTRIBUTING.md.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_gates import tools

pytest_plugins = ["cuda_emulator_selftest"]

SOURCE = Path(__file__).parents[1] / "cuda_layout" / "cute_layouts.cpp"
PTX = tools.ROOT / "csrc" / "attention" / "cuda" / "ptx.cuh"
ELEMENTS = ["bfloat16", "float16"]
LOADS = ["load_plain", "load_transposed"]


def _cute_include():
    package = importlib.util.find_spec("cutlass_library")
    installed = package.submodule_search_locations if package else []
    for folder in (Path(sys.prefix) / "oracle" / "cutlass_library", *installed):
        if (include := Path(folder) / "source" / "include").is_dir():
            return include
    pytest.skip("no CuTe headers: pip install --no-deps --target .venv/oracle --group oracle")


@pytest.fixture(scope="module")
def cute(tmp_path_factory):
    """Give the layouts of CuTe: [lane, value] -> index of the element."""
    include = _cute_include()
    try:
        compiler, cuda = tools.find_host_compiler(), tools.cuda_includes(tools.find_nvcc())
    except tools.MissingToolError as reason:
        pytest.skip(str(reason))
    program = tmp_path_factory.mktemp("cute") / "layouts"
    flags = ["-std=c++17", "-O0", "-w", f"-I{include}", *cuda]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    layouts = {}
    for line in printed.splitlines():
        name, *indices = line.split()
        layouts[name] = np.array(indices, dtype=int).reshape(32, -1)
    assert len(layouts) == 3 * len(ELEMENTS) + 2 * len(LOADS)
    return layouts


# ---- what ptx.cuh says


def _documented(matrix):
    """Read where mma_m16n8k16 is said to want a matrix: [lane, value] -> (row, column).

    ``a is [g][2t..], [g+8][2t..]; b is [2t, 2t+1][g]``: of each register, the rows and the columns
    of its values. Two dots stand for the number after.
    """
    comment = re.search(r"// sums \+= a @ b.*?\ntemplate", PTX.read_text(), re.S)[0]
    words = " ".join(line.strip("/ ") for line in comment.splitlines())
    sentence = re.search(rf"\b{matrix} (?:is|are) (\[.*?\])[.;]", words)[1]
    places = np.empty((32, 0, 2), dtype=int)
    lane = np.arange(32)
    for rows, columns in re.findall(r"\[([^]]*)\]\[([^]]*)\]", sentence):
        rows, columns = (_numbers(text, lane // 4, lane % 4) for text in (rows, columns))
        rows, columns = np.broadcast_arrays(rows, columns)
        places = np.concatenate([places, np.stack([rows, columns], axis=-1)], axis=1)
    return places[..., 0], places[..., 1]


def _numbers(text, g, t):
    """Evaluate ``2t, 2t+9`` or ``g+8`` for every lane: [lane, number]."""
    if text.endswith(".."):
        text = f"{text[:-2]}, {text[:-2]}+1"
    numbers = []
    for term in text.split(","):
        parsed = re.fullmatch(r"(\d?)([gt])((?:\+\d)*)", term.strip())
        factor, letter, offsets = parsed.groups()
        offset = sum(map(int, offsets.split("+")[1:]))
        numbers.append(int(factor or 1) * (g if letter == "g" else t) + offset)
    return np.stack(numbers, axis=1)


@pytest.mark.parametrize("element", ELEMENTS)
def test_ptx_header_documents_the_fragments_of_cute(cute, element):
    row, k = _documented("a")
    np.testing.assert_array_equal(row + 16 * k, cute[f"{element}.a"])
    k, column = _documented("b")
    np.testing.assert_array_equal(column + 8 * k, cute[f"{element}.b"])
    row, column = _documented("sums")
    np.testing.assert_array_equal(row + 16 * column, cute[f"{element}.sums"])


@pytest.mark.parametrize("load", LOADS)
def test_ptx_header_documents_the_loads_of_cute(cute, load):
    """Lane 8 i + r gives row r of matrix i; register i gets two elements of row or column l / 4."""
    rows = cute[f"{load}.rows"].reshape(4, 8, 8)  # matrix, row, element
    matrices = rows.transpose(0, 2, 1) if load == "load_transposed" else rows
    documented = matrices.reshape(4, 8, 4, 2).transpose(1, 2, 0, 3)  # l / 4, l % 4, i, half
    np.testing.assert_array_equal(documented.reshape(32, 8), cute[f"{load}.registers"])


# ---- what the emulator does


@pytest.mark.emulated
@pytest.mark.parametrize("element", ELEMENTS)
def test_emulator_multiplies_fragments_of_cute(cute, emulator, element):
    """Scatter whole matrices as CuTe would, multiply, gather: small integers, so exactly."""
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-16, 17, shape) for shape in ((16, 16), (16, 8)))
    sums = generator.integers(-1000, 1001, (16, 8))
    layout = {name: cute[f"{element}.{name}"] for name in ("a", "b", "sums")}
    # CuTe's indices run over the rows of a, the columns of b and the rows of sums first.
    factors = [a.T.ravel()[layout["a"]], b.ravel()[layout["b"]]]
    words = [_bits(factor, element).view(np.uint32) for factor in factors]
    start = sums.T.ravel()[layout["sums"]].astype(np.float32).view(np.uint32)
    registers = np.ascontiguousarray(np.concatenate([*words, start], axis=1))
    output = emulator.run(f"multiply_{element}", registers, np.zeros((32, 4), np.float32))
    product = np.full(16 * 8, np.nan)
    product[layout["sums"].ravel()] = output.ravel()
    np.testing.assert_array_equal(product.reshape(8, 16).T, a @ b + sums)


@pytest.mark.emulated
@pytest.mark.parametrize("load", LOADS)
def test_emulator_loads_as_cute(cute, emulator, load):
    rows = cute[f"{load}.rows"].astype(np.uint16)
    output = emulator.run(load, rows, np.zeros((32, 4), np.uint32), 16)
    np.testing.assert_array_equal(output.view(np.uint16), cute[f"{load}.registers"])


def _bits(numbers, element):
    """Return the bits of numbers that the type holds exactly."""
    if element == "float16":
        return numbers.astype(np.float16).view(np.uint16)
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
