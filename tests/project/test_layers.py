# SPDX-License-Identifier: MIT
"""The layers of pyproject.toml: imports that must not be are planted, and must be refused."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_gates.spec import tomllib

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "reference.py": ["from guide_ext.op import chunked"],
    "spans.py": ["from guide_ext.op import attention", "from guide_ext.cli import app"],
    "tokens.py": ["from guide_ext.integration import enable"],
    "chat.py": ["from guide_ext.report import document"],
    "op/reference.py": [
        "from guide_ext.op import chunked",
        "from guide_ext.support import values",
    ],
    "op/checks.py": ["from guide_ext.op import reference"],
    "op/libraries.py": ["import matplotlib", "from guide_ext.support import values"],
    "op/dispatch.py": [
        "import transformers",
        "import rich",
        "import ray",
        "import datasets",
        "from pyarrow import parquet",
        "from guide_ext import Steering",
    ],
    "marking/tags.py": [
        "import torch",
        "import numpy",
        "import tokenizers",
        "import safetensors",
        "import markupsafe",
        "from guide_ext.op import checks",
    ],
    "marking/spans.py": ["from guide_ext.spans import parse"],
    "steering/steering.py": [
        "from guide_ext.report import console",
        "from guide_ext.influence import forms",
    ],
    "influence/record.py": [
        "import torch",
        "from guide_ext.influence import forms",
        "from guide_ext.op import chunked",
        "from guide_ext.machine import facts",
    ],
    "calibration/search.py": ["import transformers", "from guide_ext.report import document"],
    "calibration/bootstrap.py": ["from guide_ext.calibration import Calibration"],
    "integration/call/carrier.py": [
        "from guide_ext.integration import enable",
        "from guide_ext.integration.model import state",
        "from guide_ext.integration.influence import state",
    ],
    "integration/model/locate.py": [
        "from guide_ext.integration import streaming",
        "from guide_ext.integration.influence import measure",
    ],
    "integration/influence/state.py": ["from guide_ext.integration import checkpoint"],
    "integration/enable.py": [
        "import peft",
        "import matplotlib",
        "import rich",
        "from guide_ext import report",
    ],
    "report/document.py": [
        "import torch",
        "from guide_ext import integration",
        "from guide_ext.marking import spans",
    ],
    "embedded/world.py": ["from guide_ext import integration"],
    "demo/demo.py": ["import typer", "from guide_ext.studies import study"],
    "cli/calibrate.py": ["import transformers", "from guide_ext.studies import plan"],
    "cli/app.py": ["from guide_ext.demo import demo as again"],
    "studies/plan.py": ["from guide_ext.cli import options"],
    "support/files.py": ["import torch", "import rich", "from guide_ext.marking import tags"],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    shutil.copytree(
        ROOT / "guide_ext",
        folder / "guide_ext",
        ignore=shutil.ignore_patterns("*.so", "*.safetensors"),
    )
    shutil.copy2(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder):
    """Run the linter in a folder; its report where a contract is broken, else nothing."""
    run = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout if done.returncode else ""


def test_the_layers_hold_as_they_are(copy):
    assert lint(copy) == ""


def planted(folder, lines):
    """Return the report of the linter where some files have one more line each."""
    paths = {folder / "guide_ext" / name: line for name, line in lines.items()}
    before = {path: path.read_text(encoding="utf-8") for path in paths}
    try:
        for path, line in paths.items():
            path.write_text(f"{before[path]}\n{line}\n", encoding="utf-8")
        return lint(folder)
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def reports(copy):
    """What is said of the first lines of all files at once, of the second ones, and so on."""
    rounds = itertools.zip_longest(*PLANTED.values())
    return [
        planted(copy, {name: line for name, line in zip(PLANTED, lines, strict=True) if line})
        for lines in rounds
    ]


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in PLANTED.items() for line in lines]
)
def test_a_planted_import_is_refused(reports, name, line):
    module = "guide_ext." + name.removesuffix(".py").replace("/", ".")
    imported = re.escape(line.split()[1])
    report = reports[PLANTED[name].index(line)]
    # Itself, or as the first step of a way to what must not be reached.
    assert re.search(rf"^- +{re.escape(module)} -> {imported}\b", report, re.MULTILINE)


def test_a_circle_is_refused(copy):
    """Between files of one folder, which no other contract forbids."""
    line = "from guide_ext.integration import loading"
    report = planted(copy, {"integration/checkpoint.py": line})
    assert "No circles BROKEN" in report
    assert "No cycles are allowed" in report


def test_a_new_folder_needs_a_place(copy):
    folder = copy / "guide_ext" / "annex"
    folder.mkdir()
    try:
        (folder / "__init__.py").write_text("", encoding="utf-8")
        assert "annex" in lint(copy)
    finally:
        shutil.rmtree(folder)


def test_every_module_that_users_import_has_its_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["id"]: one for one in project["tool"]["importlinter"]["contracts"]}
    modules = {path.stem for path in (ROOT / "guide_ext").glob("*.py")} - {"__init__"}
    assert set(contracts["users"]["source_modules"]) == {f"guide_ext.{name}" for name in modules}
