# SPDX-License-Identifier: MIT
"""What waits until it is used: names of the package, torch, and the op behind it."""

import subprocess
import sys

import pytest

import guide_ext
import guide_ext.integration


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "program",
    [
        "import guide_ext",
        "import guide_ext.spans; guide_ext.spans.parse('<!!->a<-!!>')",
        "from guide_ext import MarkedText, Span, TagError, escape, mark, parse, Encoding",
        "import guide_ext.chat, guide_ext.tokens",
        "from guide_ext.influence import record",
        "from guide_ext.report.influence import page",
        "from guide_ext.report import console, document, narrow",
        "import guide_ext.embedded.world, guide_ext.embedded.evaluate",
        "import guide_ext.cli.app",
        "import guide_ext.studies.report.page",
    ],
)
def test_torch_is_not_imported_for_text(program):
    run(f"import sys\n{program}\nassert 'torch' not in sys.modules")


@pytest.mark.parametrize(
    "imports",
    ["import guide_ext, torch", "import torch, guide_ext", "import guide_ext.spans, torch"],
)
def test_the_op_is_there_whichever_comes_first(imports):
    print_op = "print(torch.ops.guide.biased_attention.default)"
    assert "guide.biased_attention" in run(f"{imports}\n{print_op}")


def test_asking_for_torch_is_not_importing_it():
    program = """
import importlib.util, sys, guide_ext
assert importlib.util.find_spec("torch") is not None and "torch" not in sys.modules
import torch
assert hasattr(torch.ops.guide, "biased_attention")
assert not any("Watcher" in type(finder).__name__ for finder in sys.meta_path)
"""
    run(program)


def test_an_error_behind_an_import_is_a_warning():
    program = """
import sys, warnings
from guide_ext.support.lazy import after_import
after_import("this_is_new", lambda: 1 / 0)
sys.path.insert(0, ".")
import importlib.abc, importlib.machinery
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "this_is_new" else None
    def exec_module(self, module):
        module.value = 3
sys.meta_path.append(Finder())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import this_is_new
print(this_is_new.value, [str(one.message) for one in caught])
"""
    assert run(program).startswith("3 ['guide_ext: ZeroDivisionError after the import of this_is_n")


@pytest.mark.parametrize("name", [*guide_ext.__all__, *guide_ext._MODULES])
def test_every_public_name_is_there_and_listed(name):
    assert getattr(guide_ext, name) is not None
    assert name in dir(guide_ext)


def test_what_is_no_name_raises():
    with pytest.raises(AttributeError, match="module 'guide_ext' has no attribute 'nonsense'"):
        guide_ext.nonsense  # noqa: B018


def test_functions_that_share_a_name_with_a_folder():
    """`integration.influence` and `integration.calibrate` are what users call."""
    assert callable(guide_ext.integration.influence)
    assert callable(guide_ext.integration.calibrate)
