# SPDX-License-Identifier: MIT
"""What was built: build info, symbols, instruction sets, and the build's own error messages."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import emulated_op
import pytest
import torch
from attention_cases import Case, naive_attention, oracle

from guide_ext.op import libraries

ROOT = Path(__file__).resolve().parents[2]
IS_ARM = platform.machine() in ("aarch64", "arm64")
# Those that a build for this processor knows, best first.
INSTRUCTION_SETS = [*(["neon"] if IS_ARM else ["amx", "avx512bf16", "avx512", "avx2"]), "portable"]
STATUS = libraries.library_status()
needs_library = pytest.mark.skipif(not STATUS.loaded, reason=STATUS.reason)
OBJECTS = "guide_attention_cpu.dir"
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (binutils)")


# ---- build info


@needs_library
def test_build_info():
    from guide_ext import _C

    info = _C.build_info()
    assert set(info) == {
        "version", "compiler", "torch_target", "instruction_sets", "cuda_architectures",
        "cuda_skipped_because", "git_revision",
    }  # fmt: skip
    assert re.search(rf'^version = "{re.escape(info["version"])}"$', _text("pyproject.toml"), re.M)
    assert re.fullmatch(r"\w+ \d+(\.\d+)*", info["compiler"])
    assert info["torch_target"] == "2.10"
    assert "portable" in info["instruction_sets"]
    assert STATUS.instruction_set in info["instruction_sets"]
    # Either architectures were built or there is a reason, never both.
    assert bool(info["cuda_architectures"]) != bool(info["cuda_skipped_because"])
    assert re.fullmatch(r"([0-9a-f]{7,}(-dirty)?)?", info["git_revision"])


# ---- symbols


def _symbols(path, *flags):
    """List (type, name) of every symbol of a library or an object."""
    listing = subprocess.run(
        ["nm", "--portability", *flags, str(path)], check=True, capture_output=True, text=True
    )
    return [(fields[1], fields[0]) for fields in map(str.split, listing.stdout.splitlines())]


def _kernel_objects(folder="units"):
    objects = sorted(
        (ROOT / "build" / "cmake").glob(f"**/{OBJECTS}/csrc/attention/cpu/{folder}/*.o"),
        key=lambda path: path.stat().st_mtime,
    )
    return {path.name.split(".")[0]: path for path in objects}


@needs_nm
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_instruction_set_objects_share_no_symbol(instruction_set):
    """A definition that two objects share would be linked once, for every processor."""
    path = _kernel_objects().get(instruction_set)
    if path is None:
        pytest.skip(f"no {instruction_set} object under {ROOT / 'build'}")
    table = f"kKernel{instruction_set.capitalize()}"
    libc = {"expf", "logf", "memset", "memcpy", "memmove", "_GLOBAL_OFFSET_TABLE_"}
    for kind, name in _symbols(path):
        is_own_table = name == f"_ZN5guide3cpu{len(table)}{table}E"
        assert kind in "tdrb" or is_own_table or (kind == "U" and name in libc), (kind, name)


# Registers that a processor without the instruction set does not have.
FORBIDDEN = {
    "amx": None,
    "avx512bf16": "tmm",
    "avx512": "tmm",
    "avx2": "[tz]mm",
    "portable": "[tyz]mm",
}
needs_objdump = pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (binutils)")
needs_x86_object = pytest.mark.skipif(platform.machine() != "x86_64", reason="not of x86-64")


def _disassembly(path):
    return subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(path)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@needs_objdump
@needs_x86_object
@pytest.mark.parametrize("instruction_set", [*INSTRUCTION_SETS, "what all share"])
def test_objects_keep_to_their_registers(instruction_set):
    if instruction_set in INSTRUCTION_SETS:
        paths = [_kernel_objects().get(instruction_set)]
    else:
        paths = list(_kernel_objects(folder=".").values())
    if not paths or paths[0] is None:
        pytest.skip(f"no such object under {ROOT / 'build'}")
    forbidden = FORBIDDEN.get(instruction_set, "[tyz]mm")
    if forbidden is not None:
        for path in paths:
            assert re.search(rf"%{forbidden}\d", _disassembly(path)) is None, path


@needs_objdump
@needs_x86_object
def test_tiles_multiply_where_they_should():
    """Two by two tiles from four loads, one by two from three; 16 x 16 x 32 products each."""
    path = _kernel_objects().get("amx")
    if path is None:
        pytest.skip(f"no such object under {ROOT / 'build'}")
    code = _disassembly(path)
    instructions = re.findall(r"\b(?:tile\w+|tdp\w+|\w+tilecfg)\b", code)
    count = {name: instructions.count(name) for name in set(instructions)}
    assert set(count) == {
        "ldtilecfg", "tdpbf16ps", "tileloadd", "tilerelease", "tilestored", "tilezero"
    }  # fmt: skip
    assert count["tdpbf16ps"] == count["tilestored"] == count["tilezero"]
    narrow = count["tileloadd"] - count["tdpbf16ps"]
    wide, rest = divmod(count["tdpbf16ps"] - 2 * narrow, 4)
    # Narrow ones end V; wide ones are its others and, by soft-cap and kind of bias, four of Q K^T.
    assert (narrow >= 1, wide >= 5, rest) == (True, True, 0), count


needs_cuda_library = pytest.mark.skipif(
    not libraries.CUDA_LIBRARY_PATH.exists(), reason="the CUDA library was not built"
)
both_libraries = pytest.mark.parametrize(
    ("path", "shim", "functions"),
    [
        pytest.param(
            libraries.LIBRARY_PATH,
            "torch_library_impl",
            [
                "guide_ext_cpu_choose",
                "guide_ext_cpu_choose_backward",
                "guide_ext_cpu_instruction_set",
                "guide_ext_cpu_switch_on_problem",
            ],
            marks=needs_library,
            id="cpu",
        ),
        pytest.param(
            libraries.CUDA_LIBRARY_PATH,
            "aoti_torch_get_current_cuda_stream",
            ["guide_ext_cuda_choose"],
            marks=needs_cuda_library,
            id="cuda",
        ),
    ],
)


@both_libraries
@needs_nm
def test_library_needs_only_the_stable_shims_and_the_system(path, shim, functions):
    allowed = re.compile(
        r"(aoti_)?torch_\w+"  # C shims of the stable ABI
        r"|.+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+"
        r"|__gmon_start__|_ITM_\w+TMCloneTable"
    )
    symbols = _symbols(path, "--dynamic", "--undefined-only")
    assert any(name == shim for _, name in symbols)
    for kind, name in symbols:
        assert allowed.fullmatch(name), (kind, name)


@both_libraries
@needs_nm
def test_library_exports_a_few_functions(path, shim, functions):
    exported = _symbols(path, "--dynamic", "--defined-only")
    names = sorted(name for kind, name in exported if kind == "T")
    assert names == [*functions, "guide_ext_keep_errors"]


@needs_cuda_library
@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (binutils)")
def test_cuda_library_finds_its_symbols_in_the_torch_that_loads_it():
    dynamic = subprocess.run(
        ["readelf", "--dynamic", str(libraries.CUDA_LIBRARY_PATH)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    assert {"libtorch_cpu.so", "libtorch_cuda.so"} <= needed
    # The CUDA runtime is inside, the driver is asked for at run time.
    assert not any(name.startswith(("libcuda.", "libcudart.")) for name in needed)
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


# ---- instruction sets

CHILD = """
import sys, torch
from guide_ext.op import libraries, registration
calls, answers = torch.load(sys.argv[1]), []
for threads in (1, 2):
    torch.set_num_threads(threads)
    answers.append([torch.ops.guide.biased_attention(**t, **o) for t, o in calls])
