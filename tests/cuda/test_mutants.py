# SPDX-License-Identifier: MIT
"""The emulated tests notice errors in the CUDA kernel: each mutant fails at least one case.

One kernel file is compiled anew for each mutant and linked with the objects of the emulated op.
"""

import _ctypes
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulated_op
import pytest
import torch
from attention_cases import TENSORS, Case, judge
from cuda_mutants import PTX_MUTANTS, SOURCE_MUTANTS, Mutant, mutate_ptx, mutate_source

ROOT = emulated_op.ROOT
NAMESPACE = "guide_mutant"
# The units whose instances the cases run on.
KERNEL, DENSE_KERNEL = "forward_bfloat16_hd128", "dense_forward_hd128"
SCHEDULES = [("in-order", 0), ("reverse", 0), ("random", 1)]


def _cases() -> Iterator[tuple[Case, dict[str, torch.Tensor | None]]]:
    """Draw what a mutant has to get through: every part of the kernel, several blocks each way."""
    base = Case(batch=1, seqlen_q=150, seqlen_k=203, head_dim=128, head_dim_v=128,
                dtype=torch.bfloat16, influence_batch=1, key_bias=(1, 4),
                options={"is_causal": True})  # fmt: skip
    yield base, base.tensors()
    window = base.but(sinks=True, channels=None, q_start=(17,), options={"window_left": 70})
    yield window, window.tensors()
    hidden = base.but(seqlen_q=20, channels=2)
    tensors = hidden.tensors()
    tensors["key_bias"][..., 7:9] = -torch.inf
    tensors["key"][:, :, 7], tensors["key"][:, :, 8] = torch.inf, torch.nan
    yield hidden, tensors
    empty = base.but(seqlen_q=70, seqlen_k=65)
    tensors = empty.tensors()
    tensors["key_bias"].fill_(-torch.inf)
    yield empty, tensors
    tensors = empty.tensors()
    tensors["key_bias"].fill_(torch.finfo(torch.float32).min)
    yield empty, tensors
    dense = base.but(seqlen_q=33, seqlen_k=70, head_dim=101, channels=10, attn_bias=(1, 1),
                     attn_bias_dtype=torch.float32)  # fmt: skip
    tensors = dense.tensors()
    tensors["attn_bias"][..., 3] = -torch.inf
    tensors["key"][:, :, 3] = torch.nan
    yield dense, tensors


def _check(op: emulated_op.EmulatedOp) -> str | None:
    """Run every case under every schedule; return what was noticed first."""
    for policy, seed in SCHEDULES:
        op.set_schedule(policy, seed)
        torch.manual_seed(0)
        for case, tensors in _cases():
            try:
                results = op.run(*(tensors[name] for name in TENSORS), **case.options)
                clean = [t.nan_to_num(0, 0, 0) if n in ("key",) else t
                         for n, t in tensors.items()]  # fmt: skip
                judge(dict(zip(tensors, clean, strict=True)), case.options, results)
            except RuntimeError as error:
                return f"{policy}: {error}"
            except pytest.fail.Exception as failure:
                return f"{policy}: {failure}"
    return None


