# SPDX-License-Identifier: MIT
"""The wheel and the installed package, made from a copy of the tracked files."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USE = """
import torch, guide_ext, guide_ext.integration as guide
query = torch.ones(1, 1, 2, 8)
print(guide_ext.__file__, guide_ext.__version__, guide_ext.biased_attention(query, query, query)[2])
model, _ = guide.load_embedded()
print(guide.is_enabled(model))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy what git tracks, or would; the tree itself must not change."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    target = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
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
    model = "guide_ext/experiments/embedded/model/"
    for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert model + file in names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_installed_package_works_without_its_source(wheel, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    _run(*install, str(tmp_path / "site"), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    printed = _run(sys.executable, "-c", USE, cwd=tmp_path, env=environment)
    assert str(tmp_path / "site") in printed
    assert "unknown" not in printed
    assert printed.rstrip().endswith("True")