torch.save((libraries.library_status().instruction_set, answers), sys.argv[2])
"""

# Each stresses one part of the kernel: ragged tiles, tiles that mix heads, few rows, key splits,
# masks, sinks.
SHARP_CASES = {
    "ragged": Case(seqlen_q=37, seqlen_k=259, head_dim=40, head_dim_v=9, channels=3,
                   options={"is_causal": True}),
    "softcap": Case(seqlen_q=65, seqlen_k=129, options={"softcap": 2.0, "window_left": 40}),
    "bias per head, mixed tiles": Case(seqlen_q=3, seqlen_k=130, num_kv_heads=1, key_bias=(1, 4)),
    "decode": Case(seqlen_q=1, seqlen_k=4200, head_dim=64, sinks=True, channels=2,
                   influence_batch=1, key_bias=(1, 4)),
    "decode, bf16": Case(dtype=torch.bfloat16, num_heads=10, seqlen_q=1, seqlen_k=700, head_dim=72,
                         head_dim_v=40),
    "decode, fp16": Case(dtype=torch.float16, num_heads=7, num_kv_heads=1, seqlen_q=1,
                         seqlen_k=131, head_dim=128, head_dim_v=128, options={"window_left": 100}),
    "few rows": Case(num_kv_heads=1, seqlen_q=5, seqlen_k=257, head_dim_v=130,
                     options={"is_causal": True, "softcap": 2.0}),
    "sinks above the scores": Case(seqlen_q=40, seqlen_k=3, key_bias=None, sinks=True),
    "dense mask": Case(seqlen_q=20, seqlen_k=40, attn_bias=(2, 4), q_start=(3, 21),
                       options={"is_causal": True, "window_right": 5}),
    "bf16": Case(dtype=torch.bfloat16, head_dim=128, head_dim_v=128, seqlen_q=70, seqlen_k=140),
    "bf16, odd": Case(dtype=torch.bfloat16, head_dim=33, head_dim_v=17, seqlen_q=70, seqlen_k=131,
                      channels=3, options={"is_causal": True, "window_left": 50}),
    "bf16, softcap": Case(dtype=torch.bfloat16, head_dim=64, head_dim_v=40, seqlen_q=65,
                          seqlen_k=259, channels=2, key_bias=(1, 4), options={"softcap": 2.0}),
    "fp16": Case(dtype=torch.float16, head_dim=24, head_dim_v=20, seqlen_q=70, seqlen_k=140),
}  # fmt: skip


def _supported_instruction_sets():
    """List what was built and what torch finds in this processor, best first."""
    from guide_ext import _C

    best = torch.backends.cpu.get_cpu_capability()
    found = torch.cpu.get_capabilities()
    with_bf16 = ["avx512bf16"] if found.get("avx512_bf16") else []
    if with_bf16 and found.get("amx_tile") and found.get("amx_bf16"):
        with_bf16 = ["amx", *with_bf16]
    supported = {"AVX512": [*with_bf16, "avx512", "avx2"], "AVX2": ["avx2"]}
    fast = ["neon"] if IS_ARM else supported.get(best, [])
    built = _C.build_info()["instruction_sets"]
    return [name for name in (*fast, "portable") if name in built]


def _run_child(instruction_set, *arguments):
    environment = os.environ | {"GUIDE_EXT_CPU_ISA": instruction_set, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@needs_library
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set_is_right(instruction_set, tmp_path, assert_accurate):
    if instruction_set not in _supported_instruction_sets():
        pytest.skip(f"this build or this processor has no {instruction_set}")
    calls = [(case.tensors(), case.options) for case in SHARP_CASES.values()]
    torch.save(calls, tmp_path / "calls.pt")
    child = _run_child(
        instruction_set, CHILD, str(tmp_path / "calls.pt"), str(tmp_path / "answers.pt")
    )
    assert child.returncode == 0, child.stderr
    used, (alone, threaded) = torch.load(tmp_path / "answers.pt")
    assert used == instruction_set
    for name, (tensors, options), results, again in zip(
        SHARP_CASES, calls, alone, threaded, strict=True
    ):
        truth = oracle(tensors, options)
        naive = naive_attention(tensors, options, SHARP_CASES[name].dtype)
        for part, actual, repeated, expected, plain in zip(
            ("out", "influence_out", "lse"), results, again, truth, naive, strict=True
        ):
            floor = 1.0 if part == "lse" else 0.0
            assert_accurate(actual, expected, plain, f"{name}: {part}", at_least=floor)
            assert torch.equal(actual, repeated), f"{name}: {part} depends on the threads"


# A choice that fails is made again by the next call.
REFUSED_CHILD = """
import os, torch, guide_ext.op.registration
x = torch.ones(1, 1, 1, 1)
for name in ("avx1024", "AVX2"):
    os.environ["GUIDE_EXT_CPU_ISA"] = name
    try:
        torch.ops.guide.biased_attention(x, x, x)
    except RuntimeError as error:
        print(error)