class Workshop:
    """Compiles and links mutants beside the build of the emulated op."""

    def __init__(self, route: str, folder: Path) -> None:
        emulated_op.emulated_op(route)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.build_dir = emulated_op.BUILD_DIR
        self.route = route
        commands = json.loads((self.build_dir / "compile_commands.json").read_text())
        self.commands = {
            Path(entry["output"]).relative_to(self.build_dir).as_posix(): entry["command"]
            for entry in commands
        }
        self.op_object = self._compile(
            self._unit("emulated_op.cpp"), {f"NAMESPACE={route}": f"NAMESPACE={NAMESPACE}"}, "op.o"
        )

    def _unit(self, name: str) -> str:
        """Return the object, as CMake names it, that a file is compiled to on this route."""
        parts = tuple(f"CMakeFiles/{part}.dir/" for part in (self.route, "emulated_op"))
        (unit,) = [
            unit
            for unit in self.commands
            if unit.startswith(parts) and Path(unit).name == f"{name}.o"
        ]
        return unit

    def _compile(self, unit: str, replace: dict[str, str], output: str) -> Path:
        arguments = shlex.split(self.commands[unit])
        target = self.folder / output
        arguments[arguments.index("-o") + 1] = str(target)
        for old, new in replace.items():
            arguments = [argument.replace(old, new) for argument in arguments]
        done = subprocess.run(
            # Compiled thirty times and run for a moment: what counts is the time of the compiler.
            [*arguments, "-w", "-O0"],
            cwd=self.build_dir,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return target

    def _link(self, name: str, replaced: dict[str, Path]) -> Path:
        """Link the objects of the op, some of them replaced."""
        parts = [f"CMakeFiles/{part}.dir" for part in self._parts()]
        objects = [unit for unit in self.commands if unit.startswith(tuple(parts))]
        chosen = [replaced.get(unit, self.build_dir / unit) for unit in objects]
        library = self.folder / f"{name}.so"
        torch_lib = Path(torch.__file__).parent / "lib"
        subprocess.run(
            [os.environ.get("CXX", "c++"), "-shared", "-o", library, *chosen,
             "-L", torch_lib, "-ltorch_cpu"],
            check=True, capture_output=True,
        )  # fmt: skip
        return library

    def _parts(self) -> list[str]:
        launches = ["ptx_launches"] if self.route == emulated_op.PTX else []
        return [self.route, "cuda_emulator", "emulated_op", *launches]

    def make(self, index: int, mutant: Mutant) -> Path:
        """Build the library of a mutant."""
        op_unit = self._unit("emulated_op.cpp")
        if self.route == emulated_op.SOURCE:
            csrc = self.folder / f"csrc{index}"
            shutil.copytree(ROOT / "csrc", csrc)
            path = csrc / "attention" / "cuda" / mutant.path
            path.write_text(mutate_source(path.read_text(), mutant))
            unit = self._unit(_compiled_file(mutant))
            changed = self._compile(unit, {str(ROOT / "csrc"): str(csrc)}, f"{index}.o")
        else:
            ptx = self.folder / f"{index}.ptx"
            ptx.write_text(mutate_ptx((self.build_dir / f"ptx/{KERNEL}.ptx").read_text(), mutant))
            cpp = ptx.with_suffix(".cpp")
            emulated_op.translate(ptx, cpp)
            unit = self._unit(f"{KERNEL}.cpp")
            original = str(self.build_dir / f"ptx/{KERNEL}.cpp")
            changed = self._compile(unit, {original: str(cpp)}, f"{index}.o")
        return self._link(str(index), {op_unit: self.op_object, unit: changed})


def _compiled_file(mutant: Mutant) -> str:
    """Name the file to compile anew for a mutant of the source."""
    if mutant.path.endswith(".cpp"):
        return mutant.path
    return f"{DENSE_KERNEL if 'dense' in mutant.path else KERNEL}.cu"


# Each takes a compiler a second, and one of the PTX ten: some of every kind; the others are long.
SOME = SOURCE_MUTANTS[::3]
OTHERS = [mutant for mutant in SOURCE_MUTANTS if mutant not in SOME]
ROUTES = [
    pytest.param((emulated_op.SOURCE, SOME), id="source"),
    pytest.param((emulated_op.SOURCE, OTHERS), id="source, others", marks=pytest.mark.long),
    pytest.param((emulated_op.PTX, PTX_MUTANTS[:2]), id="ptx"),
    pytest.param((emulated_op.PTX, PTX_MUTANTS[2:]), id="ptx, others", marks=pytest.mark.long),
]


@pytest.fixture(scope="module", params=ROUTES)
def mutants(request, tmp_path_factory):
    """Build the mutants of a route, a few at a time; give back what there is of each."""
    route, planted = request.param
    try:
        workshop = Workshop(route, tmp_path_factory.mktemp("mutants"))
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        libraries = list(pool.map(workshop.make, range(len(planted)), planted))
    return list(zip(planted, libraries, strict=True))


def _load(library: Path) -> emulated_op.EmulatedOp:
    if not hasattr(getattr(torch.ops, NAMESPACE), "biased_attention"):
        emulated_op.define(NAMESPACE)
    return emulated_op.load(library, NAMESPACE)


def _unload(op: emulated_op.EmulatedOp) -> None:
    """Make room for the next mutant: its registration replaces this one's."""
    _ctypes.dlclose(op.library._handle)


@pytest.mark.parametrize("mutant", SOURCE_MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_can_be_planted(mutant):
    text = (ROOT / "csrc" / "attention" / "cuda" / mutant.path).read_text()
    assert mutate_source(text, mutant) != text


def test_every_mutant_is_noticed(mutants):
    survivors = []
    for mutant, library in mutants:
        op = _load(library)
        if _check(op) is None:
            survivors.append(mutant.name)
        _unload(op)
    assert survivors == []


@pytest.mark.parametrize("route", [emulated_op.SOURCE, emulated_op.PTX])
def test_the_kernel_itself_passes_the_cases_of_the_mutants(route):
    try:
        op = emulated_op.emulated_op(route)
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))
    assert _check(op) is None
