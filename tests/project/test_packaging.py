# SPDX-License-Identifier: MIT
"""What is distributed and what is installed from it, made from a copy of the tracked files."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources import METADATA, ROOT, tracked

USE = """
import torch, guide_ext, guide_ext.integration as guide
query = torch.ones(1, 1, 2, 8)
print(guide_ext.__file__, guide_ext.__version__, guide_ext.biased_attention(query, query, query)[2])
model, _ = guide.load_embedded()
print(guide.is_enabled(model))
"""


# Zero queries give every visible key the same attention, whatever the compiler does to sums.
USE_OP = """
import torch, guide_ext
from guide_ext.op import libraries
status = libraries.library_status()
print(libraries.LIBRARY_PATH if status.loaded else status.reason)
query, key, value = torch.zeros(3, 1, 2, 4, 8)
value[0, :, 1], value[0, :, 3] = 1.0, 3.0
bias = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0]).view(1, 1, 4)
out, _, lse = guide_ext.biased_attention(query, key, value, bias)
print(out.unique().tolist(), lse.exp().round().unique().tolist())
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy the sources; the tree itself must not change."""
    target = tmp_path_factory.mktemp("source")
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {"GUIDE_BUILD": "OFF"}  # the compiled parts have their own tests
    build = [*(sys.executable, "-m", "build", "--wheel", "--no-isolation"), "--outdir", str(out)]
    _run(*build, str(source), env=environment)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {Path(name).parts[0].split("-")[0] for name in names} == {"guide_ext"}
    assert "guide_ext/py.typed" in names
    model = "guide_ext/embedded/model/"
    for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert model + file in names
    pages = {"report": ["base.css"], "studies/report": ["study.css"]}
    pages["report/influence"] = ["influence.css", "influence.js", "values.js"]
    pages["serve/page"] = [path.name for path in (ROOT / "guide_ext/serve/page").iterdir()]
    for folder, files in pages.items():
        assert {f"guide_ext/{folder}/{file}" for file in files} <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.long
def test_installed_package_works_without_its_source(wheel, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    _run(*install, str(tmp_path / "site"), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    printed = _run(sys.executable, "-c", USE, cwd=tmp_path, env=environment)
    assert str(tmp_path / "site") in printed
    assert "unknown" not in printed
    assert printed.rstrip().endswith("True")


# ---- the source distribution


@pytest.fixture(scope="module")
def archive(source, tmp_path_factory):
    """Make a source distribution of a tree in which people have worked."""
    pytest.importorskip("build")
    tree = tmp_path_factory.mktemp("worked") / "tree"
    shutil.copytree(source, tree)
    for name in (
        "guide_ext/libguide_ext.so", "guide_ext/libguide_ext.partial", "guide_ext/tests.pyc",
        "tests/__pycache__/test_x.cpython-311.pyc", "build/cmake/x.o", "dist/x.whl",
        "compile_commands.json", "demo_results/results.json", ".venv/bin/python", ".hypothesis/x",
    ):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    out = tmp_path_factory.mktemp("sdist")
    build = [*(sys.executable, "-m", "build", "--sdist", "--no-isolation"), "--outdir", str(out)]
    _run(*build, str(tree))
    (path,) = out.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    """Unpack the source distribution into an empty folder."""
    out = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(archive, out)
    (folder,) = out.iterdir()
    return folder


def test_source_distribution_holds_the_repository_and_nothing_else(archive):
    with tarfile.open(archive) as opened:
        members = [member for member in opened if member.isfile()]
    files = {member.name.partition("/")[2]: member.mode for member in members}
    found = {name for name in files if not name.startswith(METADATA)}
    assert found == set(tracked())
    assert {"csrc/library.cpp", "cmake/find_nvcc.py", "CMakeLists.txt", "Makefile"} <= found
    assert files[".ci/run"] & 0o100


# Not optimised, as compiling takes a tenth of the time so.
QUICK_BUILD = {"GUIDE_CUDA": "OFF", "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=None"}


@pytest.fixture(scope="module")
def built(unpacked, tmp_path_factory):
    """Build the wheel from the source distribution, in an empty folder."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    out = tmp_path_factory.mktemp("built")
    build = [*(sys.executable, "-m", "build", "--wheel", "--no-isolation"), "--outdir", str(out)]
    _run(*build, str(unpacked), env=os.environ | QUICK_BUILD)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.long
def test_op_of_a_wheel_from_the_source_distribution(built, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    _run(*install, str(site), str(built))
    environment = os.environ | {"PYTHONPATH": str(site)}
    printed = _run(sys.executable, "-c", USE_OP, cwd=tmp_path, env=environment)
    library, numbers = printed.splitlines()
    assert Path(library) == site / "guide_ext" / "libguide_ext.so"
    assert numbers == "[2.0] [2.0]"


@pytest.mark.long
def test_editable_build_leaves_no_library_of_an_earlier_one(built, unpacked, tmp_path):
    package = unpacked / "guide_ext"
    (package / "libguide_ext_cuda.so").touch()
    command = [sys.executable, "setup.py", "-q", "editable_wheel", f"--dist-dir={tmp_path}"]
    _run(*command, cwd=unpacked, env=os.environ | QUICK_BUILD)
    (extension,) = package.glob("_C.*.so")
    assert set(package.glob("*.so")) == {extension, package / "libguide_ext.so"}