"""


@needs_library
def test_unknown_instruction_sets_are_refused():
    child = _run_child("", REFUSED_CHILD)
    assert child.returncode == 0, child.stderr
    supported = ", ".join(_supported_instruction_sets())
    for name in ("avx1024", "AVX2"):
        assert (
            "guide_ext: GUIDE_EXT_CPU_ISA must name an instruction set that was built and that "
            f"this processor has ({supported}), got '{name}'; unset it to use the best one"
        ) in child.stdout


# ---- the build itself


def _text(name):
    return (ROOT / name).read_text()


def _run_setup(tmp_path, *commands, **environment):
    pytest.importorskip("setuptools", minversion="77")
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}", *commands],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def no_tools(tmp_path):
    """Give a PATH with nothing on it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return str(folder)


def test_missing_compiler_is_explained(tmp_path, no_tools):
    environment = {"PATH": no_tools, "CXX": ""}
    build = _run_setup(tmp_path, "build_ext", f"--build-lib={tmp_path / 'lib'}", **environment)
    assert build.returncode != 0
    assert "no C++ compiler (CXX, c++, g++, clang++)" in build.stderr
    assert "apt-get install g++" in build.stderr
    assert "GUIDE_BUILD=OFF pip install" in build.stderr


def test_build_can_be_switched_off(tmp_path, no_tools):
    """No tool is needed, and no library that lies in the source tree gets in."""
    lib = tmp_path / "lib"
    build = _run_setup(
        tmp_path, "build", f"--build-base={tmp_path}", f"--build-lib={lib}",
        PATH=no_tools, GUIDE_BUILD="OFF",
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    assert (lib / "guide_ext" / "op" / "registration.py").exists()
    assert not list(lib.glob("**/*.so"))


def test_unknown_build_switch_is_refused(tmp_path):
    build = _run_setup(tmp_path, "build", GUIDE_BUILD="maybe")
    assert build.returncode != 0
    assert "GUIDE_BUILD must be ON or OFF, got 'maybe'" in build.stderr


@pytest.fixture
def configure(tmp_path):
    """Give a function that configures a copy of the sources, away from what others have built."""
    source, build = tmp_path / "source", tmp_path / "build"
    for name in ("csrc", "cmake"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, source)
    try:
        cmake, ninja = emulated_op.tool("cmake"), emulated_op.tool("ninja")
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))

    def run(*options):
        command = [
            *(cmake, "-S", source, "-B", build, "-G", "Ninja", "-DGUIDE_CUDA=OFF"),
            *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}", *options),
        ]
        return build, subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def _compiled_units(build):
    """Name the instruction sets whose units a build compiles, and those that its choice knows."""
    commands = json.loads((build / "compile_commands.json").read_text())
    units = {Path(c["file"]).stem for c in commands if Path(c["file"]).parent.name == "units"}
    (choice,) = (c["command"] for c in commands if c["file"].endswith("cpu/choose.cpp"))
    return units, {name.lower() for name in re.findall(r"-DGUIDE_HAS_(\w+)", choice)}


needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the names are those of x86-64"
)


@needs_x86
@pytest.mark.parametrize(
    ("wanted", "built"),
    [
        ("", set(INSTRUCTION_SETS)),
        ("avx2", {"avx2", "portable"}),
        ("avx512;avx2", {"avx512", "avx2", "portable"}),
        ("portable", {"portable"}),
    ],
)
def test_a_developer_builds_a_few_instruction_sets(configure, wanted, built):
    build, done = configure(f"-DGUIDE_INSTRUCTION_SETS={wanted}")
    assert done.returncode == 0, done.stderr
    assert _compiled_units(build) == (built, built)
    in_order = ",".join(name for name in INSTRUCTION_SETS if name in built)
    assert f'GUIDE_INSTRUCTION_SETS=\\"{in_order}\\"' in (build / "build.ninja").read_text()


@needs_x86
def test_an_instruction_set_that_does_not_exist_is_no_build(configure):
    _, done = configure("-DGUIDE_INSTRUCTION_SETS=avx2;avx3")
    assert done.returncode != 0
    assert (
        "GUIDE_INSTRUCTION_SETS must be some of amx, avx512bf16, avx512, avx2, portable, got 'avx3'"
    ) in " ".join(done.stderr.split())


@pytest.mark.long
def test_a_build_of_one_instruction_set_runs(configure, tmp_path):
    """The portable kernels alone; what was not built is not chosen, whatever the processor has."""
    build, done = configure("-DGUIDE_INSTRUCTION_SETS=portable")
    assert done.returncode == 0, done.stderr
    package = tmp_path / "package"
    shutil.copytree(
        ROOT / "guide_ext", package / "guide_ext", ignore=shutil.ignore_patterns("*.so", "model")
    )
    for command in (["--build", build], ["--install", build, "--prefix", package]):
        subprocess.run([emulated_op.tool("cmake"), *command], check=True, capture_output=True)
    program = (
        "import torch, guide_ext; x = torch.ones(1, 1, 1, 1);"
        "print(guide_ext.explain_dispatch(x, x, x), guide_ext._C.build_info()['instruction_sets']);"
        "guide_ext.biased_attention(x, x, x)"
    )
    for forced, printed in ((None, "cpu/portable ['portable']\n"), ("avx2", "none\n")):
        environment = os.environ | {"PYTHONPATH": str(package)}
        environment.pop("GUIDE_EXT_CPU_ISA", None)
        environment |= {"GUIDE_EXT_CPU_ISA": forced} if forced else {}
        child = subprocess.run(
            [sys.executable, "-c", program],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert child.stdout.startswith(printed), child.stderr
        assert (child.returncode == 0) == (forced is None)
    assert (
        "must name an instruction set that was built and that this processor has (portable), got "
        "'avx2'"
    ) in child.stderr


def _find_nvcc(**environment):
    found = subprocess.run(
        [sys.executable, str(ROOT / "cmake" / "find_nvcc.py")],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout


def test_nvcc_is_taken_from_the_environment_first(tmp_path):
    for folder in ("compiler", "toolkit/bin"):
        path = tmp_path / folder / "nvcc"
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    compiler, toolkit = tmp_path / "compiler/nvcc", tmp_path / "toolkit"
    assert _find_nvcc(CUDACXX=str(compiler), CUDA_HOME=str(toolkit)) == str(compiler)
    assert _find_nvcc(CUDACXX="", CUDA_HOME=str(toolkit)) == str(toolkit / "bin/nvcc")
    assert _find_nvcc(CUDACXX=str(tmp_path / "none"), CUDA_HOME=str(toolkit)) == str(
        toolkit / "bin/nvcc"
    )
